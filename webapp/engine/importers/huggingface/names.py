"""Brings the names in a Hugging Face folder into line with the module that transformers builds from its config.

Checkpoints are saved with or without the base model's prefix, by older versions under other names, with heads that the
class does not have, with tied tensors once or twice. Where a prefix settles it, tensors stay on disk; else the
library's own loader converts them, which needs the whole model in memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from webapp.engine.architectures.transformers_family import Transformers, ignorable, tied_by, why_not
from webapp.engine.errors import CheckpointRefused, some
from webapp.engine.importers.base import Opened
from webapp.engine.lazy import torch
from webapp.engine.progress import Report
from webapp.engine.weights.memory import is_want_of_memory
from webapp.engine.weights.safetensors import LazyTensor, write_safetensors

SPARE_TIMES, SPARE_PARAMETERS = 2, 10_000_000  # a tied head; what one class has and another does not


def conform(opened: Opened, filename: str, scratch: Path, report: Report) -> None:
    """Renames, drops and unties in place, a note for each. Nothing where transformers has no such module."""
    if opened.config is None or why_not(opened.config):
        return
    spec = Transformers.describe(opened.config, opened.tensors)
    module: Any = Transformers.skeleton(spec)
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    tied = tied_by(module)
    renamed = _renamed(opened, expected, tied, module.base_model_prefix)
    if renamed is None:
        _refuse_another_size(opened, expected, spec.title, filename)
        report.progress(0.1, "Converting the names of an older version")
        renamed = _converted(opened, type(module), spec.title, filename, scratch)
    both = _resolve_ties(renamed, tied, opened)
    unused = [name for name in renamed if name not in expected]
    worth_saying = [name for name in unused if not ignorable(module, name)]
    if worth_saying:
        opened.notes.append(f"{spec.title} does not use {some(worth_saying)}: left out.")
    opened.tensors = {name: tensor for name, tensor in renamed.items() if name in expected}
    opened.tied = {alias: source for alias, source in both.items() if source in opened.tensors}


def _renamed(
    opened: Opened, expected: Mapping[str, tuple[int, ...]], tied: Mapping[str, str], base: str
) -> dict[str, LazyTensor] | None:
    """The tensors under the module's names if they match as they are, or with the base's prefix put on or taken off."""
    found = opened.tensors | {alias: opened.tensors[source] for alias, source in opened.tied.items()}
    prefix = f"{base}."

    def on(name: str) -> str:
        return name if name in expected or not base else prefix + name

    def off(name: str) -> str:
        return name if name in expected or not base else name.removeprefix(prefix)

    for rename in (str, on, off):
        names = {rename(name) for name in found}
        if all(name in names or tied.get(name) in names or _mates(name, tied) & names for name in expected):
            return {rename(name): tensor for name, tensor in found.items()}
    return None


def _refuse_another_size(opened: Opened, expected: Mapping[str, tuple[int, ...]], title: str, filename: str) -> None:
    """Raises CheckpointRefused where the module has far more parameters than the file: no conversion finds them."""
    held, wanted = (
        sum(math.prod(s) for s in shapes) for shapes in ([t.shape for t in opened.tensors.values()], expected.values())
    )
    if wanted > SPARE_TIMES * held + SPARE_PARAMETERS:
        raise CheckpointRefused(
            f"{filename} holds {held:,} parameters in {len(opened.tensors):,} tensors, and {title} by its config.json "
            f"has {wanted:,} in {len(expected):,}: the config is another model's, or files of weights are missing"
        )


def _mates(source: str, tied: Mapping[str, str]) -> set[str]:
    return {alias for alias, other in tied.items() if other == source}


def _resolve_ties(renamed: dict[str, LazyTensor], tied: Mapping[str, str], opened: Opened) -> dict[str, str]:
    """Keeps each tied tensor once, under the name the library ties to. Returns alias -> that name."""
    kept: dict[str, str] = {}
    for alias, source in tied.items():
        if source not in renamed and alias in renamed:
            renamed[source] = renamed[alias]
        if source not in renamed:
            continue
        if alias in renamed and not _same(renamed[alias], renamed[source]):
            assert opened.config is not None
            opened.config["tie_word_embeddings"] = False
            opened.notes.append(f"{alias} and {source} differ although the config ties them: both are kept, untied.")
            return {}
        renamed.pop(alias, None)
        kept[alias] = source
    return kept


def _same(one: LazyTensor, other: LazyTensor) -> bool:
    if one is other:
        return True
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one.load(), other.load())


def _converted(opened: Opened, kind: Any, title: str, filename: str, scratch: Path) -> dict[str, LazyTensor]:
    """Everything through `from_pretrained`. Raises CheckpointRefused where it finds a tensor missing or misshapen."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    folder = scratch / "converted"
    folder.mkdir()
    (folder / "generation_config.json").write_text("{}")  # its absence makes from_pretrained fail for some types
    write_safetensors(folder / "model.safetensors", opened.tensors, {"format": "pt"})
    try:
        module, loading = kind.from_pretrained(
            folder,
            config=_config_of(opened),
            dtype="auto",
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below
        )
    except (RuntimeError, ValueError, KeyError, TypeError, OSError, AttributeError, IndexError) as error:
        if is_want_of_memory(error):
            raise
        raise CheckpointRefused(
            f"{filename} does not fit {title}, which its config.json names, under any names that transformers knows "
            "for its tensors"
        ) from error
    if mismatched := sorted(loading["mismatched_keys"]):
        name, found, wanted = mismatched[0]
        raise CheckpointRefused(f"{name} has shape {list(found)}; {title} by its config.json expects {list(wanted)}")
    if missing := sorted(loading["missing_keys"]):
        raise CheckpointRefused(f"the weights lack {some(missing)}, which {title} needs")
    opened.notes.append(
        f"The tensors were renamed or converted to the form of {title} in this version of transformers."
    )
    if unexpected := sorted(loading["unexpected_keys"]):
        opened.notes.append(f"{title} does not use {some(unexpected)}: left out.")
    return {
        name: LazyTensor(tuple(value.shape), value.dtype, value.detach().clone)
        for name, value in module.state_dict().items()
    }


def _config_of(opened: Opened) -> Any:
    from webapp.engine.architectures.transformers_family import parsed_config

    assert opened.config is not None
    return parsed_config(opened.config)

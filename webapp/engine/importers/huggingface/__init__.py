"""A Hugging Face folder, zipped or as it lies: config.json, weights in one or several shards, a tokenizer. No code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from webapp.engine.architectures.transformers_family import beyond_any
from webapp.engine.errors import CheckpointRefused, is_text, json_fault, some
from webapp.engine.importers.base import Importer, Opened, UntrustedFile
from webapp.engine.importers.gguf.importance import matrices_among
from webapp.engine.importers.quantized import turn_into_floats, widen
from webapp.engine.importers.state_dict import open_state_dict
from webapp.engine.importers.stored_forms import shown_whole, take_stored
from webapp.engine.plugins import Accepted
from webapp.engine.weights.manifest import MANIFEST
from webapp.engine.weights.safetensors import opened_file

from .files import FROM_KERAS, FolderFiles, files_of
from .names import conform

KEPT = (  # small files that belong to a checkpoint; none of them is code
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "preprocessor_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
)
KEPT_LIMIT_BYTES = 100_000_000  # the largest tokenizer.json known is a third of it
JSON_LIMIT_BYTES = 100_000_000
CONFIG_LIMIT_BYTES = 10_000_000  # 100,000 labels take half of it
NUMBERED = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")
OTHER_FRAMEWORKS = {"tf_model.h5": "TensorFlow's", "flax_model.msgpack": "Flax's"}
KINDS = (("model.safetensors", "*.safetensors"), ("pytorch_model.bin", "*.bin"))


class HuggingFaceImporter(Importer):
    name = "huggingface"
    accepts = Accepted(
        (".zip",),
        "Hugging Face folder",
        "config.json, the weights in one file or in shards, and the tokenizer: the folder itself, or a zip of it.",
    )
    priority = 200  # any zip that is no other format's is taken for a folder
    dequantizes = True

    @classmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        return head[:4] in (b"PK\x03\x04", b"PK\x05\x06")

    @classmethod
    def open(cls, upload: UntrustedFile) -> Opened:
        filename, report = upload.filename, upload.report
        report.progress(0.02, "Looking at its files")
        with files_of(upload.path, filename, KEPT) as files:
            config = _json(files, "config.json", CONFIG_LIMIT_BYTES)
            if not is_text(json.dumps(config, ensure_ascii=False)):
                raise CheckpointRefused(f"the config.json of {filename} holds half of a character, which is no text")
            if too_large := beyond_any(config):
                raise CheckpointRefused(f"the config.json of {filename} has {too_large}, beyond any model there is")
            notes: list[str] = []
            shards, named = _shards(files, filename, notes, upload.only)
            kept = [name for name in KEPT if files.sizes.get(name, KEPT_LIMIT_BYTES + 1) <= KEPT_LIMIT_BYTES]
            if "tokenizer.model" in files.sizes and "tokenizer.json" not in files.sizes:
                notes.append("tokenizer.model is not read; save the fast tokenizer (tokenizer.json) beside it.")
            matrices = matrices_among(files.sizes, notes)
            report.progress(0.05, f"Reading {len(shards)} file{'s' * (len(shards) > 1)} of weights")
            found = files.fetched(shards, [*kept, *matrices], upload.scratch)
        opened = Opened(tensors={}, config=config, files={name: found[name] for name in kept}, notes=notes)
        opened.importance = next(((name, found[name]) for name in matrices), None)
        if upload.path.is_dir():
            opened.sources = {name: upload.path / name for name in ("config.json", *kept, *matrices, *shards)}
        for shard in shards:
            _add(opened, found[shard], shard, named.get(shard, ()))
        _without_remote_code(opened)
        turn_into_floats(opened, filename, upload.dequantize)
        widen(opened, filename)
        if MANIFEST not in opened.metadata:  # else Pare itself wrote the names
            with shown_whole(opened, filename):
                conform(opened, filename, upload.scratch, report)
        return opened


def _json(files: FolderFiles, name: str, limit_bytes: int = JSON_LIMIT_BYTES) -> dict[str, Any]:
    content = files.read(name, limit_bytes)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointRefused(f"{name} in the {files.noun} is {json_fault(error)}") from error
    if not isinstance(value, dict):
        raise CheckpointRefused(f"{name} in the {files.noun} must hold a JSON object")
    return value


def _shards(
    files: FolderFiles, filename: str, notes: list[str], only: str | None
) -> tuple[list[str], dict[str, list[str]]]:
    """The files of weights, all there, and the tensors that an index names in each.

    `only` is the one of them that was named: it is taken, with its other shards. Raises CheckpointRefused that names a
    missing file.
    """
    inside = files.sizes
    named: dict[str, list[str]] = {}
    others = [name for name, pattern in KINDS for name in inside if PurePosixPath(name).match(pattern)]
    for whole, pattern in KINDS:
        if only is not None and not PurePosixPath(only).match(pattern):
            continue
        index, present = f"{whole}.index.json", sorted(name for name in inside if _here(name, pattern))
        if index in inside:
            weight_map = _json(files, index).get("weight_map")
            if not isinstance(weight_map, dict) or not all(map(is_text, weight_map.values())):
                raise CheckpointRefused(f"{index} has no weight_map from tensors to files")
            for tensor, shard in weight_map.items():
                named.setdefault(shard, []).append(tensor)
            shards = sorted(named)
        elif whole in inside:
            shards = [whole]
        elif sets := _numbered(present):
            shards = next((names for names in sets if all(name in inside for name in names)), sets[0])
        elif len(present) == 1:
            shards = present
        else:
            shards = []
        if only is not None and only not in shards:
            [shards], named, index = _numbered([only]) or [[only]], {}, ""
        if not shards:
            continue
        if missing := [name for name in shards if name not in inside]:
            raise CheckpointRefused(
                f"{filename} lacks {missing[0]}, one of the {len(shards)} files of weights that {index} names"
                if index in inside
                else f"{filename} lacks {missing[0]}, one of {len(shards)} files of weights"
            )
        if left := sorted({name for name in others if "/" not in name} - set(shards) - {"training_args.bin"}):
            by_index = f", which {index} names" if index in inside else ""
            notes.append(f"The weights are those of {_listed(shards)}{by_index}; left aside: {_listed(left)}.")
        return shards, named
    if foreign := next((name for name in inside if name in OTHER_FRAMEWORKS), None):
        raise CheckpointRefused(
            f"{filename} has its weights in {foreign} only, which is {OTHER_FRAMEWORKS[foreign]}; {FROM_KERAS}"
        )
    raise CheckpointRefused(
        f"{filename} has a config.json and no weights beside it; "
        "add model.safetensors or pytorch_model.bin, with all its shards"
    )


def _numbered(present: list[str]) -> list[list[str]]:
    """The sets of shards that the names of any of them tell, all that should be there."""
    found = [match for name in present if (match := NUMBERED.fullmatch(name))]
    sets = dict.fromkeys((match["stem"], match["count"], match["suffix"]) for match in found)
    return [[f"{stem}-{n:05}-of-{count}{end}" for n in range(1, int(count) + 1)] for stem, count, end in sets]


def _listed(names: list[str]) -> str:
    """All of a few, in words; the first and the last of many."""
    return ", ".join(names) if len(names) < 4 else f"{len(names)} files, {names[0]} to {names[-1]}"


def _here(name: str, pattern: str) -> bool:
    skipped = ("training_args.bin", "optimizer.bin", "scheduler.bin")
    return "/" not in name and name not in skipped and PurePosixPath(name).match(pattern)


def _add(opened: Opened, path: Path, shard: str, named: Iterable[str]) -> None:
    """One shard's tensors. Raises CheckpointRefused where two shards hold one name, or it lacks one that is `named`."""
    if shard.endswith(".safetensors"):
        metadata, tensors = opened_file(path, shard)
        made = Opened(tensors=tensors)
        take_stored(made, metadata, shard)
        tensors, tied = made.tensors, made.tied if made.stored else {}
        opened.stored |= made.stored
        opened.notes.extend(made.notes)
        if made.stored:
            opened.metadata |= made.metadata
            opened.activations |= made.activations
    else:
        part = open_state_dict(path, shard)
        tensors, tied = part.tensors, part.tied
        opened.notes.extend(part.notes)
    if missing := [name for name in named if name not in tensors and name not in tied]:
        raise CheckpointRefused(
            f"{some(missing, 1)} should be in {shard} by the index of its shards, and {shard} does not hold it: the "
            "files are of two different checkpoints, or one was cut short"
        )
    for name in (*tensors, *tied):
        if name in opened.tensors or name in opened.tied:
            raise CheckpointRefused(f"{name} is in two files of weights; each tensor may be in one")
    opened.tensors.update(tensors)
    opened.tied.update(tied)


def _without_remote_code(opened: Opened) -> None:
    """Takes auto_map out of config.json and tokenizer_config.json: what it points to is never run."""
    found = opened.config is not None and opened.config.pop("auto_map", None) is not None
    tokenizer = opened.files.get("tokenizer_config.json")
    if tokenizer is not None:
        try:
            settings = json.loads(tokenizer.read_bytes())
        except (ValueError, RecursionError):
            settings = None
        if not isinstance(settings, dict):
            del opened.files["tokenizer_config.json"]
            opened.notes.append("tokenizer_config.json is not valid JSON and was left out.")
        elif settings.pop("auto_map", None) is not None:
            found = True
            tokenizer.write_text(json.dumps(settings, indent=2, ensure_ascii=False))
    if found:
        opened.notes.append("Its config points to code of its own (auto_map), which is never run.")

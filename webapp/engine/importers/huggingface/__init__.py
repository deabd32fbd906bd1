"""A zip of a Hugging Face folder: config.json, weights in one or several shards, a tokenizer. No code of its own."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from webapp.engine.architectures.transformers_family import beyond_any
from webapp.engine.archive import extract, members, read_member
from webapp.engine.errors import CheckpointRefused, is_text, json_fault, some
from webapp.engine.importers.base import Importer, Opened, UntrustedFile
from webapp.engine.importers.quantized import turn_into_floats, widen
from webapp.engine.importers.state_dict import open_state_dict
from webapp.engine.plugins import Accepted
from webapp.engine.weights.safetensors import lazy_tensors

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
FROM_KERAS = (
    "put its weights into the same network in PyTorch, and upload what torch.save(model.state_dict(), path) or "
    "save_pretrained writes"
)
OTHER_FRAMEWORKS = {"tf_model.h5": "TensorFlow's", "flax_model.msgpack": "Flax's"}
KINDS = (("model.safetensors", "*.safetensors"), ("pytorch_model.bin", "*.bin"))


class HuggingFaceImporter(Importer):
    name = "huggingface"
    accepts = Accepted(
        (".zip",),
        "Hugging Face folder",
        "A zip of config.json, the weights in one file or in shards, and the tokenizer.",
    )
    priority = 200  # any zip that is no other format's is taken for a folder
    dequantizes = True

    @classmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        return head[:4] in (b"PK\x03\x04", b"PK\x05\x06")

    @classmethod
    def open(cls, upload: UntrustedFile) -> Opened:
        filename, report = upload.filename, upload.report
        report.progress(0.02, "Looking through the archive")
        archive, found = members(upload.path, filename)
        with archive:
            folder = _folder(found, filename)
            inside = {  # path in the folder -> member
                str(PurePosixPath(name).relative_to(folder)): info
                for name, info in found.items()
                if PurePosixPath(name).is_relative_to(folder)
            }
            config = _json(archive, inside["config.json"], "config.json", CONFIG_LIMIT_BYTES)
            if not is_text(json.dumps(config, ensure_ascii=False)):
                raise CheckpointRefused(f"the config.json of {filename} holds half of a character, which is no text")
            if too_large := beyond_any(config):
                raise CheckpointRefused(f"the config.json of {filename} has {too_large}, beyond any model there is")
            notes: list[str] = []
            shards, named = _shards(archive, inside, filename, notes)
            kept = [name for name in KEPT if name in inside and inside[name].file_size <= KEPT_LIMIT_BYTES]
            if "tokenizer.model" in inside and "tokenizer.json" not in inside:
                notes.append("tokenizer.model is not read; save the fast tokenizer (tokenizer.json) beside it.")
            report.progress(0.05, f"Unpacking {len(shards)} file{'s' * (len(shards) > 1)} of weights")
            files = extract(archive, [inside[name] for name in (*shards, *kept)], upload.scratch)
        opened = Opened(
            tensors={},
            config=config,
            files={name: files[inside[name].filename] for name in kept},
            notes=notes,
        )
        for shard in shards:
            _add(opened, files[inside[shard].filename], shard, named.get(shard, ()))
        _without_remote_code(opened)
        turn_into_floats(opened, filename, upload.dequantize)
        widen(opened, filename)
        conform(opened, filename, upload.scratch, report)
        return opened


def _folder(found: Mapping[str, zipfile.ZipInfo], filename: str) -> PurePosixPath:
    """Where config.json lies: the folder itself may be zipped, or what is in it."""
    paths = [PurePosixPath(name) for name in found]
    configs = [path for path in paths if path.name == "config.json" and path.parts[0] != "__MACOSX"]
    if any(path.name == "adapter_config.json" for path in paths) and not configs:
        raise CheckpointRefused(f"{filename} is an adapter, not a model; merge it into its model and zip that folder")
    if any(path.name == "model.weights.h5" for path in paths):
        raise CheckpointRefused(f"{filename} is a Keras archive, whose layers are Python code; {FROM_KERAS}")
    if any(path.name in ("saved_model.pb", "keras_metadata.pb") for path in paths):
        raise CheckpointRefused(f"{filename} is a TensorFlow SavedModel, a program of its own; {FROM_KERAS}")
    if any(path.suffix == ".npy" for path in paths) and not configs:
        raise CheckpointRefused(f"{filename} holds NumPy arrays: upload it as a dataset, not as a checkpoint")
    if not configs:
        raise CheckpointRefused(
            f"{filename} is a zip without a config.json; zip a Hugging Face folder, "
            "or upload the weights file on its own"
        )
    return min(configs, key=lambda path: (len(path.parts), str(path))).parent


def _json(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, limit_bytes: int = JSON_LIMIT_BYTES
) -> dict[str, Any]:
    content = read_member(archive, info, limit_bytes)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointRefused(f"{name} in the archive is {json_fault(error)}") from error
    if not isinstance(value, dict):
        raise CheckpointRefused(f"{name} in the archive must hold a JSON object")
    return value


def _shards(
    archive: zipfile.ZipFile, inside: Mapping[str, zipfile.ZipInfo], filename: str, notes: list[str]
) -> tuple[list[str], dict[str, list[str]]]:
    """The files of weights, all there, and the tensors that an index names in each.

    Raises CheckpointRefused that names a missing file.
    """
    named: dict[str, list[str]] = {}
    others = [name for name, pattern in KINDS for name in inside if PurePosixPath(name).match(pattern)]
    for whole, pattern in KINDS:
        index, present = f"{whole}.index.json", sorted(name for name in inside if _here(name, pattern))
        if index in inside:
            weight_map = _json(archive, inside[index], index).get("weight_map")
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
        tensors, tied = lazy_tensors(path, shard), {}
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

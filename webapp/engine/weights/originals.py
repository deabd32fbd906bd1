"""The weights of an inspected checkpoint: in one file of its own, or in the files that they came in, where these lie.

The folder of an inspected checkpoint holds `model.safetensors`; or, where nothing had to be written anew, `weights/`:
links to the safetensors files as they came, and `index.json`, which says of each tensor in which of them it is, and
under which name. What else is in the folder belongs to the model: its config.json and its tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from webapp.engine.errors import CheckpointRefused

from .safetensors import LazyTensor, file_size, lazy_tensors, opened_file, read_header

WEIGHTS = "model.safetensors"
IN_PLACE = "weights"
INDEX = "index.json"


def is_weights(name: str) -> bool:
    """Whether a path in the folder is of the weights, and of nothing that travels with a result."""
    return name == WEIGHTS or name.startswith(f"{IN_PLACE}/")


def lie_in_files(tensors: Mapping[str, LazyTensor], scratch: Path) -> bool:
    """Whether all of them can be read where they are, as they are, once `scratch` is gone."""
    return all(tensor.place is not None and scratch not in tensor.place.file.parents for tensor in tensors.values())


def write_index(folder: Path, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str]) -> int:
    """Links the files that the tensors lie in, which are not touched. Returns the bytes of one file that held them."""
    place = folder / IN_PLACE
    place.mkdir()
    named: dict[str, tuple[str, str]] = {}
    for name, tensor in tensors.items():
        assert tensor.place is not None
        file, inside = tensor.place
        link = place / file.name
        if not link.is_symlink():
            link.symlink_to(file.resolve())
        named[name] = (file.name, inside)
    (place / INDEX).write_text(json.dumps({"tensors": named, "metadata": dict(metadata)}), encoding="utf8")
    return file_size([tensor.facts(name) for name, tensor in tensors.items()], metadata)[1]


def original_tensors(folder: Path) -> dict[str, LazyTensor]:
    """Of an inspected checkpoint, each read when it is asked for. Raises CheckpointRefused for a file that was changed
    since, so that its header does not say the same."""
    return original_file(folder)[0]


def original_sizes(folder: Path) -> tuple[int, int, int]:
    """(bytes of the file, of its header, of its tensors); of weights that lie in several, of one that held them."""
    path = folder / WEIGHTS
    if path.exists():
        _, stored, header = read_header(path)
        return path.stat().st_size, header, sum(tensor.bytes for tensor in stored.values())
    tensors, metadata = original_file(folder)
    header, size = file_size([tensor.facts(name) for name, tensor in tensors.items()], metadata)
    return size, header, size - header


def original_file(folder: Path) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """The same, and the metadata of the file. Raises CheckpointRefused likewise."""
    place = folder / IN_PLACE
    if not (place / INDEX).exists():
        metadata, tensors = opened_file(folder / WEIGHTS)
        return tensors, metadata
    index = json.loads((place / INDEX).read_text(encoding="utf8"))
    found: dict[str, LazyTensor] = {}
    files: dict[str, dict[str, LazyTensor]] = {}
    for name, (file, inside) in index["tensors"].items():
        if file not in files:
            files[file] = lazy_tensors(place / file, file)
        if inside not in files[file]:
            raise CheckpointRefused(f"{file} does not hold {inside} any more: it was changed since it was taken in")
        found[name] = files[file][inside]
    return found, index["metadata"]

"""Where the files of a Hugging Face folder are read from: a zip of it, or the folder as it lies.

A folder as it lies is only read.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from webapp.engine.archive import MEMBER_LIMIT, extract, members, read_member
from webapp.engine.errors import CheckpointRefused
from webapp.engine.importers.beside import file_size_within
from webapp.engine.importers.gguf.importance import NAMED

FROM_KERAS = (
    "put its weights into the same network in PyTorch, and upload what torch.save(model.state_dict(), path) or "
    "save_pretrained writes"
)
READ = (".json", ".safetensors", ".bin", ".txt", ".jinja", ".model", ".h5", ".msgpack")  # how files end that may matter


def may_matter(name: str) -> bool:
    """Whether a file at the top of a folder is looked at, by its name."""
    return name.endswith(READ) or NAMED.fullmatch(name) is not None


class FolderFiles(ABC):
    """`sizes` has the bytes of each file by its path in the folder, whose config.json is at its top."""

    noun: str  # "archive", or "folder"
    sizes: Mapping[str, int]

    @abstractmethod
    def read(self, name: str, limit_bytes: int) -> bytes:
        """A small file's content. Raises CheckpointRefused where it is larger than that."""

    @abstractmethod
    def fetched(self, weights: Iterable[str], kept: Iterable[str], scratch: Path) -> dict[str, Path]:
        """Where the files of weights can be read, and copies of the others in `scratch`, which may be changed."""


class ZippedFiles(FolderFiles):
    noun = "archive"

    def __init__(self, archive: zipfile.ZipFile, found: Mapping[str, zipfile.ZipInfo], filename: str) -> None:
        self._archive = archive
        folder = _top(found, filename)
        self._infos = {
            str(PurePosixPath(name).relative_to(folder)): info
            for name, info in found.items()
            if PurePosixPath(name).is_relative_to(folder)
        }
        self.sizes = {name: info.file_size for name, info in self._infos.items()}

    def read(self, name: str, limit_bytes: int) -> bytes:
        return read_member(self._archive, self._infos[name], limit_bytes)

    def fetched(self, weights: Iterable[str], kept: Iterable[str], scratch: Path) -> dict[str, Path]:
        wanted = {name: self._infos[name] for name in (*weights, *kept)}
        files = extract(self._archive, wanted.values(), scratch)
        return {name: files[info.filename] for name, info in wanted.items()}


class LyingFiles(FolderFiles):
    """Of a folder of this machine, with those in `below` beside what is at its top."""

    noun = "folder"

    def __init__(self, folder: Path, filename: str, below: Iterable[str] = ()) -> None:
        self._folder = folder
        entries = [entry.name for entry in os.scandir(folder)]
        if len(entries) > MEMBER_LIMIT:
            raise CheckpointRefused(f"{filename} holds {len(entries)} files; a checkpoint has at most {MEMBER_LIMIT}")
        names = [*sorted(entries), *(name for name in below if "/" in name and (folder / name).exists())]
        self.sizes = {
            name: size
            for name in names
            if may_matter(name) and (size := file_size_within(folder, name, filename)) is not None
        }

    def read(self, name: str, limit_bytes: int) -> bytes:
        if self.sizes[name] > limit_bytes:
            raise CheckpointRefused(
                f"{name} in the folder takes {self.sizes[name]} bytes; at most {limit_bytes} are read"
            )
        return (self._folder / name).read_bytes()

    def fetched(self, weights: Iterable[str], kept: Iterable[str], scratch: Path) -> dict[str, Path]:
        found = {name: self._folder / name for name in weights}
        for index, name in enumerate(kept):
            found[name] = scratch / f"{index}{PurePosixPath(name).suffix}"
            shutil.copyfile(self._folder / name, found[name])
        return found


@contextmanager
def files_of(path: Path, filename: str, below: Iterable[str]) -> Iterator[FolderFiles]:
    """Raises CheckpointRefused."""
    if path.is_dir():
        yield LyingFiles(path, filename, below)
        return
    archive, found = members(path, filename)
    with archive:
        yield ZippedFiles(archive, found, filename)


def refuse_foreign(names: Iterable[PurePosixPath], filename: str, described: bool) -> None:
    """Raises CheckpointRefused, by the names in it, for what is of another library, or no model of its own.

    `described`: there is a config.json.
    """
    there = {path.name for path in names}
    if "adapter_config.json" in there and not described:
        raise CheckpointRefused(
            f"{filename} is an adapter, not a model; merge it into its model and take the folder of that"
        )
    if "model.weights.h5" in there:
        raise CheckpointRefused(f"{filename} is a Keras archive, whose layers are Python code; {FROM_KERAS}")
    if there & {"saved_model.pb", "keras_metadata.pb"}:
        raise CheckpointRefused(f"{filename} is a TensorFlow SavedModel, a program of its own; {FROM_KERAS}")
    if any(name.endswith(".npy") for name in there) and not described:
        raise CheckpointRefused(f"{filename} holds NumPy arrays: upload it as a dataset, not as a checkpoint")


def _top(names: Iterable[str], filename: str) -> PurePosixPath:
    """Where config.json lies: the folder itself may be zipped, or what is in it."""
    paths = [PurePosixPath(name) for name in names]
    configs = [path for path in paths if path.name == "config.json" and path.parts[0] != "__MACOSX"]
    refuse_foreign(paths, filename, bool(configs))
    if not configs:
        raise CheckpointRefused(
            f"{filename} is a zip without a config.json; zip a Hugging Face folder, "
            "or upload the weights file on its own"
        )
    return min(configs, key=lambda path: (len(path.parts), str(path))).parent

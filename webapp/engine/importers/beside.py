"""The files that lie beside one that somebody named, in its folder.

A link is followed within the folder, and into the blobs of its own repository in Hugging Face's cache, whose snapshots
are links; one that leads elsewhere could hand out any file of the machine.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from webapp.engine.errors import CheckpointRefused, quoted

BLOBS, SNAPSHOTS = "blobs", "snapshots"  # of Hugging Face's cache


def file_size_within(folder: Path, name: str, filename: str) -> int | None:
    """The bytes of a file of the folder; None for what is no file. Raises CheckpointRefused for a link out of it."""
    path = folder / name
    target = path.resolve()
    try:
        found = target.stat()
    except FileNotFoundError as error:
        raise CheckpointRefused(
            f"{quoted(name)} in {filename} is a link to {quoted(target)}, which is not there; download it again"
        ) from error
    here = folder.resolve()
    allowed = [here, here.parent.parent / BLOBS] if here.parent.name == SNAPSHOTS else [here]
    if not any(target.is_relative_to(parent) for parent in allowed):
        raise CheckpointRefused(
            f"{quoted(name)} in {filename} is a link to {quoted(target)}, which leads out of the folder; "
            "put the file itself there"
        )
    return found.st_size if stat.S_ISREG(found.st_mode) else None


class FilesBeside(Mapping[str, Path]):
    """Those of a folder, looked for as they are asked for; those that were are what it holds.

    Raises CheckpointRefused for a link out of the folder.
    """

    def __init__(self, folder: Path, filename: str) -> None:
        self._folder, self._filename = folder, filename
        self._asked: dict[str, Path] = {}

    def __getitem__(self, name: str) -> Path:
        path = self._folder / name
        there = path.is_symlink() or path.exists()
        if not there or file_size_within(self._folder, name, self._filename) is None:
            raise KeyError(name)
        return self._asked.setdefault(name, path)

    def __iter__(self) -> Iterator[str]:
        return iter(self._asked)

    def __len__(self) -> int:
        return len(self._asked)

"""A folder as one file, for artifacts that are several: stored as they are, for weights hardly shrink any more."""

from __future__ import annotations

import zipfile
from pathlib import Path

BEGINNING = (1980, 1, 1, 0, 0, 0)  # of time, in a zip file: the same files give the same bytes


def zip_folder(folder: Path, target: Path) -> int:
    """Writes everything below `folder` into `target`, under paths relative to it; returns the file's size in bytes."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), BEGINNING)
            entry.external_attr = 0o644 << 16
            with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as written:
                while chunk := source.read(1 << 22):
                    written.write(chunk)
    return target.stat().st_size


def unzip_folder(path: Path, folder: Path) -> None:
    """What `zip_folder` put in."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)

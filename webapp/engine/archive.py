"""Untrusted zip archives: looked through before anything is written, and counted while it is."""

from __future__ import annotations

import errno
import lzma
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath

from .errors import CheckpointRefused, DiskFull, PareError, quoted

MEMBER_LIMIT = 10_000
RATIO_LIMIT = 100  # weights deflate to 90 % or so, JSON to 10 %, zeros to 0.1 %
FREE_OF_RATIO_BYTES = 256 * 2**20  # below this a high ratio does no harm: a pruned model is mostly zeros
CHUNK_BYTES = 2**20

DIRECTORY_LIMIT_BYTES = 64 * 2**20  # of an archive: names, 100,000 of which take a fifth
END = struct.Struct("<4s4H2LH")  # of the directory: its size is the last but two

DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError, ValueError)

Refuse = Callable[[str], PareError]


def members(
    path: Path,
    filename: str,
    refuse: Refuse = CheckpointRefused,
    most: int = MEMBER_LIMIT,
    noun: str = "a checkpoint",
) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """The open archive and its files by name. Raises `refuse` for one that is cut short, hostile, or a bomb."""
    try:
        archive = zipfile.ZipFile(path)
    except (*DAMAGED, OSError) as error:
        raise refuse(f"{filename} is a zip archive that was cut short or damaged; upload it again") from error
    infos = [info for info in archive.infolist() if not info.filename.endswith("/")]
    found = {info.filename: info for info in infos}
    if len(infos) > most:
        raise refuse(f"{filename} holds {len(infos)} files; {noun} has at most {most}")
    if len(found) < len(infos):
        raise refuse(f"{filename} holds two files of the same name")
    for name, info in found.items():
        pure = PurePosixPath(name)
        if not pure.parts or pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in pure.parts[0]:
            raise refuse(f"{filename} holds {quoted(name)}, which leads out of its folder; nothing was unpacked")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise refuse(f"{filename} holds {quoted(name)}, which is a link; only plain files are unpacked")
        if info.flag_bits & 1:
            raise refuse(f"{filename} holds {quoted(name)}, which is encrypted; upload it without a password")
    declared = sum(info.file_size for info in infos)
    if declared > FREE_OF_RATIO_BYTES and declared > RATIO_LIMIT * path.stat().st_size:
        raise refuse(
            f"{filename} is {path.stat().st_size} bytes and would unpack to {declared}; "
            f"Pare unpacks at most {RATIO_LIMIT} times the size"
        )
    return archive, found


def names_in(path: Path) -> tuple[str, ...]:
    """The names in a zip archive; none where it is no archive, or a damaged one."""
    about = path.stat()
    return _names_in(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=1)  # each format looks
def _names_in(path: Path, size: int, changed: int) -> tuple[str, ...]:
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(archive.namelist())
    except (*DAMAGED, OSError):
        return ()


def unpacked_bytes(path: Path, filename: str, refuse: Refuse, limit_bytes: int | None) -> int:
    """The bytes of a file, or of what it holds where it is a zip archive and that is more, as its directory says; of a
    folder that lies here, those of its files.

    Raises `refuse` for an archive of more than `limit_bytes`, and for a directory that would take minutes to read: all
    of it is read before anything else.
    """
    if path.is_dir():
        return sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - END.size - 2**16))
        tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < END.size:
        return size
    directory = END.unpack_from(tail, at)[-3]
    if DIRECTORY_LIMIT_BYTES < directory < min(size, 2**32 - 1):
        raise refuse(
            f"{filename} is a zip archive whose directory takes {directory} bytes; at most {DIRECTORY_LIMIT_BYTES} are "
            "read: put fewer files into it"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            declared = sum(info.file_size for info in archive.infolist())
    except (*DAMAGED, OSError):
        return size
    if limit_bytes is not None and declared > limit_bytes:
        raise refuse(
            f"{filename} would unpack to {declared} bytes; here at most {limit_bytes} are unpacked (max_unpacked_bytes)"
        )
    return max(size, declared)


def extract(
    archive: zipfile.ZipFile, infos: Iterable[zipfile.ZipInfo], folder: Path, refuse: Refuse = CheckpointRefused
) -> dict[str, Path]:
    """Unpacks into `folder` under numbered names: nothing from inside the archive becomes a path. Name -> file.

    Raises DiskFull.
    """
    infos = list(infos)
    needed, free = sum(info.file_size for info in infos), shutil.disk_usage(folder).free
    if needed > free:
        raise DiskFull(f"Unpacking takes {needed} bytes and {free} are free; make room and upload it again.")
    found: dict[str, Path] = {}
    for index, info in enumerate(infos):
        target = folder / f"{index}{''.join(PurePosixPath(info.filename).suffixes[-1:])}"
        _copy(archive, info, target, refuse)
        found[info.filename] = target
    return found


def read_member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit_bytes: int, refuse: Refuse = CheckpointRefused
) -> bytes:
    """A small file's content, in memory. Raises `refuse` where it is larger than `limit_bytes` or damaged."""
    if info.file_size > limit_bytes:
        raise refuse(f"{info.filename} in the archive takes {info.file_size} bytes; at most {limit_bytes} are read")
    with damage_named(info.filename, refuse), archive.open(info) as source:
        return source.read(limit_bytes)


@contextmanager
def damage_named(name: str, refuse: Refuse = CheckpointRefused) -> Iterator[None]:
    """Turns what `zipfile` and its decompressors raise on damaged bytes into a sentence."""
    try:
        yield
    except DAMAGED as error:
        raise refuse(f"{quoted(name)} in the archive is damaged; upload it again") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # an offset before the file's beginning; anything else is about the disk
            raise
        raise refuse(f"{quoted(name)} in the archive is damaged; upload it again") from error


def _copy(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, refuse: Refuse) -> None:
    written = 0
    with damage_named(info.filename, refuse), archive.open(info) as source, target.open("wb") as file:
        while chunk := source.read(CHUNK_BYTES):
            written += len(chunk)
            if written > info.file_size:
                raise refuse(f"{info.filename} unpacks to more than the {info.file_size} bytes it declares")
            file.write(chunk)
    if written != info.file_size:
        raise refuse(f"{info.filename} in the archive ends after {written} of {info.file_size} bytes; upload it again")

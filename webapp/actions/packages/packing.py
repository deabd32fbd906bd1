"""Zips that are the same bytes for the same files: what is large is stored as it is, texts are deflated."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import BinaryIO

LONG_AGO = (1980, 1, 1, 0, 0, 0)
CHUNK_BYTES = 1 << 18


class Outgoing:
    """A file that keeps what is written only until it is taken; zipfile writes into it as into a pipe."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, piece: bytes) -> int:
        self._written.append(bytes(piece))
        return len(piece)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        taken = b"".join(self._written)
        self._written.clear()
        return taken


def pack(folder: str, files: Mapping[str, str | BinaryIO]) -> Iterator[bytes]:
    """The bytes of a zip of `files` (path -> text, or an open file), below one folder, as they come."""
    out = Outgoing()
    with zipfile.ZipFile(out, "w") as archive:  # type: ignore[arg-type]
        for name in sorted(files):
            about = zipfile.ZipInfo(str(PurePosixPath(folder, name)), LONG_AGO)
            about.external_attr = 0o644 << 16
            content = files[name]
            if isinstance(content, str):
                about.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(about, content)
                continue
            with archive.open(about, "w", force_zip64=True) as member:
                while chunk := content.read(CHUNK_BYTES):
                    member.write(chunk)
                    yield out.take()
    yield out.take()

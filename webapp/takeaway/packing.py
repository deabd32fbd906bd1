"""Zips that are the same bytes for the same files: what is large is stored as it is, texts are deflated."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import IO, BinaryIO

LONG_AGO = (1980, 1, 1, 0, 0, 0)
CHUNK_BYTES = 1 << 20


def pack(target: IO[bytes], folder: str, files: Mapping[str, str | BinaryIO]) -> None:
    """Writes `files` (path -> text, or an open file, which is closed) into a zip, below one folder."""
    with zipfile.ZipFile(target, "w") as archive:
        for name in sorted(files):
            about = zipfile.ZipInfo(str(PurePosixPath(folder, name)), LONG_AGO)
            about.external_attr = 0o644 << 16
            content = files[name]
            if isinstance(content, str):
                about.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(about, content)
                continue
            with content, archive.open(about, "w", force_zip64=True) as member:
                while chunk := content.read(CHUNK_BYTES):
                    member.write(chunk)

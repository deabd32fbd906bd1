"""A .safetensors file: read through `safetensors_file`, which accounts for every byte."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import ClassVar

from ..progress import Report
from ..safetensors_file import HEADER_LIMIT_BYTES, lazy_tensors, read_header
from .base import Format, Opened


class Safetensors(Format):
    name: ClassVar[str] = "safetensors"

    @classmethod
    def recognises(cls, upload: Path, head: bytes) -> bool:
        return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= HEADER_LIMIT_BYTES

    @classmethod
    def open(cls, upload: Path, filename: str, scratch: Path, report: Report) -> Opened:
        metadata, _, _ = read_header(upload, filename)
        return Opened(tensors=lazy_tensors(upload, filename), metadata=metadata)

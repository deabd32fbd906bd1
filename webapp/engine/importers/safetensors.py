"""A .safetensors file: read through `safetensors_file`, which accounts for every byte."""

from __future__ import annotations

import struct
from pathlib import Path

from webapp.engine.plugins import Accepted
from webapp.engine.weights.manifest import MANIFEST
from webapp.engine.weights.safetensors import HEADER_LIMIT_BYTES, opened_file

from .base import Importer, Opened, UntrustedFile
from .stored_forms import take_stored


class SafetensorsImporter(Importer):
    name = "safetensors"
    accepts = Accepted(
        (".safetensors",),
        "safetensors",
        "Any tensors. Those of a known architecture become a model that runs; others are weights only. Pare's own file "
        "is what it was, storage forms included.",
    )
    priority = 10

    @classmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= HEADER_LIMIT_BYTES

    @classmethod
    def open(cls, upload: UntrustedFile) -> Opened:
        metadata, tensors = opened_file(upload.path, upload.filename)
        opened = Opened(tensors=tensors, metadata={**metadata})
        opened.metadata.pop(MANIFEST, None)  # put back where it is sound
        take_stored(opened, metadata, upload.filename)
        return opened

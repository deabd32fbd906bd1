"""A .safetensors file: read through `safetensors_file`, which accounts for every byte."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

from webapp.engine.errors import CheckpointRefused
from webapp.engine.plugins import Accepted
from webapp.engine.weights.safetensors import HEADER_LIMIT_BYTES, opened_file

from .base import Importer, Opened, UntrustedFile


class SafetensorsImporter(Importer):
    name = "safetensors"
    accepts = Accepted(
        (".safetensors",),
        "safetensors",
        "Any tensors. Those of a known architecture become a model that runs; others are weights only.",
    )
    priority = 10

    @classmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= HEADER_LIMIT_BYTES

    @classmethod
    def open(cls, upload: UntrustedFile) -> Opened:
        metadata, tensors = opened_file(upload.path, upload.filename)
        _refuse_compressed(metadata, upload.filename)
        return Opened(tensors=tensors, metadata=metadata)


def _refuse_compressed(metadata: Mapping[str, str], filename: str) -> None:
    """Integers and factors that Pare wrote are not weights to compress again: their steps belong into one recipe."""
    try:
        stored = json.loads(metadata.get("pare", "{}")).get("weights", {})
    except (ValueError, AttributeError, RecursionError):
        return  # somebody else's metadata of that name
    if stored:
        raise CheckpointRefused(
            f"{filename} was compressed by Pare already ({len(stored)} weights are sparse, factored or integers); "
            "upload the checkpoint that it was made from, and add the further steps to its recipe"
        )

"""An ONNX file, or a zip of one with its external data: its graph as a program, its initializers as the weights.

Where the graph cannot be run, it still tells what each initializer is multiplied with, so that a matrix (in, out) of
MatMul is known as one.
"""

from __future__ import annotations

from pathlib import Path

from webapp.engine.archive import names_in
from webapp.engine.importers.base import Importer, Opened, UntrustedFile
from webapp.engine.plugins import Accepted

NEWEST = 30  # version of the format, far beyond today's
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


class OnnxImporter(Importer):
    name = "onnx"
    accepts = Accepted(
        (".onnx", ".zip"),
        "ONNX",
        "A graph with its weights, of which integers stay integers; with external data, a zip of all its files.",
    )
    priority = 50
    graph = True
    dequantizes = True

    @classmethod
    def recognises(cls, path: Path, head: bytes) -> bool:
        if head[:4] == b"PK\x03\x04":
            names = names_in(path)
            return any(name.endswith(".onnx") for name in names) and not any(name.endswith(WEIGHTS) for name in names)
        # ir_version, a small number in field 1, and then another field of the message
        return len(head) > 3 and head[0] == 0x08 and 0 < head[1] < NEWEST and head[2] & 7 in (0, 2) and head[2] < 0x80

    @classmethod
    def open(cls, upload: UntrustedFile) -> Opened:
        from .file import open_file

        return open_file(
            upload.path, upload.filename, upload.scratch, upload.report, upload.dequantize, upload.in_place
        )

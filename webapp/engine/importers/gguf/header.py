"""What the header of a GGUF file claims, held against its bytes before anything of that size is read.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. gguf-py reads arrays number by number and believes every
count; here each is skipped in one step.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

from webapp.engine.errors import CheckpointRefused, quoted
from webapp.engine.weights.safetensors import checked_name

KEYS, TENSORS, ELEMENTS = 10_000, 250_000, 5_000_000  # at most; elements of all arrays, a vocabulary's mostly
AXES = 4
TEXT, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def check_header(path: Path, filename: str) -> dict[str, Any]:
    """The values that are one number or one text. Raises CheckpointRefused."""
    with path.open("rb") as file:
        return _Header(file, path.stat().st_size, filename).check()


class _Header:
    def __init__(self, file: Any, size: int, filename: str) -> None:
        self.file, self.size, self.filename = file, size, filename
        self.elements = 0

    def check(self) -> dict[str, Any]:
        self.file.seek(4)
        version, tensors, keys = self._unpack("IQQ")
        if version not in (2, 3):
            big = struct.unpack(">I", struct.pack("<I", version))[0] in (2, 3)
            what = "written for big-endian machines" if big else f"of version {version} of the format"
            raise self._refused(f"is {what}; Pare reads versions 2 and 3, little-endian")
        for what, count, most in (("values", keys, KEYS), ("tensors", tensors, TENSORS)):
            if count > most:
                raise self._refused(f"declares {count} {what}; at most {most} are read")
        values: dict[str, Any] = {}
        for _ in range(keys):
            key = self._text("a key")
            if key in values:
                raise self._refused(f"holds {quoted(key)} twice")
            values[key] = self._value(key, self._unpack("I")[0])
        self._tensors(tensors, values)
        return {key: value for key, value in values.items() if value is not None}

    def _value(self, key: str, kind: int) -> Any:
        """None for an array."""
        if kind in SCALARS:
            return self._unpack(SCALARS[kind])[0]
        if kind == TEXT:
            return self._text(key)
        if kind != ARRAY:
            raise self._refused(f"holds {quoted(key)} as a value of type {kind}, which GGUF does not have")
        of, count = self._unpack("IQ")
        if of == ARRAY:
            raise self._refused(f"holds {quoted(key)} as arrays in an array, which no model has")
        if of != TEXT and of not in SCALARS:
            raise self._refused(f"holds {quoted(key)} as an array of type {of}, which GGUF does not have")
        least = count * (8 if of == TEXT else struct.calcsize("<" + SCALARS[of]))
        self.elements += count
        if least > self._left or self.elements > ELEMENTS:
            raise self._refused(
                f"claims {count} elements in {quoted(key)}, and {self._left} bytes of it are left; at most {ELEMENTS} "
                "are read"
            )
        if of != TEXT:
            self.file.seek(least, 1)
            return None
        for _ in range(count):
            self._skip(self._unpack("Q")[0], key)
        return None

    def _tensors(self, count: int, values: dict[str, Any]) -> None:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        sizes = {int(kind): GGML_QUANT_SIZES[kind] for kind in GGMLQuantizationType}
        alignment = values.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= 2**16 or alignment & (alignment - 1):
            raise self._refused(f"is aligned to {quoted(alignment)} bytes, which is no small power of two")
        ends: list[tuple[str, int]] = []
        names: set[str] = set()
        for _ in range(count):
            name = checked_name(self._text("a tensor's name"), self.filename)
            if name in names:
                raise self._refused(f"holds {name} twice")
            names.add(name)
            (axes,) = self._unpack("I")
            if axes > AXES:
                raise self._refused(f"gives {name} {axes} axes; GGUF has at most {AXES}")
            shape = self._unpack(f"{axes}Q")
            kind, offset = self._unpack("IQ")
            if kind not in sizes:
                raise self._refused(f"holds {name} as type {kind}, which this version of gguf-py does not know")
            block, block_bytes = sizes[kind]
            if max(shape, default=1) >= 2**40 or (shape and shape[0] % block):
                raise self._refused(f"claims the shape {list(shape)} for {name}")
            ends.append((name, offset + math.prod(shape) // block * block_bytes))
        start = -(-self.file.tell() // alignment) * alignment
        for name, end in ends:
            if start + end > self.size:
                raise self._refused(
                    f"is {self.size} bytes, and {name} would end at {start + end}: it was cut short or damaged"
                )

    @property
    def _left(self) -> int:
        return self.size - int(self.file.tell())

    def _unpack(self, form: str) -> tuple[Any, ...]:
        size = struct.calcsize("<" + form)
        raw = self.file.read(size)
        if len(raw) < size:
            raise self._refused("ends inside its header: it was cut short; upload it again")
        return struct.unpack("<" + form, raw)

    def _text(self, what: str) -> str:
        (length,) = self._unpack("Q")
        if length > min(self._left, 2**26):
            raise self._refused(
                f"claims {length} bytes for {quoted(what)}; {self._left} are left: it was cut short or damaged"
            )
        try:
            return str(self.file.read(length), "utf8")
        except UnicodeDecodeError as error:
            raise self._refused(f"holds bytes that are no text where {quoted(what)} should be") from error

    def _skip(self, length: int, key: str) -> None:
        if length > self._left:
            raise self._refused(
                f"claims {length} bytes in {quoted(key)}; {self._left} are left: it was cut short or damaged"
            )
        self.file.seek(length, 1)

    def _refused(self, sentence: str) -> CheckpointRefused:
        return CheckpointRefused(f"{self.filename} {sentence}")

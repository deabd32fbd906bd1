"""Safetensors files, written deterministically and read without trust, one tensor in memory at a time.

The format is eight bytes (little-endian header length), a JSON header padded with spaces to a multiple of eight, then
the raw tensors. `safetensors.torch.save_file` wants every tensor in memory and writes metadata in hash order, so the
same tensors give other bytes from run to run; here the same tensors in the same order always give the same bytes.
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import os
import struct
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from webapp.engine.errors import CheckpointRefused, is_text, json_fault, quoted
from webapp.engine.facts import DTYPE_BYTES, TensorFacts
from webapp.engine.lazy import torch

HEADER_LIMIT_BYTES = 100_000_000  # what the reference implementation accepts
MOST_TENSORS = 250_000  # the largest mixtures of experts have 100,000
MOST_AXES = 64  # of torch
LONGEST_NAME = 1000  # characters
SLICE_BYTES = 1 << 23  # of a tensor in memory while a file is copied

DTYPES = {  # name in the file -> torch's name
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
PACKED = "numbers that share bytes, which Pare does not take apart; upload the weights they were made from"
UNREAD = {"F4": PACKED, "F6_E2M3": PACKED, "F6_E3M2": PACKED, "C64": "complex numbers, which Pare does not compress"}


class TensorPlace(NamedTuple):
    """A safetensors file, and the tensor's name in it."""

    file: Path
    name: str


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is not in memory yet; `load()` gives one of exactly this shape and dtype.

    `part(start, end)`, where there is one, reads only that range of the first axis.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], torch.Tensor]
    part: Callable[[int, int], torch.Tensor] | None = None
    place: TensorPlace | None = None  # where it lies just so

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def slices(self, size_bytes: int = SLICE_BYTES) -> Iterator[torch.Tensor]:
        """Ranges of the first axis, one after the other, of about so many bytes; the whole where there is no `part`."""
        if self.part is None or self.bytes <= size_bytes:
            yield self.load()
            return
        rows = max(1, size_bytes * self.shape[0] // self.bytes)
        for start in range(0, self.shape[0], rows):
            yield self.part(start, min(start + rows, self.shape[0]))

    def turned(self) -> LazyTensor:
        """The transpose. Of two axes."""
        return LazyTensor(self.shape[::-1], self.dtype, lambda: self.load().t().contiguous())

    def facts(self, name: str) -> TensorFacts:
        return _facts(name, self)


def dtype_name(dtype: torch.dtype) -> str:
    """ "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")


def dtype_of(name: str) -> torch.dtype:
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


def write_safetensors(
    path: Path, tensors: Mapping[str, torch.Tensor | LazyTensor], metadata: Mapping[str, str] | None = None
) -> int:
    """Writes to a temporary name beside `path` and renames. Returns the file's size in bytes.

    The header keeps the mapping's order; the data goes widest dtype first, so that every tensor is aligned to its
    own width. A lazy tensor is loaded when its turn comes, slice by slice, and let go after. Raises ValueError for a
    dtype the format has no name for, or a lazy tensor that loads as something else than it declared.
    """
    facts = [_facts(name, tensor) for name, tensor in tensors.items()]
    header, ordered, data_bytes = _layout(facts, metadata or {})
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(header)
            for name in ordered:
                file.writelines(_raw(name, tensors[name]))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return len(header) + data_bytes


class Placed(Protocol):
    """What the header says of a tensor."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def bytes(self) -> int: ...


def file_size(tensors: Sequence[Placed], metadata: Mapping[str, str] | None = None) -> tuple[int, int]:
    """(bytes before the first tensor, bytes of the whole file) that `write_safetensors` would write."""
    header, _, data_bytes = _layout(tensors, metadata or {})
    return len(header), len(header) + data_bytes


def _layout(tensors: Sequence[Placed], metadata: Mapping[str, str]) -> tuple[bytes, list[str], int]:
    """The header with its length in front, the order of the data, and the bytes of the data."""
    ordered = sorted(tensors, key=lambda tensor: -DTYPE_BYTES.get(tensor.dtype, 0))
    offsets: dict[str, list[int]] = {}
    end = 0
    for tensor in ordered:
        if tensor.dtype not in NAMES:
            raise ValueError(f"{tensor.name} is {tensor.dtype}, which a safetensors file cannot hold")
        start, end = end, end + tensor.bytes
        offsets[tensor.name] = [start, end]
    entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    for tensor in tensors:
        about = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets[tensor.name]}
        entries[tensor.name] = about
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header, [tensor.name for tensor in ordered], end


def _facts(name: str, tensor: torch.Tensor | LazyTensor) -> TensorFacts:
    return TensorFacts.model_construct(name=name, shape=tuple(tensor.shape), dtype=dtype_name(tensor.dtype))


def _raw(name: str, tensor: torch.Tensor | LazyTensor) -> Iterator[memoryview]:
    """The bytes, slice by slice."""
    shape, dtype = tuple(tensor.shape), tensor.dtype
    rows = 0
    for value in tensor.slices() if isinstance(tensor, LazyTensor) else [tensor]:
        if (tuple(value.shape[1:]), value.dtype) != (shape[1:], dtype) or len(value.shape) != len(shape):
            loaded = (tuple(value.shape), value.dtype)
            raise ValueError(f"{name} was declared as {(shape, dtype)} and loaded as {loaded}")
        rows += len(value) if shape else 1
        if value.numel():
            yield as_bytes(value)
    if shape and rows != shape[0]:
        raise ValueError(f"{name} was declared with {shape[0]} rows and loaded with {rows}")


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """The values of a tensor that has some, as they lie in a file."""
    return tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy().data


def read_header(path: Path, filename: str | None = None) -> tuple[dict[str, str], dict[str, TensorFacts], int]:
    """(metadata, tensors by name in the file's order, bytes before the first tensor).

    Raises CheckpointRefused, with what is wrong, unless every byte of the file is accounted for exactly once;
    `filename` is what its sentence calls the file.
    """
    metadata, entries, header_bytes = _parse(path, filename or path.name)
    return metadata, {name: facts for name, (facts, _) in entries.items()}, header_bytes


def lazy_tensors(path: Path, filename: str | None = None) -> dict[str, LazyTensor]:
    """The file's tensors, each read when it is asked for. Raises CheckpointRefused as `read_header` does."""
    return opened_file(path, filename)[1]


def opened_file(path: Path, filename: str | None = None) -> tuple[dict[str, str], dict[str, LazyTensor]]:
    """(metadata, tensors), as `read_header` and `lazy_tensors` give them."""
    metadata, entries, header_bytes = _parse(path, filename or path.name)

    return metadata, {name: _lazy(path, facts, header_bytes + start) for name, (facts, start) in entries.items()}


def same_tensors(ours: Mapping[str, LazyTensor], theirs: Mapping[str, LazyTensor]) -> bool:
    """Whether they have the same values under the same names."""
    return ours.keys() == theirs.keys() and all(
        (tensor.shape, tensor.dtype) == (theirs[name].shape, theirs[name].dtype)
        and all(mine == yours for mine, yours in zip(_raw(name, tensor), _raw(name, theirs[name]), strict=True))
        for name, tensor in ours.items()
    )


def _lazy(path: Path, facts: TensorFacts, start: int) -> LazyTensor:
    dtype: torch.dtype = getattr(torch, facts.dtype)

    def load() -> torch.Tensor:
        return _read(path, facts.name, facts.shape, dtype, start)

    def part(first: int, end: int) -> torch.Tensor:
        row = facts.bytes // facts.shape[0]
        return _read(path, facts.name, (end - first, *facts.shape[1:]), dtype, start + first * row)

    return LazyTensor(facts.shape, dtype, load, part if facts.size else None, TensorPlace(path, facts.name))


def _read(path: Path, name: str, shape: tuple[int, ...], dtype: torch.dtype, start: int) -> torch.Tensor:
    found = torch.empty(shape, dtype=dtype)
    if not found.numel():
        return found
    raw = as_bytes(found)
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        read = 0
        while read < len(raw):
            more = file.readinto(raw[read:])
            if not more:
                raise CheckpointRefused(f"{path.name} ends inside {name}: the file was cut short")
            read += more
    return found


def _parse(path: Path, filename: str) -> tuple[dict[str, str], dict[str, tuple[TensorFacts, int]], int]:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if length < 2 or length > HEADER_LIMIT_BYTES:
            raise CheckpointRefused(f"{filename} is not a safetensors file: it declares a header of {length} bytes")
        if 8 + length > size:
            raise CheckpointRefused(
                f"{filename} was cut short: its header takes {length} bytes and the file has only {size}; "
                "upload it again"
            )
        raw = file.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointRefused(f"{filename} has a safetensors header that is {json_fault(error)}") from error
    if not isinstance(header, dict):
        raise CheckpointRefused(f"{filename} has a safetensors header that is not a JSON object")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(is_text(value) for item in metadata.items() for value in item):
        raise CheckpointRefused(f"{filename} has metadata that is not text: every value must be a string")
    if len(header) > MOST_TENSORS:
        raise CheckpointRefused(f"{filename} holds {len(header)} tensors; at most {MOST_TENSORS} are read")
    entries = {name: _entry(filename, name, entry) for name, entry in header.items()}
    _account_for_every_byte(filename, entries, size - 8 - length)
    return metadata, entries, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = Counter(names).most_common(1)[0][0]
        raise CheckpointRefused(f"the safetensors header names {quoted(twice)} twice; each tensor may be named once")
    return found


def checked_name(name: str, filename: str) -> str:
    """A tensor's name as it is. Raises CheckpointRefused for one that no page could show."""
    if len(name) > LONGEST_NAME or not (name.isprintable() or all(unicodedata.category(c)[0] != "C" for c in name)):
        raise CheckpointRefused(
            f"{filename} names a tensor {quoted(name)} ({len(name)} characters); names are text without control "
            f"characters, of at most {LONGEST_NAME}"
        )
    return name


def _entry(file: str, name: str, entry: Any) -> tuple[TensorFacts, int]:
    checked_name(name, file)
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = all(type(number) is int and number >= 0 for number in [*shape, start, end])
    except (TypeError, KeyError, ValueError):
        whole = False
    if not whole:
        raise CheckpointRefused(f"{name} in {file} has no valid dtype, shape and data_offsets")
    if len(shape) > MOST_AXES or math.prod(size or 1 for size in shape) >= 2**63:
        axes = f"{len(shape)} axes" if len(shape) > MOST_AXES else f"the shape {list(shape)}"[:200]
        raise CheckpointRefused(f"{name} in {file} claims {axes}, which no tensor has")
    if isinstance(dtype, str) and dtype in UNREAD:
        raise CheckpointRefused(f"{name} in {file} is of dtype {dtype}, {UNREAD[dtype]}")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointRefused(f"{name} in {file} is of dtype {quoted(dtype)}; Pare reads {', '.join(DTYPES)}")
    facts = TensorFacts.model_construct(name=name, shape=tuple(shape), dtype=DTYPES[dtype])  # checked above
    if facts.bytes != end - start:
        raise CheckpointRefused(
            f"{name} in {file} has shape {list(shape)} of {dtype}, which is {facts.bytes} bytes, "
            f"but its data_offsets span {end - start}"
        )
    return facts, start


def _account_for_every_byte(file: str, entries: Mapping[str, tuple[TensorFacts, int]], size: int) -> None:
    end, before = 0, "the header"
    for name, (facts, start) in sorted(entries.items(), key=lambda item: (item[1][1], item[1][0].bytes)):
        if start < end:
            raise CheckpointRefused(f"{name} in {file} overlaps {before}: their data_offsets share bytes")
        if start > end:
            raise CheckpointRefused(f"{file} has {start - end} bytes between {before} and {name} that belong to none")
        end, before = start + facts.bytes, name
    if end > size:
        raise CheckpointRefused(
            f"{file} was cut short: its tensors take {end} bytes and only {size} are there; upload it again"
        )
    if end < size:
        raise CheckpointRefused(f"{file} has {size - end} bytes after the last tensor that belong to none")


assert set(DTYPES.values()) == set(DTYPE_BYTES)

"""The tensors of an ONNX file as they lie in it or beside it. None is in memory yet.

https://github.com/onnx/onnx/blob/main/docs/IR.md and ExternalData.md
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from webapp.engine.errors import CheckpointRefused, quoted
from webapp.engine.importers.widening import WIDER, wider
from webapp.engine.lazy import torch
from webapp.engine.weights.safetensors import MOST_AXES, LazyTensor, dtype_name

ELEMENTS = {  # TensorProto.DataType -> ours, and the field that holds values which are not raw
    1: (torch.float32, "float_data"),
    2: (torch.uint8, "int32_data"),
    3: (torch.int8, "int32_data"),
    5: (torch.int16, "int32_data"),
    6: (torch.int32, "int32_data"),
    7: (torch.int64, "int64_data"),
    9: (torch.bool, "int32_data"),
    10: (torch.float16, "int32_data"),
    11: (torch.float64, "double_data"),
    16: (torch.bfloat16, "int32_data"),
    4: (torch.uint16, "int32_data"),
    12: (torch.uint32, "uint64_data"),
    13: (torch.uint64, "uint64_data"),
    17: (torch.float8_e4m3fn, "int32_data"),
    18: (torch.float8_e4m3fnuz, "int32_data"),
    19: (torch.float8_e5m2, "int32_data"),
    20: (torch.float8_e5m2fnuz, "int32_data"),
    24: (torch.float8_e8m0fnu, "int32_data"),
}


def lazy_tensor(tensor: Any, beside: Mapping[str, Path], filename: str) -> LazyTensor:
    """Of a dtype that is computed with. Raises CheckpointRefused for one that does not hold what it claims."""
    found = _lazy(tensor, beside, filename)
    return wider(tensor.name, found, filename) if dtype_name(found.dtype) in WIDER else found


def _lazy(tensor: Any, beside: Mapping[str, Path], filename: str) -> LazyTensor:
    dtype, field = ELEMENTS[tensor.data_type]
    shape = tuple(int(size) for size in tensor.dims)
    wanted = math.prod(shape) * dtype.itemsize
    if len(shape) > MOST_AXES:
        raise CheckpointRefused(f"{tensor.name} in {filename} claims {len(shape)} axes, which no tensor has")
    if min(shape, default=0) < 0 or max(*shape, wanted, 0) > 2**46:
        raise CheckpointRefused(f"{tensor.name} in {filename} claims the shape {list(shape)}")
    if tensor.data_location == 1:
        return LazyTensor(shape, dtype, _external(tensor, beside, wanted, filename, shape, dtype))
    held = len(tensor.raw_data) if tensor.HasField("raw_data") else len(getattr(tensor, field)) * dtype.itemsize
    if held != wanted:
        raise CheckpointRefused(
            f"{tensor.name} in {filename} claims the shape {list(shape)}, which takes {wanted} bytes, and holds {held}"
        )
    if tensor.HasField("raw_data"):
        return LazyTensor(shape, dtype, lambda: _raw(tensor.raw_data, shape, dtype))
    return LazyTensor(shape, dtype, lambda: _listed(list(getattr(tensor, field)), shape, dtype))


def constant_tensor(tensor: Any, beside: Mapping[str, Path], filename: str) -> LazyTensor | None:
    """Of a node; None for one of a type that holds no numbers."""
    return lazy_tensor(tensor, beside, filename) if tensor.data_type in ELEMENTS else None


def _raw(content: bytes, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    if not content:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(dtype).reshape(shape)


def _listed(values: list[Any], shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    if dtype.is_floating_point and dtype.itemsize < 4:  # their bits, each in a whole number
        bits = torch.int16 if dtype.itemsize == 2 else torch.uint8
        return torch.tensor(values, dtype=torch.int32).to(bits).view(dtype).reshape(shape)
    return torch.tensor(values, dtype=dtype).reshape(shape)


def _external(
    tensor: Any, beside: Mapping[str, Path], wanted: int, filename: str, shape: tuple[int, ...], dtype: torch.dtype
) -> Callable[[], torch.Tensor]:
    about = {entry.key: entry.value for entry in tensor.external_data}
    location = about.get("location", "")
    pure = PurePosixPath(location)
    if not location or pure.is_absolute() or ".." in pure.parts or "\\" in location or ":" in location:
        raise CheckpointRefused(
            f"{tensor.name} in {filename} lies at {quoted(location)}, which leads out of its folder"
        )
    if str(pure) not in beside:
        raise CheckpointRefused(
            f"{filename} keeps {tensor.name} in a file beside it, {quoted(location)}; upload a zip that holds both"
        )
    path = beside[str(pure)]
    offset, length = (_number(about.get(key), default) for key, default in (("offset", 0), ("length", wanted)))
    if offset < 0 or length != wanted or offset + length > path.stat().st_size:
        raise CheckpointRefused(
            f"{tensor.name} in {filename} takes {wanted} bytes; {location[:80]} has {length} for it from {offset} on, "
            f"and {path.stat().st_size} in all"
        )

    def load() -> torch.Tensor:
        with path.open("rb") as file:
            file.seek(offset)
            return _raw(file.read(wanted), shape, dtype)

    return load


def _number(text: str | None, default: int) -> int:
    if text is None:
        return default
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1

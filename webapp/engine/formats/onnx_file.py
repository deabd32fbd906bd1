"""An ONNX file, or a zip of one with its external data: its initializers as a checkpoint. Its graph is not run.

The graph tells what each initializer is multiplied with, so that a matrix (in, out) of MatMul is known as one.
https://github.com/onnx/onnx/blob/main/docs/IR.md and ExternalData.md
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import torch

from ..errors import CheckpointRefused
from ..facts import LayerFacts, LayerKind
from ..progress import Report
from ..safetensors_file import LazyTensor
from .archive import DAMAGED, extract, members
from .base import Format, Opened

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
}
LARGEST = 2**31 - 1  # bytes of a protobuf message
NEWEST = 30  # version of the format, far beyond today's
QUANTIZED = ("DequantizeLinear", "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv", "MatMulNBits")
BECAUSE = (
    "The graph of an ONNX file is not run here: its weights are compressed and delivered as safetensors. "
    "Upload the module as an exported program (.pt2) to have it run and scored."
)
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


class Onnx(Format):
    name: ClassVar[str] = "onnx"

    @classmethod
    def recognises(cls, upload: Path, head: bytes) -> bool:
        if head[:4] == b"PK\x03\x04":
            names = _names(upload)
            return any(name.endswith(".onnx") for name in names) and not any(name.endswith(WEIGHTS) for name in names)
        # ir_version, a small number in field 1, and then another field of the message
        return len(head) > 3 and head[0] == 0x08 and 0 < head[1] < NEWEST and head[2] & 7 in (0, 2) and head[2] < 0x80

    @classmethod
    def open(cls, upload: Path, filename: str, scratch: Path, report: Report) -> Opened:
        beside: dict[str, Path] = {}
        if zipfile.is_zipfile(upload):
            upload, beside = _unpacked(upload, filename, scratch)
        graph = _graph(upload, filename)
        if used := sorted({node.op_type for node in graph.node} & set(QUANTIZED)):
            raise CheckpointRefused(f"{filename} is quantized already ({used[0]}); upload the model it was made from")
        tensors, left = {}, []
        for tensor in graph.initializer:
            if tensor.data_type not in ELEMENTS:
                left.append(tensor.name)
            elif tensor.name in tensors or not tensor.name:
                raise CheckpointRefused(f"{filename} holds two initializers called {tensor.name!r}")
            else:
                tensors[tensor.name] = _tensor(tensor, beside, filename)
        if not tensors:
            raise CheckpointRefused(f"{filename} holds no initializers: its weights are in its nodes, or not there")
        notes = [f"Left out, of types that hold no weights: {', '.join(left[:5])}."] if left else []
        layers = tuple(_layers(graph, tensors))
        return Opened(
            tensors, notes=notes, weights_only_because=BECAUSE, layers=layers, infinite=_constants(tensors, layers)
        )


def _names(upload: Path) -> list[str]:
    try:
        with zipfile.ZipFile(upload) as archive:
            return archive.namelist()
    except (*DAMAGED, OSError):
        return []


def _unpacked(upload: Path, filename: str, scratch: Path) -> tuple[Path, dict[str, Path]]:
    """The model, and the other files by their paths from where it lies."""
    archive, found = members(upload, filename)
    with archive:
        models = [name for name in found if name.endswith(".onnx")]
        if len(models) != 1:
            raise CheckpointRefused(f"{filename} holds {len(models)} ONNX files; zip one with its external data")
        folder = PurePosixPath(models[0]).parent
        files = extract(archive, found.values(), scratch)
    inside = {name: path for name, path in files.items() if PurePosixPath(name).is_relative_to(folder)}
    return files[models[0]], {str(PurePosixPath(name).relative_to(folder)): path for name, path in inside.items()}


def _graph(path: Path, filename: str) -> Any:
    from google.protobuf.message import DecodeError
    from onnx import ModelProto

    if path.stat().st_size > LARGEST:
        raise CheckpointRefused(
            f"{filename} is larger than 2 GiB, which an ONNX file cannot be; keep its data beside it"
        )
    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except (DecodeError, RecursionError) as error:
        raise CheckpointRefused(f"{filename} is no ONNX file, or it was cut short; upload it again") from error
    if not model.HasField("graph"):
        raise CheckpointRefused(f"{filename} is an ONNX file without a graph, or another protobuf message")
    return model.graph


def _tensor(tensor: Any, beside: Mapping[str, Path], filename: str) -> LazyTensor:
    dtype, field = ELEMENTS[tensor.data_type]
    shape = tuple(int(size) for size in tensor.dims)
    wanted = math.prod(shape) * dtype.itemsize
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


def _raw(content: bytes, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    if not content:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(dtype).reshape(shape)


def _listed(values: list[Any], shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    if dtype in (torch.float16, torch.bfloat16):  # their bits, each in a whole number
        return torch.tensor(values, dtype=torch.int32).to(torch.int16).view(dtype).reshape(shape)
    return torch.tensor(values, dtype=dtype).reshape(shape)


def _external(
    tensor: Any, beside: Mapping[str, Path], wanted: int, filename: str, shape: tuple[int, ...], dtype: torch.dtype
) -> Callable[[], torch.Tensor]:
    about = {entry.key: entry.value for entry in tensor.external_data}
    location = about.get("location", "")
    pure = PurePosixPath(location)
    if not location or pure.is_absolute() or ".." in pure.parts or "\\" in location or ":" in location:
        raise CheckpointRefused(f"{tensor.name} in {filename} lies at {location[:80]!r}, which leads out of its folder")
    if str(pure) not in beside:
        raise CheckpointRefused(
            f"{filename} keeps {tensor.name} in a file beside it, {location[:80]}; upload a zip that holds both"
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


def _layers(graph: Any, tensors: Mapping[str, LazyTensor]) -> list[LayerFacts]:
    """The matrices and kernels by what is done with them, in the graph's order."""
    found: dict[str, LayerFacts] = {}
    for node in graph.node:
        place = 0 if node.op_type == "Gather" else 1
        weight = node.input[place] if len(node.input) > place else ""
        if weight not in tensors or weight in found or not tensors[weight].dtype.is_floating_point:
            continue
        options = {option.name: option.i for option in node.attribute}
        shape = tensors[weight].shape
        kind: LayerKind
        match node.op_type, len(shape):
            case "MatMul", 2:
                kind, turned = "linear", True
            case "Gemm", 2:
                kind, turned = "linear", not options.get("transB", 0)
            case "Conv", 3 | 4:
                kind, turned = "conv", False
            case "Gather", 2 if not options.get("axis", 0):
                kind, turned = "embedding", False
            case _:
                continue
        groups = max(1, int(options.get("group", 1))) if kind == "conv" else 1
        name = weight.removesuffix(".weight")
        found[weight] = LayerFacts(name=name, weight=weight, kind=kind, shape=shape, transposed=turned, groups=groups)
    return list(found.values())


def _constants(tensors: Mapping[str, LazyTensor], layers: tuple[LayerFacts, ...]) -> frozenset[str]:
    return frozenset(tensors) - {layer.weight for layer in layers}

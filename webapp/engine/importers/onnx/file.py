"""An ONNX file read: its graph as a program where it can be run, else what each initializer is multiplied with."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from webapp.engine.archive import extract, members
from webapp.engine.errors import CheckpointRefused, quoted
from webapp.engine.facts import LayerFacts, LayerKind
from webapp.engine.importers.base import Opened
from webapp.engine.importers.beside import FilesBeside
from webapp.engine.importers.exported_program.running import opened_program
from webapp.engine.importers.exported_program.serialized import NotRun
from webapp.engine.importers.quantized import ASK, UPLOAD_INSTEAD, WIDER, wider
from webapp.engine.lazy import torch
from webapp.engine.progress import Report
from webapp.engine.weights.activations import Activations
from webapp.engine.weights.manifest import MANIFEST, manifest_in
from webapp.engine.weights.safetensors import MOST_AXES, LazyTensor, dtype_name

from .graph import FlatGraph, Graph, flattened, graph_of
from .integer_tensors import dequantized_notes, keep_stored
from .integer_weights import undecoded, with_integers
from .roundings import Roundings, with_roundings, without_roundings
from .tracing import FAILURES, archived

LARGEST = 2**31 - 1  # bytes of a protobuf message
WEIGHT_PLACES = {"Gather": (0,), "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2)}  # elsewhere the second input
INTEGER_PRODUCTS = ("DynamicQuantizeMatMul", "ConvInteger", "QLinearMatMul", "QLinearConv")
DECODED = ("DequantizeLinear", "MatMulNBits", "MatMulInteger", "MatMulIntegerToFloat", "QuantizeLinear")
NIBBLES = {21: torch.uint8, 22: torch.int8}  # TensorProto.DataType: two in a byte, the first in its lower half
UNFIXED = 224  # places along free axes of a graph that does not take few
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
    **{kind: (dtype, "int32_data") for kind, dtype in NIBBLES.items()},
}


def lazy_tensor(tensor: Any, beside: Mapping[str, Path], filename: str) -> LazyTensor:
    """Of a dtype that is computed with. Raises CheckpointRefused for one that does not hold what it claims."""
    found = _lazy(tensor, beside, filename)
    return wider(tensor.name, found, filename) if dtype_name(found.dtype) in WIDER else found


def _lazy(tensor: Any, beside: Mapping[str, Path], filename: str) -> LazyTensor:
    dtype, field = ELEMENTS[tensor.data_type]
    shape = tuple(int(size) for size in tensor.dims)
    wanted = math.prod(shape) * dtype.itemsize
    nibbles = tensor.data_type in NIBBLES
    wanted = -(-wanted // 2) if nibbles else wanted
    if len(shape) > MOST_AXES:
        raise CheckpointRefused(f"{tensor.name} in {filename} claims {len(shape)} axes, which no tensor has")
    if min(shape, default=0) < 0 or max(*shape, wanted, 0) > 2**46:
        raise CheckpointRefused(f"{tensor.name} in {filename} claims the shape {list(shape)}")
    if tensor.data_location == 1:
        load = _external(tensor, beside, wanted, filename)
        return LazyTensor(shape, dtype, lambda: _raw(load(), shape, dtype, nibbles))
    held = len(tensor.raw_data) if tensor.HasField("raw_data") else len(getattr(tensor, field)) * dtype.itemsize
    if held != wanted:
        raise CheckpointRefused(
            f"{tensor.name} in {filename} claims the shape {list(shape)}, which takes {wanted} bytes, and holds {held}"
        )
    if tensor.HasField("raw_data"):
        return LazyTensor(shape, dtype, lambda: _raw(tensor.raw_data, shape, dtype, nibbles))
    if nibbles:
        return LazyTensor(shape, dtype, lambda: _raw(bytes(n & 255 for n in tensor.int32_data), shape, dtype, nibbles))
    return LazyTensor(shape, dtype, lambda: _listed(list(getattr(tensor, field)), shape, dtype))


def constant_tensor(tensor: Any, beside: Mapping[str, Path], filename: str) -> LazyTensor | None:
    """Of a node; None for one of a type that holds no numbers."""
    return lazy_tensor(tensor, beside, filename) if tensor.data_type in ELEMENTS else None


def _raw(content: bytes, shape: tuple[int, ...], dtype: torch.dtype, nibbles: bool) -> torch.Tensor:
    if not content:
        return torch.empty(shape, dtype=dtype)
    if nibbles:
        packed = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        apart = torch.stack((packed & 15, packed >> 4), -1).flatten()[: math.prod(shape)].reshape(shape)
        return ((apart ^ 8).to(torch.int8) - 8) if dtype == torch.int8 else apart
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).view(dtype).reshape(shape)


def _listed(values: list[Any], shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    if dtype.is_floating_point and dtype.itemsize < 4:  # their bits, each in a whole number
        bits = torch.int16 if dtype.itemsize == 2 else torch.uint8
        return torch.tensor(values, dtype=torch.int32).to(bits).view(dtype).reshape(shape)
    return torch.tensor(values, dtype=dtype).reshape(shape)


def _external(tensor: Any, beside: Mapping[str, Path], wanted: int, filename: str) -> Callable[[], bytes]:
    about = {entry.key: entry.value for entry in tensor.external_data}
    location = about.get("location", "")
    pure = PurePosixPath(location)
    if not location or pure.is_absolute() or ".." in pure.parts or "\\" in location or ":" in location:
        raise CheckpointRefused(
            f"{tensor.name} in {filename} lies at {quoted(location)}, which leads out of its folder"
        )
    path = beside.get(str(pure))
    if path is None:
        raise CheckpointRefused(
            f"{filename} keeps {tensor.name} in a file beside it, {quoted(location)}; upload a zip that holds both"
        )
    offset, length = (_number(about.get(key), default) for key, default in (("offset", 0), ("length", wanted)))
    if offset < 0 or length != wanted or offset + length > path.stat().st_size:
        raise CheckpointRefused(
            f"{tensor.name} in {filename} takes {wanted} bytes; {location[:80]} has {length} for it from {offset} on, "
            f"and {path.stat().st_size} in all"
        )

    def load() -> bytes:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(wanted)

    return load


def _number(text: str | None, default: int) -> int:
    if text is None:
        return default
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1


def open_file(
    upload: Path, filename: str, scratch: Path, report: Report, dequantize: bool = False, in_place: bool = False
) -> Opened:
    """`dequantize`: weights become floats. `in_place`: external data may lie beside it. Raises CheckpointRefused."""
    if zipfile.is_zipfile(upload):
        model, beside = _unpacked(upload, filename, scratch)
        return _opened(model, filename, report, beside, dequantize)
    if not in_place:
        return _opened(upload, filename, report, {}, dequantize)
    found = FilesBeside(upload.parent, filename)
    opened = _opened(upload, filename, report, found, dequantize)
    opened.sources = {upload.name: upload, **found}
    return opened


def _opened(upload: Path, filename: str, report: Report, beside: Mapping[str, Path], dequantize: bool) -> Opened:
    model = _model(upload, filename)
    graph = model.graph
    try:
        flat = flattened(graph)
    except NotRun as reason:
        raise CheckpointRefused(f"{filename} {reason}") from reason
    used = {node.proto.op_type for node in flat.nodes}
    if products := sorted(used & set(INTEGER_PRODUCTS)):
        raise CheckpointRefused(
            f"{filename} multiplies integers ({products[0]}), in a way that is not taken apart; {UPLOAD_INSTEAD}"
        )
    tensors, left = {}, []
    for name, tensor in [*((tensor.name, tensor) for tensor in graph.initializer), *flat.tensors.items()]:
        if tensor.data_type not in ELEMENTS:
            left.append(f"{name} ({_type_name(tensor)})")
        elif name in tensors or not name:
            raise CheckpointRefused(f"{filename} holds two initializers called {quoted(name)}")
        else:
            tensors[name] = lazy_tensor(tensor, beside, filename)
    notes = [f"Left out, of types that Pare does not read: {', '.join(left[:5])}."] if left else []
    told = told_weights(model, filename)
    report.progress(0.2, "Following its graph")
    try:
        opened, plans = _running(
            lambda alone: _taken_apart(
                graph_of(model, flat, tensors, lambda held: constant_tensor(held, beside, filename), alone=alone),
                told,
                dequantize,
                filename,
            )
        )
    except NotRun as reason:
        if decoded := sorted(used & set(DECODED)):
            raise CheckpointRefused(
                f"{filename} is quantized already ({decoded[0]}), and its graph cannot be run: it {reason}; "
                f"{UPLOAD_INSTEAD}"
            ) from reason
        because = f"The graph cannot be run: it {reason}. Its weights are compressed and delivered as safetensors."
    else:
        if dequantize:
            opened.notes += dequantized_notes(opened)
        else:
            keep_stored(opened, told, plans, filename)
        opened.notes += notes
        return opened
    if not tensors:
        raise CheckpointRefused(f"{filename} holds no initializers: its weights are in its nodes, or not there")
    layers = tuple(_layers(flat, tensors))
    return Opened(
        tensors, notes=notes, weights_only_because=because, layers=layers, infinite=_constants(tensors, layers)
    )


def _taken_apart(graph: Graph, told: Mapping[str, Any], asked: bool, filename: str) -> Roundings:
    """With its integers as weights. Raises CheckpointRefused where a step decodes or rounds otherwise, and NotRun."""
    try:
        found = without_roundings(with_integers(with_roundings(graph), told, asked), clipped=asked)
    except FAILURES as error:  # inputs that are not there, tensors of other ranks
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NotRun(f"has a step that is malformed ({first[:160]})") from error
    if found.left and not asked:
        raise CheckpointRefused(
            f"{filename} rounds activations ({found.left}) where Pare does not; {UPLOAD_INSTEAD}, or upload it again "
            f"and {ASK}, with nothing rounded"
        )
    if step := undecoded(found.graph, asked):
        raise CheckpointRefused(
            f"{filename} is quantized already ({step}), in a way that is not taken apart; {UPLOAD_INSTEAD}"
        )
    return found


def told_weights(model: Any, filename: str) -> Mapping[str, Any]:
    """What Pare says of the weights in a file that it wrote; nothing of another's. Raises CheckpointRefused."""
    told = next((entry.value for entry in model.metadata_props if entry.key == MANIFEST), "")
    found: Mapping[str, Any] = (manifest_in({MANIFEST: told}, filename) or {"weights": {}})["weights"]
    return found


def _type_name(tensor: Any) -> str:
    from onnx import TensorProto

    known = TensorProto.DataType.values()
    return TensorProto.DataType.Name(tensor.data_type) if tensor.data_type in known else f"type {tensor.data_type}"


def _running(make: Callable[[bool], Roundings]) -> tuple[Opened, Mapping[str, Activations]]:
    """With all of its outputs if it can be, else with its first of floats alone; and how activations are rounded.

    Raises NotRun.
    """
    found = make(False)
    try:
        return _followed(found.graph), found.plans
    except NotRun:
        if len(found.graph.outputs) == 1:
            raise
    found = make(True)
    return _followed(found.graph), found.plans


def _followed(graph: Graph) -> Opened:
    """With free batches if it can be, else as the file says. Raises NotRun with the first reason."""
    first = graph.inputs[0].shape if graph.inputs else ()
    ways: list[tuple[bool, int | None]] = [(True, None)]
    if any(item.floats and None in item.shape[1:] for item in graph.inputs):
        ways.append((True, UNFIXED))
    if first and first[0] is not None:
        ways.append((False, None))
    reasons = []
    for free, side in ways:
        try:
            return opened_program(archived(graph, free, side), "ONNX graph", rows_apart=True)
        except NotRun as reason:
            reasons.append(reason)
    raise reasons[-1 if first and first[0] not in (None, 1) else 0]


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


def _model(path: Path, filename: str) -> Any:
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
    if not _all_text(model):
        raise CheckpointRefused(f"{filename} is damaged: a name in it is not UTF-8; upload it again")
    return model


def _all_text(message: Any) -> bool:
    """Whether every string in a protobuf message is one: what is not UTF-8 is given as bytes."""
    for field, value in message.ListFields():
        each = (value,) if isinstance(value, str | bytes) or hasattr(value, "ListFields") else value
        if field.type == field.TYPE_STRING and not all(isinstance(one, str) for one in each):
            return False
        if field.type == field.TYPE_MESSAGE and not all(_all_text(one) for one in each):
            return False
    return True


def _layers(flat: FlatGraph, tensors: Mapping[str, LazyTensor]) -> list[LayerFacts]:
    """The matrices and kernels by what is done with them, in the graph's order."""
    found: dict[str, LayerFacts] = {}
    products = ((node, place) for node in flat.nodes for place in WEIGHT_PLACES.get(node.proto.op_type, (1,)))
    for node, place in products:
        op, weight = node.proto.op_type, node.inputs[place] if len(node.inputs) > place else ""
        if weight not in tensors or weight in found or not tensors[weight].dtype.is_floating_point:
            continue
        options = {option.name: option.i for option in node.proto.attribute}
        shape, stacked = tensors[weight].shape, False
        kind: LayerKind
        match op, len(shape):
            case "MatMul", 2:
                kind, transposed = "linear", True
            case "Gemm", 2:
                kind, transposed = "linear", not options.get("transB", 0)
            case "Conv" | "ConvTranspose", 3 | 4 | 5:
                kind, transposed = "conv", op == "ConvTranspose"
            case "Gather", 2 if not options.get("axis", 0):
                kind, transposed = "embedding", False
            case "LSTM" | "GRU" | "RNN", 3:
                kind, transposed, stacked = "recurrent", False, True  # a matrix for each direction
            case _:
                continue
        groups = shape[0] if stacked else max(1, int(options.get("group", 1))) if kind == "conv" else 1
        name = weight.removesuffix(".weight")
        found[weight] = LayerFacts(
            name=name, weight=weight, kind=kind, shape=shape, transposed=transposed, groups=groups, stacked=stacked
        )
    return list(found.values())


def _constants(tensors: Mapping[str, LazyTensor], layers: tuple[LayerFacts, ...]) -> frozenset[str]:
    return frozenset(tensors) - {layer.weight for layer in layers}

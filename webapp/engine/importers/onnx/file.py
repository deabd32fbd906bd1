"""An ONNX file read: its graph as a program where it can be run, else what each initializer is multiplied with."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from webapp.engine.archive import extract, members
from webapp.engine.errors import CheckpointRefused, quoted
from webapp.engine.facts import LayerFacts, LayerKind
from webapp.engine.importers.base import Opened
from webapp.engine.importers.exported_program.running import opened_program
from webapp.engine.importers.exported_program.serialized import NotRun
from webapp.engine.progress import Report
from webapp.engine.weights.safetensors import LazyTensor

from .flattening import FlatGraph, flattened
from .graph import Graph, graph_of
from .tensors import ELEMENTS, constant_tensor, lazy_tensor
from .tracing import archived

LARGEST = 2**31 - 1  # bytes of a protobuf message
WEIGHT_PLACES = {"Gather": (0,), "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2)}  # elsewhere the second input
QUANTIZED = ("DequantizeLinear", "MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv", "MatMulNBits")
UNFIXED = 224  # places along free axes of a graph that does not take few


def open_file(upload: Path, filename: str, scratch: Path, report: Report) -> Opened:
    """Raises CheckpointRefused."""
    beside: dict[str, Path] = {}
    if zipfile.is_zipfile(upload):
        upload, beside = _unpacked(upload, filename, scratch)
    model = _model(upload, filename)
    graph = model.graph
    try:
        flat = flattened(graph)
    except NotRun as reason:
        raise CheckpointRefused(f"{filename} {reason}") from reason
    if used := sorted({node.proto.op_type for node in flat.nodes} & set(QUANTIZED)):
        raise CheckpointRefused(f"{filename} is quantized already ({used[0]}); upload the model it was made from")
    tensors, left = {}, []
    for name, tensor in [*((tensor.name, tensor) for tensor in graph.initializer), *flat.tensors.items()]:
        if tensor.data_type not in ELEMENTS:
            left.append(f"{name} ({_type_name(tensor)})")
        elif name in tensors or not name:
            raise CheckpointRefused(f"{filename} holds two initializers called {quoted(name)}")
        else:
            tensors[name] = lazy_tensor(tensor, beside, filename)
    notes = [f"Left out, of types that Pare does not read: {', '.join(left[:5])}."] if left else []
    report.progress(0.2, "Following its graph")
    try:
        opened = _running(
            lambda alone: graph_of(
                model, flat, tensors, lambda held: constant_tensor(held, beside, filename), alone=alone
            )
        )
    except NotRun as reason:
        because = f"The graph cannot be run: it {reason}. Its weights are compressed and delivered as safetensors."
    else:
        opened.notes += notes
        return opened
    if not tensors:
        raise CheckpointRefused(f"{filename} holds no initializers: its weights are in its nodes, or not there")
    layers = tuple(_layers(flat, tensors))
    return Opened(
        tensors, notes=notes, weights_only_because=because, layers=layers, infinite=_constants(tensors, layers)
    )


def _type_name(tensor: Any) -> str:
    from onnx import TensorProto

    known = TensorProto.DataType.values()
    return TensorProto.DataType.Name(tensor.data_type) if tensor.data_type in known else f"type {tensor.data_type}"


def _running(make: Callable[[bool], Graph]) -> Opened:
    """With all of its outputs if it can be, else with its first of floats alone. Raises NotRun."""
    graph = make(False)
    try:
        return _followed(graph)
    except NotRun:
        if len(graph.outputs) == 1:
            raise
    return _followed(make(True))


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

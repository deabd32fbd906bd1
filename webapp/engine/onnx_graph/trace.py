"""From a module to an ONNX graph whose weights are still open: they are inputs of it, by their names in the module.

Nothing is folded into a weight that is open, so that each can be put in as it is stored; and no value is needed, so
the module's tensors are memory that is never touched.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch._decomp.decompositions import lstm_impl
from torch._dynamo.exc import UserError
from torch.onnx import OnnxExporterError

from ..batches import Batch, synthetic
from ..facts import ArchitectureSpec
from ..model import Model
from ..modules import fill, skeleton_of
from .keeping import keeping
from .served import Call, Served, with_plain_operators
from .tidying import tidy

log = logging.getLogger(__name__)

OPSET = 21
SAMPLES, TOKENS, PIXELS = 3, 7, 97  # of the traced input: where a size becomes 1, it would be taken for a constant
LEAST_PIXELS = 64  # that the tracer is told of, so that no side is 1 after five halvings; the graph takes any
AXES = ("batch", "channels", "height", "width")
INNER = "module."


class Untraceable(Exception):
    """The module's forward does something that the exporter cannot follow; the message is its own."""


def traced(model: Model, keep: bool = False) -> ir.Model:
    """The graph of `model`, its weights open. The batch is dynamic, and so are tokens, and sides that may be any.

    With `keep`, a language model's keys and values go in and out (see `..kept`) wherever that can be traced.
    """
    spec = model.architecture
    assert spec is not None
    module = skeleton_of(replace(model, activations={})).eval()
    state = module.state_dict()
    fill(module, {name: _unfilled(tensor) for name, tensor in state.items()}, state, model.tied)
    with_plain_operators(module)
    batch = example(spec)
    if keep:
        try:
            if call := keeping(module, spec, batch):
                return _graph(call, set(state))
        except Exception:  # of the model's own code, which nobody may have run with a cache in this way
            log.info("%s cannot be traced with what it keeps", spec.title, exc_info=True)
    served, sizes = Served(module, spec, batch.inputs), [free_axes(spec)] * len(batch.inputs)
    axes = [{axis: dim.__name__ for axis, dim in free.items()} for free in sizes]
    return _graph(Call(served, batch.inputs, sizes, axes, [served.answer]), set(state))


def _graph(call: Call, weights: Set[str]) -> ir.Model:
    """Raises Untraceable."""
    with _quietly(), torch.no_grad():
        try:
            program = torch.export.export(
                call.served.eval(), tuple(call.inputs.values()), dynamic_shapes=(tuple(call.sizes),), strict=False
            )
            exported = torch.onnx.export(
                _without_projections(program),
                dynamo=True,
                input_names=list(call.inputs),
                output_names=list(call.answers),
                opset_version=OPSET,
                optimize=False,
                verbose=False,
            )
        except (UserError, OnnxExporterError, RuntimeError) as error:
            raise Untraceable(_reason(error)) from error
    assert exported is not None
    _open(exported.model, weights)
    tidy(exported.model)
    _name_axes(exported.model, call.axes)
    return exported.model


def _without_projections(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """An LSTM that projects its answers step by step: ONNX's operator does not know it."""
    lstm = torch.ops.aten.lstm.input
    steps = [node for node in program.graph.nodes if node.target is lstm]
    if not any(len(step.args[2]) % (2 * _ways(step)) for step in steps):
        return program
    stepwise: torch.export.ExportedProgram = program.run_decompositions({lstm: lstm_impl})
    return stepwise


def _ways(step: torch.fx.Node) -> int:
    """Layers times directions."""
    return int(step.args[4]) * (2 if step.args[7] else 1)  # type: ignore[arg-type]


def _reason(error: BaseException) -> str:
    """The first line of what went wrong first: the exporter wraps it into the step and the node that it was at."""
    while isinstance(error, OnnxExporterError) and error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0]


def example(spec: ArchitectureSpec) -> Batch:
    """Of small odd sizes wherever a size is free."""
    batch = synthetic(spec, 0)
    if "vocab" in spec.inputs:
        tokens = int(spec.inputs.get("length") or TOKENS)
        inputs = {name: tensor.new_zeros((SAMPLES, tokens)) for name, tensor in batch.inputs.items()}
        if "attention_mask" in inputs:
            inputs["attention_mask"] += 1
    else:
        shape = [PIXELS if size is None else int(size) for size in spec.inputs["shape"]]
        inputs = {name: tensor.new_zeros((SAMPLES, *shape)) for name, tensor in batch.inputs.items()}
    return Batch(inputs, None, SAMPLES)


def free_axes(spec: ArchitectureSpec) -> dict[int, Any]:
    """Which axes of the inputs are free, by the names that they get in the graph."""
    free: dict[int, Any] = {0: torch.export.Dim("batch")}
    if "length" in spec.inputs:
        return free
    if "vocab" in spec.inputs:
        return free | {1: torch.export.Dim("sequence", max=int(spec.inputs["tokens"]))}
    sides = ((axis, size) for axis, size in enumerate(spec.inputs["shape"], start=1) if size is None)
    return free | {axis: torch.export.Dim(AXES[axis], min=LEAST_PIXELS) for axis, _ in sides}


def _unfilled(tensor: Tensor) -> Any:
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return lambda: torch.empty(tensor.shape, dtype=dtype)


def _open(model: ir.Model, names: Set[str]) -> None:
    """Makes inputs of the weights, under their names in the module."""
    graph = model.graph
    for name in list(graph.initializers):
        value = graph.initializers[name]
        if name.removeprefix(INNER) in names:
            del graph.initializers[name]
            value.const_value, value.name = None, name.removeprefix(INNER)
            graph.inputs.append(value)


def _name_axes(model: ir.Model, axes: Sequence[Mapping[int, str]]) -> None:
    """The tracer's symbols (s47) by the names of the inputs' axes, wherever they stand."""
    names: dict[str, str] = {}
    for value, named in zip(model.graph.inputs, axes, strict=False):
        assert value.shape is not None
        names |= {str(value.shape[axis]): name for axis, name in named.items()}
    produced = (value for node in model.graph for value in node.outputs)
    for value in (*model.graph.inputs, *produced):
        if value.shape is not None:
            sizes = (size if isinstance(size, int) else names.get(str(size)) for size in value.shape)
            value.shape = ir.Shape(sizes)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's remarks on its own workings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

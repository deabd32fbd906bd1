"""From a module to an ONNX graph whose weights are still open: they are inputs of it, by their names in the module.

Nothing is folded into a weight that is open, so that each can be put in as it is stored; and no value is needed, so
the module's tensors are memory that is never touched.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import optimizer
from torch import Tensor, nn
from torch._dynamo.exc import UserError
from torch.onnx import OnnxExporterError

from ..batches import Batch, synthetic
from ..facts import ArchitectureSpec
from ..model import Model
from ..modules import fill, skeleton_of

OPSET = 21
SAMPLES, TOKENS, PIXELS = 3, 7, 97  # of the traced input: where a size becomes 1, it would be taken for a constant
LEAST_PIXELS = 64  # that the tracer is told of, so that no side is 1 after five halvings; the graph takes any
AXES = ("batch", "channels", "height", "width")
INNER = "module."


class Untraceable(Exception):
    """The module's forward does something that the exporter cannot follow; the message is its own first line."""


class Served(nn.Module):
    """The module as a runtime calls it: tensors in, and the one answer out that is called `answer`."""

    module: Any

    def __init__(self, module: Any, spec: ArchitectureSpec, names: Iterable[str]) -> None:
        super().__init__()
        self.module = module
        self.names = tuple(names)
        self.named = spec.family == "transformers"
        self.extra = {"use_cache": False} if spec.task == "causal-lm" else {}
        bare = self.named and module.base_model is module
        self.answer = "last_hidden_state" if bare else "logits"

    def forward(self, *given: Tensor) -> Any:
        if not self.named:
            return self.module(*given)
        return self.module(**dict(zip(self.names, given, strict=True)), **self.extra)[self.answer]


def traced(model: Model) -> ir.Model:
    """The graph of `model`, its weights open. The batch is dynamic, and so are tokens, and sides that may be any."""
    spec = model.architecture
    assert spec is not None
    module = skeleton_of(replace(model, activations={}))
    state = module.state_dict()
    fill(module, {name: _unfilled(tensor) for name, tensor in state.items()}, state, model.tied)
    choose_attention: Any = getattr(module, "set_attn_implementation", None)
    if choose_attention is not None:
        choose_attention("eager")  # plain operators, where the fused call leaves guards around them
    batch = example(spec)
    served = Served(module, spec, batch.inputs).eval()
    sizes = (tuple(free_axes(spec) for _ in batch.inputs),)
    with _quietly(), torch.no_grad():
        try:
            program = torch.export.export(served, tuple(batch.inputs.values()), dynamic_shapes=sizes, strict=False)
            exported = torch.onnx.export(
                program,
                dynamo=True,
                input_names=list(batch.inputs),
                output_names=[served.answer],
                opset_version=OPSET,
                optimize=False,
                verbose=False,
            )
        except (UserError, OnnxExporterError, RuntimeError) as error:
            raise Untraceable(str(error).strip().partition("\n")[0]) from error
    assert exported is not None
    _open(exported.model, set(state))
    optimizer.optimize(exported.model)
    _name_axes(exported.model, free_axes(spec), len(batch.inputs))
    return exported.model


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


def _open(model: ir.Model, names: set[str]) -> None:
    """Makes inputs of the weights, under their names in the module."""
    graph = model.graph
    for name in list(graph.initializers):
        value = graph.initializers[name]
        if name.removeprefix(INNER) in names:
            del graph.initializers[name]
            value.const_value, value.name = None, name.removeprefix(INNER)
            graph.inputs.append(value)


def _name_axes(model: ir.Model, free: Mapping[int, Any], inputs: int) -> None:
    """The tracer's symbols (s47) by the names of the axes, wherever they stand."""
    names: dict[str, str] = {}
    for value in model.graph.inputs[:inputs]:
        assert value.shape is not None
        names |= {str(value.shape[axis]): dim.__name__ for axis, dim in free.items()}
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

"""From a module to an ONNX graph whose weights are still open: they are inputs of it, by their names in the module.

Nothing is folded into a weight that is open, so that each can be put in as it is stored; and no value is needed, so
the module's tensors are memory that is never touched.
"""

from __future__ import annotations

import logging
import mmap
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import Sequential, common
from onnxscript import optimizer
from onnxscript.rewriter import RewritePass, RewriteRuleSet
from onnxscript.rewriter.rules import common as rules
from torch._decomp.decompositions import lstm_impl
from torch.export import ExportedProgram
from torch.onnx import OnnxExporterError
from torch.utils._pytree import tree_map

from webapp.engine.architectures.build import fill, skeleton_of
from webapp.engine.data.batches import Batch, synthetic
from webapp.engine.facts import ArchitectureSpec
from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.weights.memory import is_want_of_memory
from webapp.engine.weights.model import Model

from .model_call import CalledModule, ModelCall, keeping, with_plain_operators

log = logging.getLogger(__name__)

OPSET = 21
SAMPLES, TOKENS, PIXELS = 3, 61, 97  # of the traced input: enough for long kernels; the graph takes others
AXES = ("batch", "channels", "height", "width", "depth")
INNER = "module."
ROUNDS = 2  # what one simplifies another may simplify further
RULES = RewriteRuleSet(
    [
        rules.add_0_rule,
        rules.sub_0_rule,
        rules.mul_by_1_rule,
        rules.div_by_1_rule,
        rules.dropout_zero_rule,
        rules.dropout_inference_rule,
        rules.one_reshape_matmul_reshape_rule,
        rules.two_reshapes_matmul_reshape_rule,
        rules.cast_constant_of_shape_rule,
        rules.cast_constant_of_shape_without_value_rule,
        rules.collapse_slice_rule,
        rules.collapse_slice2_rule,
        rules.materialize_reshape_shape_rule,
        rules.min_min_rule,
        rules.max_max_rule,
        rules.min_max_rule,
        rules.max_min_rule,
        rules.successive_relu_rule,
        rules.successive_clip_rule,
        rules.successive_relu_clip_rule,
        rules.successive_clip_relu_rule,
        rules.cast_cast_rule,
        rules.no_op_cast_rule,
        rules.no_op_expand_rule,
        rules.flatten_to_reshape_rule,
        rules.reshape_reshape_rule,
        rules.no_op_transpose_rule,
        rules.transpose_transpose_rule,
        rules.unsqueeze_unsqueeze_rule,
        rules.squeeze_reshape_1d_rule,
        rules.no_op_dynamic_scatter_nd_rule,
        rules.no_op_static_scatter_nd_rule,
        rules.normalize_pad_format_conv_rule,
        rules.fuse_pad_into_conv_rule,
        rules.remove_optional_bias_from_conv_rule,
        rules.remove_optional_bias_from_conv_transpose_rule,
        rules.remove_optional_bias_from_gemm_rule,
    ]
)
AT_LAST = Sequential(
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    common.LiftSubgraphInitializersToMainGraphPass(),
    common.DeduplicateInitializersPass(),
    common.CommonSubexpressionEliminationPass(),
    common.OutputFixPass(),
    common.NameFixPass(),
)


def tidy(model: ir.Model) -> None:
    """Folds constants, takes away what does nothing, and makes equal parts one.

    As `onnxscript.optimizer.optimize` does it, but without its rule that makes one Split of two Slices: it compares
    every pair of nodes, which takes ten times as long as all else together (a LLaMA of 30 blocks: 42 of 45 seconds).
    """
    optimizer.inline(model)
    for _ in range(ROUNDS):
        optimizer.fold_constants(model, onnx_shape_inference=True)
        RewritePass(RULES)(model)
        optimizer.remove_unused_nodes(model)
    AT_LAST(model)


class Untraceable(Exception):
    """The module's forward does something that the exporter cannot follow; the message says what."""


def traced(model: Model, keep: bool = False) -> ir.Model:
    """The graph of `model`, its weights open. The batch is dynamic, and so are tokens, and sides that may be any.

    With `keep`, a language model's keys and values go in and out (see `kv_cache`) wherever that can be traced.
    Raises Untraceable.
    """
    spec, module = model.architecture, unfilled(model)
    assert spec is not None
    if keep:
        try:
            if call := keeping(module, spec, example(spec)):
                return converted(program_of(call), call)
        except Exception:  # of the model's own code, which nobody may have run with a cache in this way
            log.info("%s cannot be traced with what it keeps", spec.title, exc_info=True)
    call = whole_call(module, spec)
    return converted(program_of(call), call)


def unfilled(model: Model) -> nn.Module:
    """The module with weights that are memory which is never touched."""
    module = skeleton_of(replace(model, activations={})).eval()
    state = module.state_dict()
    fill(module, {name: _unfilled(tensor) for name, tensor in state.items()}, state, model.tied)
    with_plain_operators(module)
    return module


def whole_call(module: nn.Module, spec: ArchitectureSpec) -> ModelCall:
    """What every model can be asked: a batch of whole inputs."""
    batch = example(spec)
    axes = [free_axes(spec)] * len(batch.inputs)
    served = CalledModule(module, spec, batch.inputs)
    return ModelCall(served, batch.inputs, axes, served.answers)


def exported_program(
    module: nn.Module, given: tuple[Tensor, ...], named: Mapping[str, Tensor], axes: Any
) -> ExportedProgram:
    """The module's operators; `axes` are the free ones of each input. Raises Untraceable.

    Where a size becomes 1 (a side after five halvings) torch would make it a case of its own, and refuse either small
    images or large ones.
    """
    sizes = tree_map(lambda _: torch.export.Dim.DYNAMIC, axes)
    oblivious = torch.fx.experimental._config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    with told(), oblivious, torch.no_grad():
        return torch.export.export(module, given, dict(named), dynamic_shapes=sizes, strict=False)


def program_of(call: ModelCall) -> ExportedProgram:
    """Raises Untraceable."""
    return exported_program(call.served.eval(), tuple(call.inputs.values()), {}, (tuple(call.axes),))


def converted(program: ExportedProgram, call: ModelCall) -> ir.Model:
    """Raises Untraceable."""
    with told(), torch.no_grad():
        exported = torch.onnx.export(
            _without_projections(program),
            dynamo=True,
            input_names=list(call.inputs),
            output_names=list(call.answers),
            opset_version=OPSET,
            optimize=False,
            verbose=False,
        )
    assert exported is not None
    _open(exported.model, set(call.served.module.state_dict()))
    tidy(exported.model)
    graph = exported.model.graph
    for values, names in ((graph.inputs, call.inputs), (graph.outputs, call.answers)):
        for value, name in zip(values, names, strict=False):
            value.name = name  # where an output is another's copy, or an input's, the exporter makes up its own
    common.NameFixPass()(exported.model)
    _name_axes(exported.model, call.axes)
    return exported.model


def _without_projections(program: ExportedProgram) -> torch.export.ExportedProgram:
    """An LSTM that projects its answers step by step: ONNX's operator does not know it."""
    lstm = torch.ops.aten.lstm.input
    steps = [node for node in program.graph.nodes if node.target is lstm]
    if not any(len(step.args[2]) % (2 * _ways(step)) for step in steps):
        return program
    stepwise: ExportedProgram = program.run_decompositions({lstm: lstm_impl})
    return stepwise


def _ways(step: torch.fx.Node) -> int:
    """Layers times directions."""
    return int(step.args[4]) * (2 if step.args[7] else 1)  # type: ignore[arg-type]


@contextmanager
def told() -> Iterator[None]:
    """Whatever the tracer, the exporter or the model's own code raises is said in a sentence."""
    with _quietly():
        try:
            yield
        except Exception as error:
            if is_want_of_memory(error):
                raise
            log.info("A model cannot be traced", exc_info=True)
            raise Untraceable(_reason(error)) from error


ONE = "its forward is made for one {} (by a loop, say), and a graph leaves it free"
FIXED = r"Constraints violated \([^!]*?"
WHY = (  # what the tracer says, and what it means
    (FIXED + r"(?:batch|size\(\)\[0\])", ONE.format("number of samples")),
    (FIXED + r"(?:sequence|size\(\)\[1\])", ONE.format("length of text")),
    (FIXED, ONE.format("size of its input")),
    (
        r"data-dependent|DataDependent|\.item\(\)|non-concrete",
        "what its forward does next hangs on values, not on shapes",
    ),
    (r"No ONNX function found for .*?op='([\w.]+)'", "ONNX has nothing for its operator {}"),
)


def _reason(error: BaseException) -> str:
    """What went wrong first, in its first line: the exporter wraps it into the step and the node that it was at."""
    while isinstance(error, OnnxExporterError) and error.__cause__ is not None:
        error = error.__cause__
    said = str(error).strip()
    for pattern, meaning in WHY:
        if found := re.search(pattern, said):
            return meaning.format(*found.groups())
    return said.partition("\n")[0] or type(error).__name__


def example(spec: ArchitectureSpec) -> Batch:
    """Of odd sizes wherever a size is free; fewer tokens than there may be, or a table of all places looks fixed."""
    batch = synthetic(spec, 0)
    if "vocab" in spec.inputs:
        tokens = int(spec.inputs.get("length") or max(1, min(TOKENS, int(spec.inputs["tokens"]) - 1)))
        inputs = {name: tensor.new_zeros((SAMPLES, tokens)) for name, tensor in batch.inputs.items()}
        if "attention_mask" in inputs:
            inputs["attention_mask"] += 1
    else:
        shape = [PIXELS if size is None else int(size) for size in spec.inputs["shape"]]
        inputs = {name: tensor.new_zeros((SAMPLES, *shape)) for name, tensor in batch.inputs.items()}
    return Batch(inputs, None, SAMPLES)


def free_axes(spec: ArchitectureSpec) -> dict[int, str]:
    """Which axes of the inputs are free, and the names that they get in the graph."""
    free = {0: AXES[0]}
    if "length" in spec.inputs:
        return free
    if "vocab" in spec.inputs:
        return free | {1: "sequence"}
    return free | {axis: AXES[axis] for axis, size in enumerate(spec.inputs["shape"], start=1) if size is None}


def _unfilled(tensor: Tensor) -> Any:
    """Pages of a file without a name, which count as none of the process's own, for they are never touched."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    size = tensor.numel() * dtype.itemsize

    def made() -> Tensor:
        pages = mmap.mmap(-1, max(size, 1))  # shared
        return torch.frombuffer(pages, dtype=torch.uint8)[:size].view(dtype).view(tensor.shape)

    return made


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

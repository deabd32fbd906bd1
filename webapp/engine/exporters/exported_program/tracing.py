"""From a model to an exported program that is called by the names of its inputs, with free batch and length."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import Parameter, Signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from webapp.engine.architectures.build import build, leaves_of
from webapp.engine.errors import ExportUnfit
from webapp.engine.exporters.onnx.model_call import CalledModule, with_plain_operators
from webapp.engine.exporters.onnx.trace import Untraceable, example, exported_program, free_axes
from webapp.engine.math.quantizers import Grid, dequantize
from webapp.engine.weights import Dense, Encoded, Quantized
from webapp.engine.weights.model import Model

WIDE = (torch.float32, torch.float64)


class HalfPrecisionWeight(nn.Module):
    """Floats of 16 bits, widened to float32."""

    values: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values)

    def forward(self) -> Tensor:
        return self.values.float()


class IntegerWeight(nn.Module):
    """Codes (out, in) on a grid, several to a byte where they have 4 bits or fewer; the lowest bits come first."""

    packed: Tensor
    scale: Tensor
    zero: Tensor
    levels: Tensor

    def __init__(self, encoded: Quantized) -> None:
        super().__init__()
        grid = encoded.grid
        self.bits, self.group, self.size = grid.bits, grid.group, tuple(encoded.codes.shape)
        self.shape, self.layout = encoded.shape, encoded.layout
        self.width = next(width for width in (2, 4, 8) if grid.bits <= width)
        self.register_buffer("packed", _packed(encoded.codes, self.width))
        self.register_buffer("scale", grid.scale.contiguous())
        self.register_buffer("zero", grid.zero if grid.zero_point is None else grid.zero_point)
        if grid.levels is not None:
            self.register_buffer("levels", grid.levels)

    def forward(self) -> Tensor:
        levels = getattr(self, "levels", None)
        grid = Grid(self.bits, self.group, self.scale, self.zero, levels)
        matrix = dequantize(self._codes(), grid)
        return self.layout.weight(matrix, self.shape)

    def _codes(self) -> Tensor:
        rows, columns = self.size
        if self.width == 8:
            return self.packed
        shifts = range(0, 8, self.width)
        apart = torch.stack([self.packed >> shift & 2**self.width - 1 for shift in shifts], -1)
        return apart.reshape(-1)[: rows * columns].reshape(rows, columns)


class TransposedWeight(nn.Module):
    """What another holds, transposed."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self) -> Tensor:
        values: Tensor = self.inner()
        return values.t()


def stored(encoded: Encoded, transposed: bool) -> nn.Module | None:
    """What holds the weight as small as it is stored; None where the module's plain values have to."""
    held: nn.Module | None = None
    if isinstance(encoded, Quantized):
        held = IntegerWeight(encoded)
    elif isinstance(encoded, Dense) and encoded.dtype.is_floating_point and encoded.dtype not in WIDE:
        held = HalfPrecisionWeight(encoded.decode())
    return TransposedWeight(held) if held is not None and transposed else held


def hold(part: nn.Module, name: str, held: nn.Module) -> None:
    """Gives a module `held` in the place of its parameter or buffer `name`, whose values it asks for when it runs."""
    part._parameters.pop(name, None)
    part._buffers.pop(name, None)
    inside = f"{name}_stored"
    part.add_module(inside, held)

    def decoded(self: Any) -> Tensor:
        values: Tensor = getattr(self, inside)()
        return values

    kind = type(part)
    part.__class__ = type(kind.__name__, (kind,), {name: property(decoded), "__module__": kind.__module__})


def _packed(codes: Tensor, width: int) -> Tensor:
    """uint8: (out, in) at a width of 8, else (bytes,) with 8 / width codes in each."""
    if width == 8:
        return codes.contiguous()
    each = 8 // width
    flat = codes.reshape(-1)
    rows = nn.functional.pad(flat, (0, -len(flat) % each)).reshape(-1, each)
    found = rows[:, 0].clone()
    for place in range(1, each):
        found |= rows[:, place] << place * width
    return found


class Named(nn.Module):
    """Called by the names of the inputs; a transformer answers by the name of what it puts out.

    So does a program that `told` the names of its outputs; without them several are a tuple.
    """

    def __init__(self, served: CalledModule, names: Iterable[str], told: bool) -> None:
        super().__init__()
        self.served, self.told = served, told
        self.forward: Any = self._taking(names)

    def _taking(self, names: Iterable[str]) -> Callable[..., Any]:
        """The forward of an exported program has the signature that was traced."""

        def forward(**inputs: Tensor) -> Any:
            found = self.served(*inputs.values())
            if isinstance(found, list):
                return dict(zip(self.served.answers, found, strict=True)) if self.told else tuple(found)
            return {self.served.answer: found} if self.served.named else found

        forward.__signature__ = Signature([Parameter(name, Parameter.KEYWORD_ONLY) for name in names])  # type: ignore[attr-defined]
        return forward


REMARKS = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn")  # of the tracer: lines of the files here


def exported(model: Model) -> ExportedProgram:
    """The program. Raises ExportUnfit where the module's forward cannot be traced."""
    spec = model.architecture
    assert spec is not None
    module, batch = holding(model), example(spec)
    served = Named(
        CalledModule(module, spec, batch.inputs), batch.inputs, "answers" in spec.config.get("program", ())
    ).eval()
    try:
        program = exported_program(served, (), batch.inputs, {name: free_axes(spec) for name in batch.inputs})
    except Untraceable as error:
        raise ExportUnfit(f"This model cannot be written as an exported program: {error}.") from error
    program.example_inputs = None  # they would be pickled
    for graph in program.graph_module.modules():
        for node in graph.graph.nodes if isinstance(graph, torch.fx.GraphModule) else ():
            for remark in REMARKS:
                node.meta.pop(remark, None)
    return program


def holding(model: Model) -> nn.Module:
    """The module of a model, with each weight as small as it is stored."""
    module, holders = build(model), {}
    with_plain_operators(module)
    for name, (leaf, transposed) in leaves_of(model).items():
        path, _, last = name.rpartition(".")
        key = (id(leaf), transposed)  # tied weights are held once
        if key not in holders:
            holders[key] = stored(leaf, transposed)
        if (held := holders[key]) is not None:
            hold(module.get_submodule(path), last, held)
    return module

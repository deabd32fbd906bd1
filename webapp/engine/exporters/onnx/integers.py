"""Products of integers: 8-bit activations times 8-bit weights, with a scale for each output channel.

Activations are unsigned and weights signed, which is what onnxruntime has its fastest kernels for.
"""

from __future__ import annotations

import onnx_ir as ir

from webapp.engine.architectures.build import Leaves
from webapp.engine.lazy import Tensor, torch
from webapp.engine.math.activations import SMALLEST, TOP
from webapp.engine.weights import Encoded, Quantized
from webapp.engine.weights.activations import Activations, Range

from .drawing import MICROSOFT, Drawing
from .forms import codes_of, scale_of
from .products import Use

LARGEST_BIAS = 2.0**31 - 1


def multiplies(leaf: Encoded) -> bool:
    """Whether the weight is of the form that integer kernels take: 8 bits, a scale for each row, zero in the middle."""
    if not isinstance(leaf, Quantized):
        return False
    return leaf.grid.bits == 8 and not leaf.grid.group and leaf.grid.zero_point is None and leaf.grid.levels is None


class IntegerProductNodes:
    """Draws such products; what several of them read of one input is drawn once."""

    def __init__(self, drawing: Drawing, leaves: Leaves) -> None:
        self.drawing, self.leaves = drawing, leaves
        self._rounded: dict[tuple[ir.Value | None, object], tuple[ir.Value, ...]] = {}

    def linear(self, use: Use, name: str, leaf: Quantized, plan: Activations) -> ir.Value:
        """(..., in) -> (..., out), with the bias where the node that it replaces adds one."""
        if plan.input is not None:
            return self._fixed(use, name, leaf, plan.input)
        found = self._by_token(use, name, leaf) if plan.by == "token" else self._by_tensor(use, name, leaf)
        return found if use.bias is None else self.drawing.node("Add", found, use.bias, before=use.node)

    def quantized(self, x: ir.Value, grid: Range, before: ir.Node) -> ir.Value:
        """x rounded to the grid and back: a pair of nodes around which onnxruntime puts its integer kernels."""
        key = (x, grid)
        if key not in self._rounded:
            draw = self.drawing
            about = (draw.number(grid.scale), draw.number(grid.zero, torch.uint8))
            codes = draw.node("QuantizeLinear", x, *about, before=before)
            self._rounded[key] = (draw.node("DequantizeLinear", codes, *about, before=before),)
        return self._rounded[key][0]

    def weight(self, name: str, leaf: Quantized, shape: tuple[int, ...], axis: int, scale: ir.Value) -> ir.Value:
        """The integers under a DequantizeLinear along the output channels."""
        draw, codes = self.drawing, codes_of(self.drawing, name, leaf)
        codes = self._transposed(name, leaf) if axis else draw.node("Reshape", codes, draw.axes(*shape))
        zero = draw.tensor(f"{name}.zeros", torch.zeros(leaf.codes.shape[0], dtype=torch.int8))
        return draw.node("DequantizeLinear", codes, scale, zero, axis=axis)

    def bias(self, name: str, bias: Tensor, scale: Tensor) -> ir.Value:
        """As 32-bit integers in the unit of the sums, which is what kernels add; floats where they would overflow."""
        draw, codes = self.drawing, (bias.double() / scale.double()).round()
        if not bool((codes.abs() <= LARGEST_BIAS).all()):
            return draw.tensor(f"{name}.bias", bias)
        units = draw.tensor(f"{name}.bias_codes", codes.to(torch.int32))
        zero = draw.tensor(f"{name}.bias_zeros", torch.zeros(len(bias), dtype=torch.int32))
        return draw.node("DequantizeLinear", units, draw.tensor(f"{name}.bias_scale", scale), zero, axis=0)

    def _fixed(self, use: Use, name: str, leaf: Quantized, grid: Range) -> ir.Value:
        x = self.quantized(use.x, grid, use.node)
        if use.node.op_type == "Gemm":
            weight = self.weight(name, leaf, tuple(leaf.codes.shape), 0, self._scale(name, leaf))
            given, bias = [x, weight], self.leaves.get(f"{name.removesuffix('.weight')}.bias")
            if bias is not None:
                given.append(self.bias(name, bias[0].decode().float(), leaf.grid.scale.float()[:, 0] * grid.scale))
            return self.drawing.node("Gemm", *given, before=use.node, transB=1)
        weight = self.weight(name, leaf, tuple(leaf.codes.shape), 1, self._scale(name, leaf))
        return self.drawing.node("MatMul", x, weight, before=use.node)

    def _by_tensor(self, use: Use, name: str, leaf: Quantized) -> ir.Value:
        draw, key = self.drawing, (use.x, "tensor")
        if key not in self._rounded:
            made = ir.node("DynamicQuantizeLinear", [use.x], num_outputs=3)
            draw.graph.insert_before(use.node, made)
            self._rounded[key] = tuple(made.outputs)
        codes, scale, zero = self._rounded[key]
        product = draw.node("MatMulInteger", codes, self._transposed(name, leaf), zero, before=use.node)
        sums = draw.node("Cast", product, before=use.node, to=int(ir.DataType.FLOAT))
        both = draw.node("Mul", scale, self._scale(name, leaf), before=use.node)
        return draw.node("Mul", sums, both, before=use.node)

    def _by_token(self, use: Use, name: str, leaf: Quantized) -> ir.Value:
        """x = scale * code + low for each row, so x W^T = scale * (codes W^T) + low * (the sum of each row of W)."""
        draw, at = self.drawing, use.node
        codes, scale, low = self._rows(use)
        given = (codes, self._transposed(name, leaf), draw.number(1.0), self._scale(name, leaf))
        sums = draw.node("MatMulIntegerToFloat", *given, before=at, domain=MICROSOFT)
        own = draw.node("Mul", sums, scale, before=at)
        units = (leaf.codes.to(torch.float32) - 128).sum(1) * leaf.grid.scale.float()[:, 0]
        shared = draw.node("Mul", low, draw.tensor(f"{name}.sums", units), before=at)
        return draw.node("Add", own, shared, before=at)

    def _rows(self, use: Use) -> tuple[ir.Value, ...]:
        """(codes, scale, low) of each row of x, as `math.activations.by_token` has them."""
        draw, key, at = self.drawing, (use.x, "token"), use.node
        if key not in self._rounded:
            last = draw.axes(-1)
            high = draw.node("ReduceMax", use.x, last, before=at)
            low = draw.node("ReduceMin", use.x, last, before=at)
            span = draw.node("Max", draw.node("Sub", high, low, before=at), draw.number(SMALLEST), before=at)
            scale = draw.node("Mul", span, draw.number(1 / TOP), before=at)
            steps = draw.node("Div", draw.node("Sub", use.x, low, before=at), scale, before=at)
            one, zero = draw.number(1.0), draw.number(0, torch.uint8)
            self._rounded[key] = (draw.node("QuantizeLinear", steps, one, zero, before=at), scale, low)
        return self._rounded[key]

    def _scale(self, name: str, leaf: Quantized) -> ir.Value:
        """float32 (out,)."""
        return self.drawing.node("Reshape", scale_of(self.drawing, name, leaf), self.drawing.axes(-1))

    def _transposed(self, name: str, leaf: Quantized) -> ir.Value:
        """int8 (in, out)."""
        return self.drawing.node("Transpose", codes_of(self.drawing, name, leaf), perm=(1, 0))

"""The modules that run factors as they are: a few thin products in the place of a wide one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from webapp.engine.weights import Encoded, Factored, FactoredConv, Pivoted


class FactoredModule(nn.Module):
    """`runs` pairs each child, in the order in which they run, with the factor whose values it holds."""

    runs: tuple[tuple[str, str], ...]
    bias_name: str  # where the layer's bias is
    transposed: bool  # whether the checkpoint stores the weight as (in, out)

    @property
    def weight(self) -> Tensor:
        """The first factor's: for a model that asks a layer for its weight's dtype or device."""
        return next(self.parameters())

    def readers(self, encoded: Encoded) -> dict[str, Callable[[], Tensor]]:
        """How to read each of its tensors, but for the bias."""
        return {f"{child}.weight": self._reader(encoded.factors[factor]) for child, factor in self.runs}

    def _reader(self, factor: Encoded) -> Callable[[], Tensor]:
        return (lambda: factor.decode().t().contiguous()) if self.transposed else factor.decode


class FactoredLinear(FactoredModule):
    """y = left(right(x)), with right (r, in) and left (out, r) and the bias."""

    bias_name = "left.bias"

    def __init__(self, inputs: int, outputs: int, rank: int, bias: bool, transposed: bool = False) -> None:
        super().__init__()
        self.transposed = transposed
        self.runs = (("right", "left"), ("left", "right")) if transposed else (("right", "right"), ("left", "left"))
        self.right, self.left = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.left(self.right(x))
        return y


class PivotedLayer(FactoredModule):
    """y = basis(x) beside mix(basis(x)), in the layer's `order` of outputs, which lie along `axis`; and the bias."""

    order: Tensor

    runs = (("basis", "basis"), ("mix", "mix"))
    bias_name = "bias"

    def __init__(self, basis: nn.Module, mix: nn.Module, outputs: int, bias: bool, axis: int, transposed: bool) -> None:
        super().__init__()
        self.basis, self.mix, self.axis, self.transposed = basis, mix, axis, transposed
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.register_buffer("order", torch.empty(outputs, dtype=torch.int64))

    def readers(self, encoded: Encoded) -> dict[str, Callable[[], Tensor]]:
        assert isinstance(encoded, Pivoted)
        return {**super().readers(encoded), "order": lambda: encoded.order}

    def forward(self, x: Tensor) -> Tensor:
        y = self.basis(x)
        y = torch.cat((y, self.mix(y)), self.axis).index_select(self.axis, self.order)
        if self.bias is None:
            return y
        return y + (self.bias if self.axis == -1 else self.bias.view(-1, *[1] * (y.dim() - 2)))


class ConvChain(FactoredModule):
    """Convolutions one after the other, the last with the bias. Along each axis the long one strides and pads."""

    transposed = False

    def __init__(self, whole: _ConvNd, encoded: FactoredConv) -> None:
        super().__init__()
        self.runs = tuple((name, name) for name in encoded.factors)
        self.bias_name = f"{len(self.runs) - 1}.bias"
        shapes = [factor.shape for factor in encoded.factors.values()]
        long = [
            next(number for number, shape in enumerate(shapes) if shape[2 + axis] == length)
            for axis, length in enumerate(whole.kernel_size)
        ]
        for number, shape in enumerate(shapes):
            last = number == len(shapes) - 1
            kept = [owner == number for owner in long]
            self.add_module(str(number), _conv(whole, shape, kept, last and whole.bias is not None))

    def forward(self, x: Tensor) -> Tensor:
        for part in self.children():
            x = part(x)
        return x


def factored_module(whole: nn.Module, encoded: Encoded) -> FactoredModule:
    """The module that runs these factors in the place of `whole`; call it on the meta device."""
    bias = getattr(whole, "bias", None) is not None
    if isinstance(encoded, FactoredConv):
        assert isinstance(whole, _ConvNd)
        return ConvChain(whole, encoded)
    if isinstance(encoded, Pivoted) and isinstance(whole, _ConvNd):
        first = _conv(whole, encoded.basis.shape, [True] * len(whole.kernel_size), False)
        mix = _conv(whole, encoded.mix.shape, [False] * len(whole.kernel_size), False)
        return PivotedLayer(first, mix, len(encoded.pivots), bias, 1, False)
    transposed = not isinstance(whole, nn.Linear)  # GPT-2's Conv1D: weight (in, out)
    outputs, inputs = reversed(encoded.shape) if transposed else encoded.shape
    if isinstance(encoded, Pivoted):
        rank = encoded.basis_rows
        basis, mix = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs - rank, bias=False)
        return PivotedLayer(basis, mix, outputs, bias, -1, transposed)
    assert isinstance(encoded, Factored)
    return FactoredLinear(inputs, outputs, encoded.left.shape[1], bias, transposed)


def _conv(whole: _ConvNd, shape: tuple[int, ...], kept: list[bool], bias: bool) -> nn.Module:
    """A convolution with a kernel of this shape and `whole`'s stride, padding and dilation along the `kept` axes."""

    def of(values: Any, neutral: int) -> Any:
        if isinstance(values, str):  # padding "same" or "valid"
            return values
        return tuple(value if keep else neutral for value, keep in zip(values, kept, strict=True))

    kind: type[Any] = type(whole)
    turned = isinstance(whole, _ConvTransposeNd)
    inputs, outputs = shape[:2] if turned else shape[1::-1]
    more = {"output_padding": of(whole.output_padding, 0)} if turned else {}
    made: nn.Module = kind(
        inputs,
        outputs,
        shape[2:],
        **more,
        stride=of(whole.stride, 1),
        padding=of(whole.padding, 0),
        dilation=of(whole.dilation, 1),
        bias=bias,
        padding_mode=whole.padding_mode,
    )
    return made

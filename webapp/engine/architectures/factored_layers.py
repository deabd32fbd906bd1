"""The module that runs a composite weight as it is: a product with each of its factors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from webapp.engine.weights import Composite, Dense, Encoded

Shape = tuple[int, ...]


def runs_factors(part: nn.Module) -> bool:
    """Whether a module is one product with its weight: a linear layer (GPT-2's Conv1D too) or a convolution."""
    return part.groups == 1 if isinstance(part, _ConvNd) else isinstance(part, nn.Linear) or hasattr(part, "nf")


class FactoredModule(nn.Module):
    """Stands in the place of the layer `whole`; to be made on the meta device.

    `runs` names the factor whose values each of its products holds, in their order, `bias_name` where the layer's bias
    is. A checkpoint of GPT-2 stores (in, out): such a module is `transposed`, its products hold (out, in).
    """

    def __init__(self, whole: nn.Module, encoded: Composite) -> None:
        super().__init__()
        self.form, self.axis = type(encoded), 1 if isinstance(whole, _ConvNd) else -1
        self.transposed = not isinstance(whole, nn.Linear | _ConvNd)
        self.runs = encoded.runs(self.transposed)
        shapes = {name: tuple(encoded.factors[factor].shape) for name, factor in self.runs.items()}
        last, bias = list(shapes)[-1], getattr(whole, "bias", None)
        self.bias_name = f"{last}.bias" if self.form.chained else "bias"
        for name in shapes:
            biased = bias is not None and self.bias_name == f"{name}.bias"
            self.add_module(name, _product(whole, name, shapes, self.form.heads, self.transposed, biased))
        self.bias = nn.Parameter(torch.empty(len(bias))) if bias is not None and not self.form.chained else None
        for name in getattr(whole, "__constants__", ()):  # stride and others, which the model around it may read
            if name not in vars(self):
                setattr(self, name, getattr(whole, name))
        self.constants = list(encoded.constants)
        for name, values in encoded.constants.items():
            self.register_buffer(name, torch.empty(values.shape, dtype=values.dtype))

    @property
    def weight(self) -> Tensor:
        """The first factor's: for a model that asks a layer for its weight's dtype or device."""
        first: Tensor = getattr(self, next(iter(self.runs))).weight
        return first

    def leaves(self, encoded: Composite) -> dict[str, tuple[Encoded, bool]]:
        """What is behind each of its tensors, but for the bias, and whether it holds the transpose of that."""
        found = {f"{name}.weight": (encoded.factors[factor], self.transposed) for name, factor in self.runs.items()}
        return found | {name: (Dense(values), False) for name, values in encoded.constants.items()}

    def forward(self, x: Tensor) -> Tensor:
        products, beside = [getattr(self, name) for name in self.runs], {n: getattr(self, n) for n in self.constants}
        y = self.form.output(x, products, beside, self.axis)
        if self.bias is None:
            return y
        return y + (self.bias if self.axis == -1 else self.bias.view(-1, *[1] * (y.dim() - 2)))


def _product(
    whole: nn.Module, name: str, shapes: dict[str, Shape], heads: Sequence[str], transposed: bool, biased: bool
) -> nn.Module:
    """The layer with this factor as its weight. Heads stride and pad; in a chain the first with a kernel long there."""
    shape = shapes[name]
    if not isinstance(whole, _ConvNd):
        outputs, inputs = reversed(shape) if transposed else shape
        return nn.Linear(inputs, outputs, bias=biased)
    kept = [
        name in heads
        if heads
        else name == next(other for other, lengths in shapes.items() if lengths[2 + axis] == length)
        for axis, length in enumerate(whole.kernel_size)
    ]
    return _conv(whole, shape, kept, biased)


def _conv(whole: _ConvNd, shape: Shape, kept: list[bool], bias: bool) -> nn.Module:
    """A convolution with a kernel of this shape and `whole`'s stride, padding and dilation along the `kept` axes."""

    def of(values: Any, neutral: int) -> Any:
        if isinstance(values, str):  # padding "same" or "valid"
            return values
        return tuple(value if keep else neutral for value, keep in zip(values, kept, strict=True))

    kind: type[Any] = type(whole)
    inputs_first = isinstance(whole, _ConvTransposeNd)
    inputs, outputs = shape[:2] if inputs_first else shape[1::-1]
    more = {"output_padding": of(whole.output_padding, 0)} if inputs_first else {}
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

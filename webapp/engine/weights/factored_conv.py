"""A convolution as a chain of smaller ones (Tucker-2, spatial); a module runs them one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from webapp.engine.lazy import Tensor, torch

from .composite import Composite, CompositePlan, Shape


@dataclass(frozen=True)
class FactoredConvPlan(CompositePlan):
    """Convolutions, the first of them at the input; an axis of the kernel is long in one of them only.

    Tucker-2: (r1, i, 1, 1), (r2, r1, kh, kw), (o, r2, 1, 1). Spatial: (r, i, kh, 1), (o, r, 1, kw). Of a `transposed`
    convolution, whose weight is (in, out, ...), the first two axes of each are the other way round.
    """

    @property
    def kind(self) -> str:
        return "factored_conv"

    @property
    def label(self) -> str:
        ranks = " and ".join(str(plan.shape[1 if self.transposed else 0]) for plan in self.each[:-1])
        return f"{len(self.each)} convolutions, rank {ranks}: {self.each[0].label}"


class FactoredConv(Composite):
    """Kernels (r, i, …), …, (o, r', …), the first at the input. Each axis of the kernel is long in one of them only.

    Those of a transposed convolution are (i, r, …), …, (r', o, …).
    """

    kinds = ("factored_conv",)
    Plan = FactoredConvPlan

    @classmethod
    def shape_of(cls, shapes: Sequence[Shape], transposed: bool) -> Shape:
        kernel = (max(lengths) for lengths in zip(*(shape[2:] for shape in shapes), strict=True))
        first, last = shapes[0], shapes[-1]
        return (first[0], last[1], *kernel) if transposed else (last[0], first[1], *kernel)

    def decode(self) -> Tensor:
        kernels = (factor.decode().float() for factor in self.each)
        if self.transposed:
            return reduce(composed, (kernel.transpose(0, 1) for kernel in kernels)).transpose(0, 1)
        return reduce(composed, kernels)


def composed(first: Tensor, second: Tensor) -> Tensor:
    """The kernel (o, i, …) of a convolution (r, i, …) followed by one (o, r, …) that is long along other axes."""
    return torch.einsum("or...,ri...->oi...", second, first)

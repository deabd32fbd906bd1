"""A rounded weight, and what low rank puts back of the error: a product of its own beside that with the codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from webapp.engine.facts import Layout
from webapp.engine.lazy import Tensor
from webapp.engine.math.grids import QuantizationScheme

from .base import StoragePlan
from .composite import Composite, CompositePlan, Products, Shape
from .dense import DensePlan
from .quantized import QuantizedPlan


@dataclass(frozen=True)
class CompensatedPlan(CompositePlan):
    """base (m, n), and up (m, r) times down (r, n): r (m + n) values more. All are transposed with the weight."""

    names = ("base", "down", "up")

    @classmethod
    def of(cls, base: StoragePlan, rank: int, factors: QuantizationScheme, layout: Layout) -> Self:
        each = (
            QuantizedPlan.of(DensePlan(shape, base.dtype), factors, layout)
            for shape in factor_shapes(base.shape, rank, layout.transposed)
        )
        return cls(base.shape, base.dtype, (base, *each), layout.transposed)

    @property
    def kind(self) -> str:
        return "compensated"

    @property
    def rank(self) -> int:
        return self.each[1].shape[1 if self.transposed else 0]

    @property
    def label(self) -> str:
        base, down, _ = self.each
        return f"{base.label} + rank {self.rank}: {down.label}"


class Compensated(Composite):
    """base (m, n) + up (m, r) down (r, n); a layer puts out base(x) + up(down(x)).

    Of a convolution down is (r, i, *kernel) and up (o, r, 1, 1); transposed they are (i, r, ...) and (r, o, ...). As
    Zhang et al. 2024 (LQER), https://arxiv.org/abs/2402.02446, section 3.
    """

    kinds = ("compensated",)
    Plan = CompensatedPlan
    chained = False
    heads = ("base", "down")

    @classmethod
    def shape_of(cls, shapes: Sequence[Shape], transposed: bool) -> Shape:
        return shapes[0]

    @staticmethod
    def output(x: Tensor, products: Products, beside: Mapping[str, Tensor], axis: int) -> Tensor:
        base, down, up = products
        return base(x) + up(down(x))

    def decode(self) -> Tensor:
        base, down, up = (factor.decode().float() for factor in self.each)
        if self.transposed:
            down, up = down.transpose(0, 1), up.transpose(0, 1)
        made = (up.flatten(1) @ down.flatten(1)).reshape(len(up), *down.shape[1:])
        return base + (made.transpose(0, 1) if self.transposed else made)


def factor_shapes(shape: Shape, rank: int, transposed: bool) -> tuple[Shape, Shape]:
    """Of `down` and `up`, as they are stored, for a weight of this shape."""
    first, second, *kernel = shape
    ones = [1] * len(kernel)
    if transposed:
        return (first, rank, *kernel), (rank, second, *ones)
    return (rank, second, *kernel), (first, rank, *ones)

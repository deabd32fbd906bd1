"""A matrix of low rank as some of its rows, and how the others are made of them (an interpolative decomposition)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from webapp.engine.lazy import Tensor, torch
from webapp.engine.math import bits

from .base import Encoded, TensorPart
from .composite import Composite, CompositePlan, Products, Shape


@dataclass(frozen=True)
class PivotedPlan(CompositePlan):
    """r rows of a matrix of rank r (`basis`), and how the others are made of them (`mix`): r (m + n - r) values.

    A bitmask of m bits says which rows. Of a `transposed` weight (in, out) they are columns, and both are transposed.
    """

    names = ("basis", "mix")

    @property
    def kind(self) -> str:
        return "pivoted"

    @property
    def rank(self) -> int:
        return self.each[0].shape[1 if self.transposed else 0]

    @property
    def beside(self) -> tuple[TensorPart, ...]:
        rows = self.shape[1 if self.transposed else 0]
        return (TensorPart(".pivots", (math.ceil(rows / 8),), "uint8"),)

    @property
    def label(self) -> str:
        return f"rank {self.rank}, pivoted: {self.each[0].label}"


class Pivoted(Composite):
    """Rows where `pivots` (m,) is true are `basis` (r, n), in their order; the others are `mix` (m - r, r) times it.

    Of a convolution basis is (r, i, *kernel) and mix (o - r, r, 1, 1). Of a transposed weight (in, out, *kernel) the
    pivots are columns: basis is (in, r, *kernel), mix (r, out - r, ...). As Zhao et al. 2025, https://arxiv.org/abs/2501.19090.
    """

    kinds = ("pivoted",)
    Plan = PivotedPlan
    beside = (".pivots",)
    chained = False

    def __init__(self, basis: Encoded, mix: Encoded, pivots: Tensor, transposed: bool = False) -> None:
        super().__init__(basis, mix, transposed=transposed)
        self.pivots = pivots

    @classmethod
    def shape_of(cls, shapes: Sequence[Shape], transposed: bool) -> Shape:
        basis, mix = shapes
        if transposed:
            return basis[0], basis[1] + mix[1], *basis[2:]
        return basis[0] + mix[0], *basis[1:]

    @property
    def order(self) -> Tensor:
        """int64 (m,): where each output lies among those of the basis, followed by those of the mix."""
        return torch.where(self.pivots, self.pivots.cumsum(0) - 1, self.pivots.sum() + (~self.pivots).cumsum(0) - 1)

    @property
    def constants(self) -> dict[str, Tensor]:
        return {"order": self.order}

    @staticmethod
    def output(x: Tensor, products: Products, beside: Mapping[str, Tensor], axis: int) -> Tensor:
        basis, mix = products
        x = basis(x)
        return torch.cat((x, mix(x)), axis).index_select(axis, beside["order"])

    def decode(self) -> Tensor:
        basis, mix = (factor.decode().float() for factor in self.each)
        if self.transposed:
            basis, mix = basis.transpose(0, 1), mix.transpose(0, 1)
        made = torch.cat((basis.flatten(1), mix.flatten(1) @ basis.flatten(1)))[self.order]
        made = made.reshape(len(made), *basis.shape[1:])
        return made.transpose(0, 1).contiguous() if self.transposed else made

    def parts(self) -> dict[str, Tensor]:
        return {**super().parts(), ".pivots": bits.pack_mask(self.pivots)}

    @classmethod
    def joined(cls, each: Sequence[Encoded], parts: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Self:
        basis, mix = each
        transposed = bool(meta.get("transposed"))
        axis = 1 if transposed else 0
        pivots = bits.unpack_mask(parts[".pivots"], (int(meta["shape"][axis]),))
        if int(pivots.sum()) != basis.shape[axis]:
            raise ValueError(f"its bitmask marks {int(pivots.sum())} pivots, and {basis.shape[axis]} are there")
        return cls(basis, mix, pivots, transposed)

"""A matrix of low rank: as two thin factors, or as some of its rows and how the others are made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from webapp.engine.lazy import Tensor, torch
from webapp.engine.math import bits

from .base import Encoded
from .composite import Composite, factors_from
from .factor_plans import FactoredPlan, PivotedPlan
from .safetensors import dtype_name


class Factored(Composite):
    """left (m, r) times right (r, n). Of a transposed weight (in, out) too: left is (in, r), right (r, out)."""

    kinds = ("factored",)

    def __init__(self, left: Encoded, right: Encoded) -> None:
        self.left, self.right = left, right
        self.shape, self.dtype = (left.shape[0], right.shape[1]), left.dtype

    @property
    def factors(self) -> dict[str, Encoded]:
        return {"left": self.left, "right": self.right}

    def with_factors(self, *factors: Encoded) -> Self:
        return type(self)(*factors)

    @property
    def plan(self) -> FactoredPlan:
        return FactoredPlan(self.shape, dtype_name(self.dtype), left=self.left.plan, right=self.right.plan)

    def decode(self) -> Tensor:
        return self.left.decode().float() @ self.right.decode().float()

    @classmethod
    def from_parts(cls, parts: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Self:
        left, right = factors_from(parts, {side: meta[side] for side in ("left", "right")})
        return cls(left, right)


class Pivoted(Composite):
    """Rows where `pivots` (m,) is true are `basis` (r, n), in their order; the others are `mix` (m - r, r) times it.

    Of a convolution basis is (r, i, *kernel) and mix (o - r, r, 1, 1). Of a transposed weight (in, out, *kernel) the
    pivots are columns: basis is (in, r, *kernel), mix (r, out - r, ...). As Zhao et al. 2025, https://arxiv.org/abs/2501.19090.
    """

    kinds = ("pivoted",)

    def __init__(self, basis: Encoded, mix: Encoded, pivots: Tensor, transposed: bool = False) -> None:
        self.basis, self.mix, self.pivots, self.transposed = basis, mix, pivots, transposed
        outputs, shape = len(pivots), basis.shape
        self.shape = (shape[0], outputs, *shape[2:]) if transposed else (outputs, *shape[1:])
        self.dtype = basis.dtype

    @property
    def factors(self) -> dict[str, Encoded]:
        return {"basis": self.basis, "mix": self.mix}

    def with_factors(self, *factors: Encoded) -> Self:
        basis, mix = factors
        return type(self)(basis, mix, self.pivots, self.transposed)

    @property
    def order(self) -> Tensor:
        """int64 (m,): where each output lies among those of the basis, followed by those of the mix."""
        return torch.where(self.pivots, self.pivots.cumsum(0) - 1, self.basis_rows + (~self.pivots).cumsum(0) - 1)

    @property
    def basis_rows(self) -> int:
        return self.basis.shape[1 if self.transposed else 0]

    @property
    def plan(self) -> PivotedPlan:
        basis, mix = self.basis.plan, self.mix.plan
        return PivotedPlan(self.shape, dtype_name(self.dtype), basis=basis, mix=mix, transposed=self.transposed)

    def decode(self) -> Tensor:
        basis, mix = self.basis.decode().float(), self.mix.decode().float()
        if self.transposed:
            basis, mix = basis.transpose(0, 1), mix.transpose(0, 1)
        made = torch.cat((basis.flatten(1), mix.flatten(1) @ basis.flatten(1)))[self.order]
        made = made.reshape(len(made), *basis.shape[1:])
        return made.transpose(0, 1).contiguous() if self.transposed else made

    def parts(self) -> dict[str, Tensor]:
        return {**super().parts(), ".pivots": bits.pack_mask(self.pivots)}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Self:
        basis, mix = factors_from(parts, {name: meta[name] for name in ("basis", "mix")})
        transposed = bool(meta.get("transposed"))
        outputs = int(meta["shape"][1 if transposed else 0])
        return cls(basis, mix, bits.unpack_mask(parts[".pivots"], (outputs,)), transposed)

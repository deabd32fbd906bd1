"""Two factors in place of a matrix; each is a weight of its own and may be sparse or quantized."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor

from ..plans import FactoredPlan
from .base import Encoded, dtype_name


class Factored(Encoded):
    """left (m, r) times right (r, n). Of a transposed weight (in, out) too: left is (in, r), right (r, out)."""

    kinds = ("factored",)

    def __init__(self, left: Encoded, right: Encoded) -> None:
        self.left, self.right = left, right
        self.shape, self.dtype = (left.shape[0], right.shape[1]), left.dtype

    @property
    def plan(self) -> FactoredPlan:
        return FactoredPlan(self.shape, dtype_name(self.dtype), left=self.left.plan, right=self.right.plan)

    def decode(self) -> Tensor:
        return (self.left.decode().float() @ self.right.decode().float()).to(self.dtype)

    def parts(self) -> dict[str, Tensor]:
        sides = (("left", self.left), ("right", self.right))
        return {f".{side}{suffix}": tensor for side, factor in sides for suffix, tensor in factor.parts().items()}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Self:
        from . import decoder_of

        def factor(side: str) -> Encoded:
            prefix = f".{side}"
            own = {name.removeprefix(prefix): tensor for name, tensor in parts.items() if name.startswith(prefix)}
            return decoder_of(meta[side]["kind"]).from_parts(own, meta[side])

        return cls(factor("left"), factor("right"))

"""A matrix of low rank as the product of two factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from webapp.engine.lazy import Tensor

from .composite import Composite, CompositePlan, Shape


@dataclass(frozen=True)
class FactoredPlan(CompositePlan):
    """left (m, r) times right (r, n): r (m + n) values."""

    names = ("left", "right")

    @property
    def kind(self) -> str:
        return "factored"

    @property
    def rank(self) -> int:
        return self.each[0].shape[1]

    @property
    def label(self) -> str:
        return f"rank {self.rank}: {self.each[0].label}"


class Factored(Composite):
    """left (m, r) times right (r, n). Of a transposed weight (in, out) too: left is (in, r), right (r, out)."""

    kinds = ("factored",)
    Plan = FactoredPlan

    @classmethod
    def shape_of(cls, shapes: Sequence[Shape], transposed: bool) -> Shape:
        left, right = shapes
        return left[0], right[1]

    def runs(self, transposed: bool) -> dict[str, str]:
        """y = left(right(x)) in the module, whichever way the factors are stored: stored activations name these."""
        return {"right": "left", "left": "right"} if transposed else {"right": "right", "left": "left"}

    def decode(self) -> Tensor:
        left, right = self.each
        return left.decode().float() @ right.decode().float()

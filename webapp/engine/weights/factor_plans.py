"""How a weight is stored that is put together from factors: each of them is a weight with a plan of its own."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

from .plans import StoragePlan, TensorPart


@dataclass(frozen=True)
class CompositePlan(StoragePlan):
    """A weight put together from its `factors`."""

    @abstractmethod
    def with_factors(self, *factors: StoragePlan) -> Self:
        """The same with these in the place of its own, in their order."""

    def mapped(self, change: Callable[[StoragePlan], StoragePlan]) -> StoragePlan:
        return self.with_factors(*(factor.mapped(change) for factor in self.factors.values()))

    @cached_property
    def parts(self) -> tuple[TensorPart, ...]:
        each = ((name, part) for name, plan in self.factors.items() for part in plan.parts)
        return (*(TensorPart(f".{name}{part.name}", part.shape, part.dtype) for name, part in each), *self.beside)

    @property
    def beside(self) -> tuple[TensorPart, ...]:
        """What the file holds beside the factors."""
        return ()

    @property
    def params(self) -> int:
        return sum(plan.params for plan in self.factors.values())

    @property
    def nonzero(self) -> int:
        return sum(plan.nonzero for plan in self.factors.values())

    @property
    def stored(self) -> int:
        return sum(plan.stored for plan in self.factors.values())

    @property
    def pruned(self) -> bool:
        return any(plan.pruned for plan in self.factors.values())

    @property
    def meta(self) -> dict[str, Any]:
        return {"kind": self.kind, "shape": list(self.shape)} | {n: plan.meta for n, plan in self.factors.items()}


@dataclass(frozen=True)
class FactoredPlan(CompositePlan):
    """left (m, r) times right (r, n): r (m + n) values."""

    left: StoragePlan
    right: StoragePlan

    @property
    def kind(self) -> str:
        return "factored"

    @property
    def factors(self) -> Mapping[str, StoragePlan]:
        return {"left": self.left, "right": self.right}

    def with_factors(self, *factors: StoragePlan) -> Self:
        left, right = factors
        return replace(self, dtype=left.dtype, left=left, right=right)

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    @property
    def label(self) -> str:
        return f"rank {self.rank}: {self.left.label}"


@dataclass(frozen=True)
class PivotedPlan(CompositePlan):
    """r rows of a matrix of rank r (`basis`), and how the others are made of them (`mix`): r (m + n - r) values.

    A bitmask of m bits says which rows. Of a `transposed` weight (in, out) they are columns, and both are transposed.
    """

    basis: StoragePlan
    mix: StoragePlan
    transposed: bool = False

    @property
    def kind(self) -> str:
        return "pivoted"

    @property
    def factors(self) -> Mapping[str, StoragePlan]:
        return {"basis": self.basis, "mix": self.mix}

    def with_factors(self, *factors: StoragePlan) -> Self:
        basis, mix = factors
        return replace(self, dtype=basis.dtype, basis=basis, mix=mix)

    @property
    def rank(self) -> int:
        return self.basis.shape[1 if self.transposed else 0]

    @property
    def beside(self) -> tuple[TensorPart, ...]:
        rows = self.shape[1 if self.transposed else 0]
        return (TensorPart(".pivots", (math.ceil(rows / 8),), "uint8"),)

    @property
    def label(self) -> str:
        return f"rank {self.rank}, pivoted: {self.basis.label}"

    @property
    def meta(self) -> dict[str, Any]:
        return super().meta | ({"transposed": True} if self.transposed else {})


@dataclass(frozen=True)
class FactoredConvPlan(CompositePlan):
    """A convolution as a chain of thinner ones, the first of them at the input; an axis is long in one of them only.

    Tucker-2: (r1, i, 1, 1), (r2, r1, kh, kw), (o, r2, 1, 1). Spatial: (r, i, kh, 1), (o, r, 1, kw). Of a `transposed`
    convolution, whose weight is (in, out, ...), the first two axes of each are the other way round.
    """

    chain: tuple[StoragePlan, ...]
    transposed: bool = False

    @property
    def kind(self) -> str:
        return "factored_conv"

    @property
    def factors(self) -> Mapping[str, StoragePlan]:
        return {str(index): plan for index, plan in enumerate(self.chain)}

    def with_factors(self, *factors: StoragePlan) -> Self:
        return replace(self, dtype=factors[0].dtype, chain=factors)

    @property
    def label(self) -> str:
        ranks = " and ".join(str(plan.shape[1 if self.transposed else 0]) for plan in self.chain[:-1])
        return f"{len(self.chain)} convolutions, rank {ranks}: {self.chain[0].label}"

    @property
    def meta(self) -> dict[str, Any]:
        return super().meta | ({"transposed": True} if self.transposed else {})

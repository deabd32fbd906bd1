"""The forms that a weight can be factorized into: which ranks there are, what each costs and loses, and its factors.

A form knows shapes only; `split` adds values. Weights are seen as (out, in, *kernel) whatever way they are stored.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

from webapp.engine.lazy import Tensor, torch
from webapp.engine.math import factorization, ranks, tucker
from webapp.engine.math.whitening import InputMetric, OutputMetric
from webapp.engine.weights import (
    Dense,
    DensePlan,
    Encoded,
    Factored,
    FactoredConv,
    FactoredConvPlan,
    FactoredPlan,
    Pivoted,
    PivotedPlan,
    StoragePlan,
)

Ranks = tuple[int, ...]


@dataclass(frozen=True)
class Factorization(ABC):
    """`shape` (out, in, *kernel); `transposed` where the checkpoint stores (in, out)."""

    shape: tuple[int, ...]
    transposed: bool = False

    @property
    def size(self) -> int:
        return self.shape[0] * self.columns

    @cached_property
    def columns(self) -> int:
        return math.prod(self.shape[1:])

    @cached_property
    def options(self) -> list[Ranks]:
        """The ranks that hold fewer values than the weight, fewest first. None where nothing would be saved."""
        return [option for option in self.every() if self.values(option) < self.size]

    @cached_property
    def costs(self) -> list[int]:
        return [self.values(option) for option in self.options]

    @abstractmethod
    def every(self) -> list[Ranks]:
        """All ranks worth a thought, each with more values than the one before."""

    @abstractmethod
    def of_rank(self, rank: int) -> Ranks:
        """The ranks where one number is given, as far as the weight has so many."""

    @abstractmethod
    def shapes(self, chosen: Ranks) -> list[tuple[int, ...]]:
        """Of the factors as they are stored."""

    def as_stored(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """As it is stored, of (out, in, *kernel)."""
        return (shape[1], shape[0], *shape[2:]) if self.transposed else shape

    def values(self, chosen: Ranks) -> int:
        return sum(math.prod(shape) for shape in self.shapes(chosen))

    def plan(self, plan: StoragePlan, chosen: Ranks) -> StoragePlan:
        """Of a chain of convolutions, where nothing else is said."""
        return FactoredConvPlan(plan.shape, plan.dtype, self.factor_plans(plan, chosen), self.transposed)

    @abstractmethod
    def split(self, target: Tensor, metric: InputMetric | None, outputs: OutputMetric | None = None) -> Split:
        """target float64 (out, in * kernel), to be met in this metric of its inputs; None: in every direction alike.

        And in this metric of its outputs, where the form can: a chain of convolutions meets all of them alike.
        """

    def expected(self, target: Tensor, metric: InputMetric, outputs: OutputMetric) -> list[float]:
        """Half of the squared error in both metrics that each of the options leaves."""
        whole = float(outputs.into(target @ metric.root).square().sum())
        return [0.5 * whole * lost for lost in self.split(target, metric, outputs).losses]

    def factor_plans(self, plan: StoragePlan, chosen: Ranks) -> tuple[StoragePlan, ...]:
        return tuple(DensePlan(shape, plan.dtype) for shape in self.shapes(chosen))


class Split(ABC):
    """A weight taken apart, before a rank is chosen."""

    form: Factorization

    @abstractmethod
    def lost(self, chosen: Ranks) -> float:
        """The share of the squared outputs (weights, without a metric) that these ranks lose."""

    @property
    def losses(self) -> list[float]:
        """Of each of the form's options."""
        return [self.lost(option) for option in self.form.options]

    @abstractmethod
    def encoded(self, chosen: Ranks, dtype: torch.dtype) -> Encoded: ...


@dataclass(frozen=True)
class MatrixForm(Factorization):
    """One rank. With `pivots` r rows and how the others are made of them, else two factors. Filters are rows."""

    pivots: bool = True

    def every(self) -> list[Ranks]:
        return [(rank,) for rank in range(1, min(self.shape[0], self.columns) + 1)]

    def of_rank(self, rank: int) -> Ranks:
        return (min(rank, self.shape[0], self.columns),)

    def values(self, chosen: Ranks) -> int:
        count = ranks.pivoted_values if self.pivots else ranks.factor_values
        return count(self.shape[0], self.columns, *chosen)

    def shapes(self, chosen: Ranks) -> list[tuple[int, ...]]:
        (rank,), (outputs, *rest) = chosen, self.shape
        made = outputs - rank if self.pivots else outputs
        first, second = (rank, *rest), (made, rank, *[1] * (len(rest) - 1))
        return [self.as_stored(first), self.as_stored(second)]

    def plan(self, plan: StoragePlan, chosen: Ranks) -> StoragePlan:
        each = self.factor_plans(plan, chosen)
        if self.pivots:
            return PivotedPlan(plan.shape, plan.dtype, each, self.transposed)
        if len(self.shape) > 2:
            return super().plan(plan, chosen)
        return FactoredPlan(plan.shape, plan.dtype, each if self.transposed else each[::-1])

    def split(self, target: Tensor, metric: InputMetric | None, outputs: OutputMetric | None = None) -> Split:
        return _MatrixSplit(self, target, metric, outputs)

    def expected(self, target: Tensor, metric: InputMetric, outputs: OutputMetric) -> list[float]:
        singular = factorization.singular_values(outputs.into(target) @ metric.root)
        whole = 0.5 * float(singular.square().sum())
        lost: list[float] = (whole * factorization.losses(singular)).tolist()
        return [lost[rank] for (rank,) in self.options]


class _OneRankSplit(Split):
    by_rank: list[float]

    def lost(self, chosen: Ranks) -> float:
        return self.by_rank[chosen[0]]


class _MatrixSplit(_OneRankSplit):
    form: MatrixForm

    def __init__(
        self, form: MatrixForm, target: Tensor, metric: InputMetric | None, outputs: OutputMetric | None
    ) -> None:
        self.form, self.outputs = form, outputs
        self.target = outputs.into(target) if outputs else target
        self.basis, singular = factorization.directions(self.target @ metric.root if metric else self.target)
        self.by_rank = factorization.losses(singular).tolist()

    def encoded(self, chosen: Ranks, dtype: torch.dtype) -> Encoded:
        left = self.basis[:, : chosen[0]]
        right = left.t() @ self.target
        left = self.outputs.back(left) if self.outputs else left
        form, (first, second) = self.form, self.form.shapes(chosen)
        if form.pivots:
            pivots, second_values = factorization.pivoted(left)
            first_values = left[pivots] @ right
        else:
            second_values, first_values = factorization.balanced(left, right)
        a, b = (_stored(form, *pair, dtype) for pair in ((first_values, first), (second_values, second)))
        if form.pivots:
            return Pivoted(a, b, pivots, form.transposed)
        if len(form.shape) > 2:
            return FactoredConv(a, b, transposed=form.transposed)
        return Factored(a, b) if form.transposed else Factored(b, a)


@dataclass(frozen=True)
class SpatialForm(Factorization):
    """One rank: a column of the kernel, then a row."""

    def every(self) -> list[Ranks]:
        outputs, inputs, height, *width = self.shape
        return [(rank,) for rank in range(1, min(inputs * height, outputs * (width or [1])[0]) + 1)]

    def of_rank(self, rank: int) -> Ranks:
        return min(self.every()[-1], (rank,))

    def shapes(self, chosen: Ranks) -> list[tuple[int, ...]]:
        (rank,), (outputs, inputs, height, *width) = chosen, self.shape
        shapes = (rank, inputs, height, *[1] * len(width)), (outputs, rank, 1, *width)
        return [self.as_stored(shape) for shape in shapes]

    def split(self, target: Tensor, metric: InputMetric | None, outputs: OutputMetric | None = None) -> Split:
        return _SpatialSplit(self, target, metric)


class _SpatialSplit(_OneRankSplit):
    def __init__(self, form: SpatialForm, target: Tensor, metric: InputMetric | None) -> None:
        self.form, self.target, self.metric = form, target, metric
        self.basis, singular = factorization.directions(tucker.spatial_matrix(target.reshape(form.shape)))
        self.by_rank = factorization.losses(singular).tolist()

    def encoded(self, chosen: Ranks, dtype: torch.dtype) -> Encoded:
        shape = self.form.shape
        column = tucker.spatial_column(self.basis[:, : chosen[0]], shape)
        made = tucker.spatial_inputs(column, shape[3] if len(shape) == 4 else 1)
        row = tucker.refitted(self.target, made, self.metric.root if self.metric else None)
        return _chain(self.form, [column, row], chosen, dtype)


@dataclass(frozen=True)
class TuckerForm(Factorization):
    """Two ranks, of the inputs and of the outputs, in the proportion of their channels."""

    def every(self) -> list[Ranks]:
        outputs, inputs = self.shape[:2]
        most = max(outputs, inputs)
        steps = range(1, most + 1)
        each = (self._reached(-(-step * inputs // most), -(-step * outputs // most)) for step in steps)
        return list(dict.fromkeys(each))

    def of_rank(self, rank: int) -> Ranks:
        return self._reached(min(rank, self.shape[1]), min(rank, self.shape[0]))

    def _reached(self, inner: int, outer: int) -> Ranks:
        """As far as the core, whose every channel is made of the others at each place of the kernel, has such ranks."""
        places = math.prod(self.shape[2:])
        return min(inner, outer * places), min(outer, inner * places)

    def shapes(self, chosen: Ranks) -> list[tuple[int, ...]]:
        (inner, outer), (outputs, inputs, *kernel) = chosen, self.shape
        ones = [1] * len(kernel)
        shapes = (inner, inputs, *ones), (outer, inner, *kernel), (outputs, outer, *ones)
        return [self.as_stored(shape) for shape in shapes]

    def split(self, target: Tensor, metric: InputMetric | None, outputs: OutputMetric | None = None) -> Split:
        return _TuckerSplit(self, target, metric)


class _TuckerSplit(Split):
    def __init__(self, form: TuckerForm, target: Tensor, metric: InputMetric | None) -> None:
        self.form, self.target, self.metric = form, target, metric
        (self.outputs, outer), (self.inputs, inner) = tucker.mode_bases(target.reshape(form.shape))
        self.inner: list[float] = factorization.losses(inner).tolist()
        self.outer: list[float] = factorization.losses(outer).tolist()

    def lost(self, chosen: Ranks) -> float:
        """At most that: what one mode loses may be lost in the other already."""
        inner, outer = chosen
        return min(1.0, self.inner[min(inner, len(self.inner) - 1)] + self.outer[min(outer, len(self.outer) - 1)])

    def encoded(self, chosen: Ranks, dtype: torch.dtype) -> Encoded:
        inner, outer = chosen
        kernel = self.target.reshape(self.form.shape)
        first, core, last = tucker.tucker2(kernel, self.outputs[:, :outer], self.inputs[:, :inner])
        if self.metric:
            made = torch.einsum("ab...,bi->ai...", core, first).flatten(1)
            last = tucker.refitted(self.target, made, self.metric.root)
        return _chain(self.form, [first, core, last], chosen, dtype)


def _chain(form: Factorization, factors: list[Tensor], chosen: Ranks, dtype: torch.dtype) -> FactoredConv:
    made = (_stored(form, f, shape, dtype) for f, shape in zip(factors, form.shapes(chosen), strict=True))
    return FactoredConv(*made, transposed=form.transposed)


def _stored(form: Factorization, factor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Dense:
    """A factor (out, in, ...) in the shape that it is stored in."""
    whole = factor.reshape(form.as_stored(shape))
    return Dense((whole.transpose(0, 1) if form.transposed else whole).to(dtype).contiguous())

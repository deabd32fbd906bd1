"""What is kept of a layer's inputs, accumulated in place in float32 while the samples go by.

`add` takes rows (n, groups, columns); plain layers have one group. Several layers with the same input share one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

from webapp.engine.lazy import Tensor, torch


class Statistic(ABC):
    """`count` is the number of rows seen; 0 where no sample reached the layer."""

    def __init__(self, groups: int, columns: int) -> None:
        self.groups, self.columns, self.count = groups, columns, 0

    def add(self, rows: Tensor, original: Tensor | None = None) -> None:
        """`original`: the same rows as the model gave them before this step began, where the calibration keeps them."""
        self.count += len(rows)
        self.take(rows, original)

    @abstractmethod
    def take(self, rows: Tensor, original: Tensor | None) -> None: ...

    @classmethod
    def of(cls, inputs: Covariance) -> Self:
        """What this one would have kept of the same rows, of a model that nothing has changed yet."""
        found = cls(inputs.groups, inputs.columns)
        found.count = inputs.count
        found.fill(inputs)
        return found

    def fill(self, inputs: Covariance) -> None:
        raise NotImplementedError(f"A {type(self).__name__} keeps what no covariance tells.")


class SquareSum(Statistic):
    """`sums` (groups, columns): the sum of squares of each input feature (Wanda's norm, squared)."""

    def __init__(self, groups: int, columns: int) -> None:
        super().__init__(groups, columns)
        self.sums = torch.zeros(groups, columns)

    def take(self, rows: Tensor, original: Tensor | None) -> None:
        self.sums += rows.square().sum(0)

    def fill(self, inputs: Covariance) -> None:
        self.sums = inputs.sums.diagonal(dim1=1, dim2=2).clone()


class Covariance(Statistic):
    """`sums` (groups, columns, columns): x^T x over all rows, uncentred; `mean` divides by their count.

    `total` (groups, columns) is the sum of the rows. `shared` has what a technique worked out of them once, for all
    matrices that read these inputs and all settings that are tried on them.
    """

    def __init__(self, groups: int, columns: int) -> None:
        super().__init__(groups, columns)
        self.sums = torch.zeros(groups, columns, columns)
        self.total = torch.zeros(groups, columns)
        self.shared: dict[Any, Any] = {}

    def take(self, rows: Tensor, original: Tensor | None) -> None:
        self.total += rows.sum(0)
        for group in range(self.groups):
            x = rows[:, group]
            self.sums[group].addmm_(x.t(), x)

    def fill(self, inputs: Covariance) -> None:
        self.sums, self.total = inputs.sums, inputs.total

    @property
    def mean(self) -> Tensor:
        return self.sums / max(self.count, 1)

    def through(self, matrix: Tensor) -> Covariance:
        """Of what `matrix` (out, columns) makes of these inputs, M C M^T; they are in one group."""
        found = Covariance(1, len(matrix))
        found.count, found.total = self.count, self.total @ matrix.t()
        found.sums = (matrix @ self.sums[0] @ matrix.t())[None]
        return found


class CrossCovariance(Covariance):
    """Also `cross` (groups, columns, columns): x^T x_original, of a calibration that keeps the original's activations.

    The weight that best answers on x as W did on the original's inputs is W cross^T sums^-1. `original_total` (groups,
    columns) is the sum of the original's rows.
    """

    def __init__(self, groups: int, columns: int) -> None:
        super().__init__(groups, columns)
        self.cross = torch.zeros(groups, columns, columns)
        self.original_total = torch.zeros(groups, columns)

    def take(self, rows: Tensor, original: Tensor | None) -> None:
        super().take(rows, original)
        original = rows if original is None else original
        self.original_total += original.sum(0)
        for group in range(self.groups):
            self.cross[group].addmm_(rows[:, group].t(), original[:, group])

    def fill(self, inputs: Covariance) -> None:
        super().fill(inputs)
        self.cross, self.original_total = self.sums.clone(), self.total.clone()

"""What is kept of a layer's inputs, accumulated in place in float32 while the samples go by.

`add` takes rows (n, groups, columns); plain layers have one group. Several layers with the same input share one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

from webapp.engine.lazy import Tensor, torch
from webapp.engine.math import mismatch, obs

STRIP = 192  # columns of a covariance that are summed at once


class Statistic(ABC):
    """`count` is the number of rows seen; 0 where no sample reached the layer."""

    def __init__(self, groups: int, columns: int) -> None:
        self.groups, self.columns, self.count = groups, columns, 0

    def add(self, rows: Tensor, original: Tensor | None = None, missing: Tensor | None = None) -> None:
        """`original`: the same rows as the model gave them before this step began, where the calibration keeps them.

        `missing` (n, out): what the residual stream that the outputs are added to lacks of the original's.
        """
        self.count += len(rows)
        self.take(rows, original, missing)

    @abstractmethod
    def take(self, rows: Tensor, original: Tensor | None, missing: Tensor | None) -> None: ...

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

    def take(self, rows: Tensor, original: Tensor | None, missing: Tensor | None) -> None:
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

    def take(self, rows: Tensor, original: Tensor | None, missing: Tensor | None) -> None:
        self.total += rows.sum(0)
        for group in range(self.groups):
            x = rows[:, group]
            for start in range(0, self.columns, STRIP):  # on and above the diagonal: two thirds of the time
                strip = slice(start, start + STRIP)
                self._sums[group, strip, start:].addmm_(x[:, strip].t(), x[:, start:])
        self._mirrored = False

    @property
    def sums(self) -> Tensor:
        if not self._mirrored:
            for start in range(STRIP, self.columns, STRIP):
                strip = slice(start, start + STRIP)
                self._sums[:, strip, :start] = self._sums[:, :start, strip].transpose(1, 2)
            self._mirrored = True
        return self._sums

    @sums.setter
    def sums(self, sums: Tensor) -> None:
        self._sums, self._mirrored = sums, True

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
    """Also what the inputs lack of the original's, of a calibration that keeps the original's activations.

    `drift` (groups, columns, columns) is x^T (x_original - x) and `lack` (columns, out) is x^T times what the residual
    stream lacks that the outputs are added to, None where they are added to none. `compared`: whether there is an
    original.
    """

    def __init__(self, groups: int, columns: int) -> None:
        super().__init__(groups, columns)
        self.drift = torch.zeros(()).expand(groups, columns, columns)  # takes no memory until there is an original
        self.lack: Tensor | None = None
        self.lack_total: Tensor | None = None  # (out,): the sum of what the stream lacks
        self.drift_total = torch.zeros(groups, columns)
        self.compared = False

    def take(self, rows: Tensor, original: Tensor | None, missing: Tensor | None) -> None:
        super().take(rows, original, missing)
        if original is None:
            return
        if not self.compared:
            self.drift, self.compared = torch.zeros_like(self._sums), True
        drift = original - rows
        self.drift_total += drift.sum(0)
        for group in range(self.groups):
            self.drift[group].addmm_(rows[:, group].t(), drift[:, group])
        if missing is not None:
            lack, total = rows[:, 0].t() @ missing, missing.sum(0)
            self.lack = lack if self.lack is None else self.lack.add_(lack)
            self.lack_total = total if self.lack_total is None else self.lack_total.add_(total)

    def target(self, weight: Tensor) -> Tensor:
        """(rows, columns): what makes up for the layers before, of a weight whose groups lie one below the other.

        It is the weight itself where there is no original to compare with.
        """
        if not self.compared:
            return weight
        if "halves" not in self.shared:
            self.shared["halves"] = [obs.curvature(sums, mismatch.DAMPING) for sums in self.sums]
        found = [
            rows if curve.damping is None else mismatch.made_up_for(rows, curve.factor, drift, self.lack)
            for rows, curve, drift in zip(weight.chunk(self.groups), self.shared["halves"], self.drift, strict=True)
        ]
        return torch.cat(found)

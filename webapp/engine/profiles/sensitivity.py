"""What a change of a weight costs, in the unit of the receipt, from one pass forward and backward.

The loss grows by ½ vec(ΔW)ᵀ F vec(ΔW), with F the Fisher information (`drawn_loss`). Of a matrix it is taken apart as
K-FAC does it (Martens & Grosse 2015, https://arxiv.org/abs/1503.05671): ½ tr(G ΔW H ΔWᵀ), of the inputs' covariance H
and that of the gradients at the outputs, G. A matrix that works at many places of a sample (tokens, pixels) moves them
all at once, so the places of a sample do not just add up: what the inputs of a sample have in common goes with the
covariance of the gradients' sum over its places ("reduce" of Eschenhagen et al. 2023,
https://arxiv.org/abs/2311.00636), what sets them apart with that of each gradient ("expand").

A technique that fits a change to inputs fits it to the samples it sees: on others the change costs more, several times
as much where a weight has more columns than there were samples. So the inputs of every second batch are held back from
trials. What a change costs lies between its costs on both, for a run sees more samples than a profile does.

Sampled are: of a convolution PLACES of each image; of outputs wider than WIDEST random signed sums of the gradients
(SKETCH of them), whose outer products are G on average. Biases and norms, and matrices whose inputs nobody sees, have
the squares of their gradients alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from webapp.engine.facts import PLAIN, Layout
from webapp.engine.lazy import Tensor, torch
from webapp.engine.techniques.calibration import Covariance

WIDEST = 256  # outputs whose covariance is kept whole
SKETCH = 128  # signed sums of the gradients at wider ones
HELD = 0.6  # the share of inputs held back in what a change costs, between 1/2 (runs see all there is) and 1
PLACES = 128  # of a sample of a convolution, evenly


class Directions:
    """`rows()` (groups, n, width): rows whose outer products add up to those of all that were added.

    Exactly where they are no wider than WIDEST, else on average over random signs.
    """

    def __init__(self, groups: int, width: int, seed: int) -> None:
        self.exact = width <= WIDEST
        self.sums = torch.zeros(groups, width if self.exact else SKETCH, width)
        self._generator = torch.Generator().manual_seed(seed)

    def add(self, rows: Tensor) -> None:
        """(n, groups, width)."""
        if not self.exact:
            signs = torch.randint(0, 2, (SKETCH, len(rows)), generator=self._generator).float().mul_(2).sub_(1)
        for group in range(rows.shape[1]):
            x = rows[:, group]
            self.sums[group].addmm_(x.t() if self.exact else signs, x)

    def rows(self) -> Tensor:
        if self.exact:
            values, vectors = torch.linalg.eigh(self.sums)
            found: Tensor = vectors.transpose(1, 2) * values.clamp(min=0).sqrt()[..., None]
            return found
        return self.sums / math.sqrt(SKETCH)

    @property
    def diagonal(self) -> Tensor:
        """(width,) of the sum of the outer products, in the first group."""
        return self.sums[0].diagonal() if self.exact else self.sums[0].square().mean(0)


class SampleCovariance(Covariance):
    """Also what the inputs of a sample have in common: `common` (groups, columns, columns) is the covariance of their
    mean over each sample's places, `apart` of what is left, and the sum of both that of all inputs."""

    def __init__(self, groups: int, columns: int) -> None:
        super().__init__(groups, columns)
        self.common_sums = torch.zeros(groups, columns, columns)

    def add_samples(self, x: Tensor, valid: Tensor | None) -> None:
        """(B, places, groups, columns), and which of the places (B, places) count."""
        if valid is not None:
            x = x * valid[..., None, None]
        counts = torch.full((len(x),), x.shape[1]) if valid is None else valid.sum(1)
        self.count += int(counts.sum())
        self.take(x.flatten(0, 1), None, None)
        means = x.sum(1) / counts.clamp(min=1).sqrt()[:, None, None]
        for group in range(self.groups):
            self.common_sums[group].addmm_(means[:, group].t(), means[:, group])

    @property
    def common(self) -> Tensor:
        return self.common_sums / max(self.count, 1)

    @property
    def apart(self) -> Tensor:
        return (self.sums - self.common_sums) / max(self.count, 1)


class MatrixSensitivity:
    """Of one product with a matrix; `inputs` may be shared by those that read the same, like those `held` back."""

    def __init__(
        self, inputs: SampleCovariance, held: SampleCovariance, groups: int, outputs: int, seed: int, image: bool
    ) -> None:
        self.inputs, self.held, self.image = inputs, held, image
        self.each, self.summed = Directions(groups, outputs, seed), Directions(groups, outputs, seed + 1)
        self.places = False  # whether any sample has more than one

    def add(self, gradients: Tensor, valid: Tensor | None) -> None:
        """(B, places, groups, outputs), and which of the places count."""
        if valid is not None:
            gradients = gradients * valid[..., None, None]
        self.summed.add(gradients.sum(1))
        places = gradients.shape[1]
        if places > 1:
            self.places = True
            if valid is None and self.image:
                gradients = some_places(gradients)
            self.each.add(gradients.flatten(0, 1) * (places / gradients.shape[1]) ** 0.5)

    def quadratic(self, change: Tensor, held: float = HELD) -> float:
        """tr(G ΔW H ΔWᵀ) of a change (outputs, columns), summed over all samples."""
        change = change.float().reshape(self.inputs.groups, -1, change.shape[1])
        summed = self.summed.rows() @ change
        each = self.each.rows() @ change if self.places else None

        def of(inputs: SampleCovariance) -> Tensor:
            total = _trace(summed, inputs.common)
            return total if each is None else total + _trace(each, inputs.apart)

        return float(self._between(of, held))

    def per_row(self, change: Tensor, rows: Tensor) -> Tensor:
        """(rows,): the same of changes (rows, columns) of these outputs of one group, each for itself; float64."""

        def of(inputs: SampleCovariance) -> Tensor:
            common = _row_traces(change, inputs.common_sums[0])
            total = common * self.summed.diagonal[rows]
            if self.places:
                apart = (_row_traces(change, inputs.sums[0]) - common).clamp(min=0)
                total += apart * self.each.diagonal[rows]
            return total / max(inputs.count, 1)

        return self._between(of, HELD)

    def _between(self, cost: Callable[[SampleCovariance], Tensor], held: float) -> Tensor:
        """Of what a change costs on the inputs that trials see and, that share of it, on those held back, if any."""
        share = held if self.held.count else 0.0
        found = torch.zeros(())
        for part, inputs in ((1 - share, self.inputs), (share, self.held)):
            found = found + part * cost(inputs).clamp(min=0) if part else found
        return found

    @property
    def diagonal(self) -> Tensor:
        """(outputs,) of G, of the first group."""
        return self.each.diagonal if self.places else self.summed.diagonal


def _row_traces(change: Tensor, covariance: Tensor) -> Tensor:
    return ((change @ covariance) * change).sum(1, dtype=torch.float64)


def some_places(rows: Tensor) -> Tensor:
    """Of (B, places, ...) at most PLACES."""
    return rows[:, :: max(1, -(-rows.shape[1] // PLACES))]


def _trace(moved: Tensor, covariance: Tensor) -> Tensor:
    return ((moved @ covariance) * moved).sum(dtype=torch.float64)


@dataclass
class Lookups:
    """Of an embedding's rows: `ids` (n,) and the gradients (n, width) where they were looked up; of a sample that looks
    a row up at several places the sum."""

    ids: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)

    def add(self, ids: Tensor, gradients: Tensor, valid: Tensor | None) -> None:
        """(B, places), (B, places, width)."""
        rows = int(ids.max()) + 1 if ids.numel() else 1
        numbers = ids + rows * torch.arange(len(ids))[:, None]
        if valid is not None and valid.shape == ids.shape:
            numbers, gradients = numbers[valid], gradients[valid]
        found, places = torch.unique(numbers, return_inverse=True)
        summed = torch.zeros(len(found), gradients.shape[-1])
        summed.index_add_(0, places.reshape(-1), gradients.reshape(-1, gradients.shape[-1]))
        self.ids.append(found % rows)
        self.gradients.append(summed)

    def per_row(self, change: Tensor, rows: Tensor, length: int) -> Tensor:
        """(rows,): of changes (rows, width) of these of the table's `length` rows, float64."""
        places = torch.full((length,), -1)
        places[rows] = torch.arange(len(rows))
        found = torch.zeros(len(rows), dtype=torch.float64)
        for ids, gradients in zip(self.ids, self.gradients, strict=True):
            at = places[ids]
            known = at >= 0
            moved = (gradients[known] * change[at[known]]).sum(1)
            found.index_add_(0, at[known], moved.double().square())
        return found

    def squares(self, length: int) -> Tensor:
        """(length,): of the gradients, summed for each row."""
        found = torch.zeros(length)
        for ids, gradients in zip(self.ids, self.gradients, strict=True):
            found.index_add_(0, ids, gradients.square().sum(1))
        return found


@dataclass
class LayerSensitivity:
    """All that is known of a layer's weight (rows, columns), or of a tensor that belongs to none.

    Where it is multiplied there are `products`, where it is looked up `lookups`: a table that is the head too has both.
    `squares` (of the tensor's shape) are those of its gradients, where no product is seen.
    """

    layout: Layout = PLAIN
    products: list[MatrixSensitivity] = field(default_factory=list)
    lookups: list[Lookups] = field(default_factory=list)
    squares: Tensor | None = None

    @property
    def inputs(self) -> SampleCovariance | None:
        """What the weight is multiplied with; None where nobody sees that."""
        return self.products[0].inputs if self.products else None

    def cost(self, change: Tensor, count: float, held: float = HELD) -> float:
        """Expected loss, in the unit of the receipt, of a change (rows, columns); `count` is the drawn loss's.

        `held`: the share of the inputs held back from trials in it.
        """
        change = change.float()
        total = sum(product.quadratic(change, held) for product in self.products)
        rows = torch.arange(len(change))
        total += sum(float(lookup.per_row(change, rows, len(change)).sum()) for lookup in self.lookups)
        if self.squares is not None:
            total += float((self._flat_squares() * change.square()).sum(dtype=torch.float64))
        return 0.5 * total / count

    def row_costs(self, change: Tensor, rows: Tensor, length: int, count: float) -> Tensor:
        """(rows,) of changes (rows, columns) of these of `length` rows, taken for independent of each other."""
        change = change.float()
        total = torch.zeros(len(rows), dtype=torch.float64)
        for product in self.products:
            total += product.per_row(change, rows)
        for lookup in self.lookups:
            total += lookup.per_row(change, rows, length)
        if self.squares is not None:
            total += (self._flat_squares()[rows] * change.square()).sum(1, dtype=torch.float64)
        return 0.5 * total / count

    def weight_of_rows(self, matrix: Tensor) -> Tensor:
        """(rows,): about what a change by some share of its values (rows, columns) costs, beside others."""
        squares = matrix.square()
        total = torch.zeros(len(matrix))
        for product in self.products:
            total += product.diagonal * (squares @ product.inputs.mean[0].diagonal())
        for lookup in self.lookups:
            total += lookup.squares(len(matrix)) * squares.mean(1)
        if self.squares is not None:
            total += (self._flat_squares() * squares).sum(1)
        return total

    def joined(self, other: LayerSensitivity) -> LayerSensitivity:
        """With what another part of the model, which uses the same weight, knows of it."""
        squares = [each for each in (self.squares, other.squares) if each is not None]
        products, lookups = self.products + other.products, self.lookups + other.lookups
        return LayerSensitivity(self.layout, products, lookups, sum(squares[1:], squares[0]) if squares else None)

    def _flat_squares(self) -> Tensor:
        assert self.squares is not None
        return self.layout.matrix(self.squares) if self.squares.dim() else self.squares.reshape(1, 1)


_KEPT: Sequence[type] = (LayerSensitivity, Layout, Directions, SampleCovariance, MatrixSensitivity, Lookups)
_ANEW = ("_generator", "shared")  # nothing is added to what was kept


def as_kept(value: Any) -> Any:
    """What is known of a layer as tensors, numbers, lists and dictionaries: to be read again, no pickle has to run."""
    if isinstance(value, list):
        return [as_kept(each) for each in value]
    if isinstance(value, tuple(_KEPT)):
        inner = {name: as_kept(each) for name, each in vars(value).items() if name not in _ANEW}
        return {"part": type(value).__name__, **inner}
    return value


def from_kept(value: Any) -> Any:
    """The inverse of `as_kept`."""
    if isinstance(value, list):
        return [from_kept(each) for each in value]
    if not isinstance(value, dict):
        return value
    part: Any = next(each for each in _KEPT if each.__name__ == value["part"])
    found = part.__new__(part)
    vars(found).update({name: from_kept(each) for name, each in value.items() if name != "part"})
    if isinstance(found, SampleCovariance):
        found.shared = {}
    return found

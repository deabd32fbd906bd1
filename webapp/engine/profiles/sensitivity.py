"""What a change of a weight costs, in the unit of the receipt, from one pass forward and backward.

The loss grows by ½ vec(ΔW)ᵀ F vec(ΔW), with F the Fisher information (`drawn_loss`). Of a matrix it is taken apart as
K-FAC does it (Martens & Grosse 2015, https://arxiv.org/abs/1503.05671): ½ tr(G ΔW H ΔWᵀ), of the inputs' covariance H
and that of the gradients at the outputs, G. A matrix that works at many places of a sample (tokens, pixels) moves them
all at once, so the places of a sample do not just add up: what the inputs of a sample have in common goes with the
covariance of the gradients' sum over its places ("reduce" of Eschenhagen et al. 2023,
https://arxiv.org/abs/2311.00636), what sets them apart with that of each gradient ("expand").

Sampled are: of a convolution PLACES of each image; of outputs wider than WIDEST random signed sums of the gradients
(SKETCH of them), whose outer products are G on average. Biases and norms, and matrices whose inputs nobody sees, have
the squares of their gradients alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from webapp.engine.facts import Layout
from webapp.engine.lazy import Tensor, torch
from webapp.engine.techniques.calibration import Covariance
from webapp.engine.weights import Encoded

WIDEST = 256  # outputs whose covariance is kept whole
SKETCH = 128  # signed sums of the gradients at wider ones
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
        self.take(x.flatten(0, 1), None)
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
    """Of one product with a matrix; `inputs` may be shared by those that read the same."""

    def __init__(self, inputs: SampleCovariance, groups: int, outputs: int, seed: int, image: bool) -> None:
        self.inputs, self.image = inputs, image
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

    def quadratic(self, change: Tensor) -> float:
        """tr(G ΔW H ΔWᵀ) of a change (outputs, columns), summed over all samples."""
        groups = len(self.inputs.sums)
        change = change.float().reshape(groups, -1, change.shape[1])
        total = _trace(self.summed.rows() @ change, self.inputs.common)
        return total + (_trace(self.each.rows() @ change, self.inputs.apart) if self.places else 0.0)


def some_places(rows: Tensor) -> Tensor:
    """Of (B, places, ...) at most PLACES."""
    return rows[:, :: max(1, -(-rows.shape[1] // PLACES))]


def _trace(moved: Tensor, covariance: Tensor) -> float:
    return float(((moved @ covariance) * moved).sum(dtype=torch.float64))


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

    def quadratic(self, change: Tensor) -> float:
        return sum(
            float((gradients * change[ids].float()).sum(1).square().sum(dtype=torch.float64))
            for ids, gradients in zip(self.ids, self.gradients, strict=True)
        )


@dataclass
class LayerSensitivity:
    """All that is known of a layer, or of a tensor that belongs to none.

    `products`: by the name of the factor that is multiplied, "" for the whole weight. A tied table has both.
    `squares`: of the gradients of a tensor (of its shape), where no product is seen.
    """

    layout: Layout = field(default_factory=Layout)
    products: list[tuple[str, MatrixSensitivity]] = field(default_factory=list)
    lookups: list[Lookups] = field(default_factory=list)
    squares: dict[str, Tensor] = field(default_factory=dict)

    def cost(self, before: Encoded, after: Encoded, count: float) -> float:
        """Expected loss in the unit of the receipt when a weight is replaced; `count` is that of the drawn loss.

        A weight that is put together from factors has to stay so, each factor with its shape.
        """
        total = 0.0
        changes = {
            side: _change(before, after, side) for side in {side for side, _ in self.products} | set(self.squares)
        }
        for side, product in self.products:
            total += product.quadratic(self.layout.matrix(changes[side]))
        for side, squares in self.squares.items():
            total += float((changes[side].square() * squares).sum(dtype=torch.float64))
        if self.lookups:
            whole = _change(before, after, "")
            total += sum(lookup.quadratic(whole) for lookup in self.lookups)
        return 0.5 * total / count

    def joined(self, other: LayerSensitivity) -> LayerSensitivity:
        """With what another part of the model, which uses the same weight, knows of it."""
        squares = dict(self.squares)
        for side, values in other.squares.items():
            squares[side] = squares[side] + values if side in squares else values
        return LayerSensitivity(self.layout, self.products + other.products, self.lookups + other.lookups, squares)


def _change(before: Encoded, after: Encoded, side: str) -> Tensor:
    one, other = (encoded.factors[side] if side else encoded for encoded in (before, after))
    return other.decode().float() - one.decode().float()

"""What the pruning techniques that calibrate share: the samples, and how the ratio is spread over the layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from webapp.engine.facts import LayerFacts
from webapp.engine.lazy import Tensor, torch
from webapp.engine.math import allocation, masks
from webapp.engine.progress import ProgressPart
from webapp.engine.recipe import StepSettings, setting
from webapp.engine.techniques.calibration.block_by_block import BlockByBlock
from webapp.engine.weights import Encoded
from webapp.engine.weights.model import Model

from .base import Context, Outcome, calibration_samples
from .calibration import SquareSum, WeightMatrix, calibration_blocks
from .pruning import Pruning, PruningSettings, smallest_gone, without

TELLS_NOTHING = "what was measured of its inputs tells nothing (zero or beyond numbers), so magnitude alone decided"
MEASURING = 0.3  # of the time


class CalibratedPruningSettings(PruningSettings):
    allocation: Literal["uniform", "sensitivity"] = setting(
        "uniform",
        "Sparsity allocation",
        "uniform: the same everywhere. sensitivity: less where a weight carries more of its layer's output, up to a "
        "tenth more or less, with the same total over all layers of the same sparsity; takes one more pass over the "
        "samples. At half of the weights it has gained next to nothing in our trials: compare both.",
        show_when={"pattern": "unstructured"},
    )
    samples: int = calibration_samples()

    @property
    def uneven(self) -> bool:
        return self.allocation == "sensitivity" and not self.n_of_m


@dataclass(frozen=True)
class Allocated(Context):
    """A step that has measured how its ratio is spread: the share of each matrix, by its path."""

    shares: Mapping[str, float] = field(default_factory=dict)


class CalibratedPruning(Pruning, BlockByBlock):
    """Block by block, each on what the pruned ones before it put out."""

    without_data = "so magnitude decided"
    experts_apart = True

    def exact(self, settings: Any) -> bool:
        return not settings.uneven

    def asked(self, layer: LayerFacts, settings: Any) -> str:
        return super().asked(layer, settings) + (" over all layers of this sparsity" if settings.uneven else "")

    def apply(self, model: Model, settings: StepSettings, context: Context) -> list[Outcome]:
        if any(settings.of(layer).uneven for layer in context.layers):
            shares = self.shares(model, settings, context)
            later = {**vars(context), "report": ProgressPart(context.report, MEASURING, 1.0)}
            context = Allocated(**later, shares=shares)
        return super().apply(model, settings, context)

    def share(self, matrix: WeightMatrix, settings: Any, context: Context) -> float:
        """How much of this matrix goes."""
        known = context.shares if isinstance(context, Allocated) else {}
        return float(known.get(matrix.path, settings.share))

    def plainly(self, matrix: WeightMatrix, settings: Any) -> Encoded:
        return without(matrix, smallest_gone(matrix, settings))

    def told(self, matrix: WeightMatrix, encoded: Encoded, settings: Any, note: str) -> Outcome:
        return self.result(matrix, encoded, settings, settings.share, note)

    def shares(self, model: Model, settings: StepSettings, context: Context) -> dict[str, float]:
        """The share of each uneven matrix that the samples reach, from a calibration that changes nothing."""
        data, report = context.calibration(settings.own.samples), ProgressPart(context.report, 0.0, MEASURING)
        layers = [layer for layer in context.layers if settings.of(layer).uneven]
        pools: dict[float, dict[str, tuple[int, Any]]] = {}  # of each share: by matrix, its size and its costs
        for block in calibration_blocks(model, layers, data, report, f"{self.title}: measuring"):
            for stage, statistics in block.staged(SquareSum):
                for matrix in stage:
                    if statistics[matrix.path].count:
                        scores, _ = saliency(matrix, statistics[matrix.path])
                        share = settings.of(matrix.layer).share
                        costs = allocation.next_costs(scores, allocation.ratios(share))
                        pools.setdefault(share, {})[matrix.path] = (scores.numel(), costs)
        found: dict[str, float] = {}
        for share, pool in pools.items():
            sizes, losses = [size for size, _ in pool.values()], [costs for _, costs in pool.values()]
            found |= zip(pool, allocation.allocated(losses, sizes, share), strict=True)
        return found


def saliency(matrix: WeightMatrix, statistic: SquareSum) -> tuple[Tensor, str]:
    """|W| ||x|| (out, in) of a matrix, and a note where the norms tell nothing: Wanda's equation 1."""
    values, norms, note = matrix.floats(), statistic.sums.sqrt(), ""
    if not 0 < float(norms.sum()) < torch.inf:
        norms, note = torch.ones_like(norms), TELLS_NOTHING
    scores = values.abs() * norms.repeat_interleave(len(values) // matrix.groups, dim=0)
    return masks.zeros_first(scores, values), note

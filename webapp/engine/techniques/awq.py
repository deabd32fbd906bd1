"""AWQ: inputs that speak loudly are scaled up in the weights and down in the layer before; then weights are rounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from webapp.engine.lazy import Tensor, torch
from webapp.engine.math import awq, gptq
from webapp.engine.math.compensation import Coded
from webapp.engine.recipe import StepSettings
from webapp.engine.techniques.calibration.block_by_block import BlockByBlock
from webapp.engine.techniques.calibration.folding import fold, producers
from webapp.engine.weights import Encoded, Quantized

from .base import Context, Outcome, calibration_samples
from .calibration import CalibrationBlock, Covariance, WeightMatrix
from .rounding import Rounding, RoundingSettings, compensated, nearest

DAMPING = 0.01  # of the metric in which low rank is fitted to the error
UNSCALED = "no layer before it can take its scales, so it was rounded without them"


class Loudness(Covariance):
    """Also `sizes` (groups, columns): the sum of the absolute values of each input."""

    def __init__(self, groups: int, columns: int) -> None:
        super().__init__(groups, columns)
        self.sizes = torch.zeros(groups, columns)

    def take(self, rows: Tensor, original: Tensor | None, missing: Tensor | None) -> None:
        super().take(rows, original, missing)
        self.sizes += rows.abs().sum(0)


class Awq(Rounding, BlockByBlock):
    name = "awq"
    title = "AWQ"
    family = "Quantization"
    copies, covariances = 8.0, 4.0
    summary = (
        "Rounds weights to 8- to 2-bit codes after scaling up the inputs that matter most, which the layer before "
        "takes back; needs calibration data and little time. gptq keeps more at 3 bits and below."
    )
    paper = "https://arxiv.org/abs/2306.00978"
    statistic = Covariance

    without_data = "so it was rounded to nearest"

    class Settings(RoundingSettings):
        samples: int = calibration_samples()

    def compress_block(
        self, block: CalibrationBlock, settings: StepSettings, context: Context
    ) -> Sequence[tuple[WeightMatrix, Outcome]]:
        scaled = {matrix.path for matrices in self._folded(block, settings) for matrix in matrices}
        done = super().compress_block(block, settings, context)
        return [
            (matrix, outcome if matrix.path in scaled or outcome.note else replace(outcome, ok=False, note=UNSCALED))
            for matrix, outcome in done
        ]

    def _folded(self, block: CalibrationBlock, settings: StepSettings) -> Iterator[list[WeightMatrix]]:
        """Scales what can be scaled in the block, which then answers as before. Those that took scales, by input."""
        for matrices, candidates in producers(block):
            statistic = block.collect(matrices, Loudness)[matrices[0].path]
            given = [(matrix.floats(), replace(settings.of(matrix.layer).scheme, search=False)) for matrix in matrices]
            sizes = statistic.sizes[0] / max(statistic.count, 1)
            scales = awq.searched_scales(given, sizes, statistic.mean[0])
            if scales is None or any(fold(block, producer, matrices, scales) for producer in candidates):
                yield matrices

    def compress_matrix(
        self, matrix: WeightMatrix, statistic: Covariance, settings: Any, context: Context
    ) -> tuple[Encoded, Outcome]:
        values = matrix.floats()
        weights = statistic.sums.diagonal(dim1=1, dim2=2).mean(0)  # (columns,)
        old, zeros = matrix.encoded, values == 0 if matrix.encoded.plan.pruned else None

        def rounded(wanted: Tensor) -> Coded:
            return nearest(wanted, zeros, settings.scheme, weights)

        base = Quantized(*rounded(values), old.shape, old.dtype, matrix.layout, old.plan.pruned)
        done: Encoded = base
        if rank := self.rank(matrix, settings):
            given = gptq.problem(values, statistic.mean[0], DAMPING, act_order=True)
            done = compensated(values, base, rank, rounded, given)
        return done, self.told(matrix, done, settings, "")

"""Wanda: weights go by their magnitude times the norm of the input that they multiply."""

from __future__ import annotations

from typing import Any

from webapp.engine.math import masks
from webapp.engine.weights import Encoded

from .base import Context, Outcome
from .calibrated_pruning import CalibratedPruning, CalibratedPruningSettings, saliency
from .calibration import SquareSum, WeightMatrix
from .pruning import by_groups, without


class Wanda(CalibratedPruning):
    name = "wanda"
    title = "Wanda"
    family = "Pruning"
    summary = (
        "Removes the weights with the smallest product of magnitude and input norm, compared within each output; "
        "takes calibration data and one pass of it, and keeps far more accuracy than magnitude alone."
    )
    paper = "https://arxiv.org/abs/2306.11695"
    statistic = SquareSum
    at_once = True  # as the paper has it
    counts_zeros = False  # a row that had more of them than its share keeps them
    Settings = CalibratedPruningSettings

    def compress_matrix(
        self, matrix: WeightMatrix, statistic: SquareSum, settings: Any, context: Context
    ) -> tuple[Encoded, Outcome]:
        share = self.share(matrix, settings, context)
        scores, note = saliency(matrix, statistic)
        keep = by_groups(scores, matrix, *settings.n_of_m) if settings.n_of_m else masks.largest_by_row(scores, share)
        encoded = without(matrix, keep)
        return encoded, self.result(matrix, encoded, settings, share, note)

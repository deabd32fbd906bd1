"""Random pruning: the baseline that every other choice of weights has to beat."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from webapp.engine.lazy import Tensor, torch
from webapp.engine.math import masks
from webapp.engine.recipe import StepSettings
from webapp.engine.weights.model import Model

from .base import Context
from .calibration import WeightMatrix
from .pruning import PruningSettings, PruningWithoutData, by_groups


class RandomPruning(PruningWithoutData):
    name = "random_pruning"
    title = "Random pruning"
    family = "Pruning"
    summary = (
        "Removes weights at random, as a baseline for the others; at the same ratio it costs far more accuracy than "
        "magnitude does."
    )
    paper = "https://arxiv.org/abs/2003.03033"
    Settings = PruningSettings

    def choice(self, model: Model, settings: StepSettings, context: Context) -> Callable[[WeightMatrix], Tensor]:
        def keep(matrix: WeightMatrix) -> Tensor:
            values, own = matrix.floats(), settings.of(matrix.layer)
            drawn = torch.Generator().manual_seed(zlib.crc32(f"{context.seed} {matrix.path}".encode()))
            scores = masks.zeros_first(torch.rand(values.shape, generator=drawn), values)
            if own.n_of_m:
                return by_groups(scores, matrix, *own.n_of_m)
            return masks.keep_largest(scores, own.sparsity)

        return keep

"""Magnitude pruning: the smallest weights are removed, and the file holds only the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from webapp.engine.facts import LayerFacts
from webapp.engine.lazy import Tensor
from webapp.engine.math import masks
from webapp.engine.recipe import StepSettings, setting
from webapp.engine.techniques.calibration.block_by_block import matrices_of
from webapp.engine.weights.model import Model

from .base import Context
from .calibration import WeightMatrix
from .pruning import PruningSettings, PruningWithoutData, smallest_gone


class MagnitudePruning(PruningWithoutData):
    name = "magnitude_pruning"
    title = "Magnitude pruning"
    family = "Pruning"
    summary = (
        "Removes the weights with the smallest absolute values and stores the rest behind a bitmask; "
        "above 50 % accuracy falls quickly without fine-tuning."
    )
    paper = "https://arxiv.org/abs/1506.02626"

    class Settings(PruningSettings):
        scope: Literal["layer", "row", "global"] = setting(
            "layer",
            "Scope",
            "layer: every layer loses the same share. row: every output of every layer does. "
            "global: the smallest weights of all layers with the same sparsity go, wherever they are.",
            show_when={"pattern": "unstructured"},
        )

    def exact(self, settings: Any) -> bool:
        return settings.n_of_m is not None or settings.scope != "global"

    def asked(self, layer: LayerFacts, settings: Any) -> str:
        return super().asked(layer, settings) + ("" if self.exact(settings) else " over all layers of this sparsity")

    def least(self, settings: Any) -> float | None:
        return super().least(settings) if self.exact(settings) else None

    def choice(self, model: Model, settings: StepSettings, context: Context) -> Callable[[WeightMatrix], Tensor]:
        pools: dict[float, list[LayerFacts]] = {}
        for layer in context.layers:
            if not self.exact(own := settings.of(layer)):
                pools.setdefault(own.sparsity, []).append(layer)
        if pools:
            context.report.progress(0.0, f"{self.title}: finding the threshold over all layers")
        smallest = {sparsity: SmallestOfAll(model, layers, sparsity) for sparsity, layers in pools.items()}

        def keep(matrix: WeightMatrix) -> Tensor:
            own = settings.of(matrix.layer)
            if not self.exact(own):
                return smallest[own.sparsity].keep(matrix)
            if own.scope == "row" and not own.n_of_m:
                return masks.largest_by_row(matrix.floats().abs(), own.sparsity)
            return smallest_gone(matrix, own)

        return keep


class SmallestOfAll:
    """One threshold over these layers, and how many values equal to it still have to go."""

    def __init__(self, model: Model, layers: Sequence[LayerFacts], sparsity: float) -> None:
        matrices = [matrix for layer in layers for matrix in matrices_of(model, layer)]
        count = round(sparsity * sum(matrix.encoded.plan.size for matrix in matrices))
        self.threshold, self.ties = masks.smallest_threshold(lambda: (matrix.floats() for matrix in matrices), count)

    def keep(self, matrix: WeightMatrix) -> Tensor:
        keep, used = masks.keep_mask(matrix.floats(), self.threshold, self.ties)
        self.ties -= used
        return keep

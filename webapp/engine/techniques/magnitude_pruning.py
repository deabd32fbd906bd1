"""Magnitude pruning: the smallest weights are removed, and the file holds only the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from webapp.engine.facts import LayerFacts
from webapp.engine.lazy import Tensor
from webapp.engine.math import masks
from webapp.engine.recipe import setting
from webapp.engine.techniques.calibration.block_by_block import matrices
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
            "global: the smallest weights of all chosen layers go, wherever they are.",
            widget="choice",
            show_when={"pattern": "unstructured"},
        )

    def exact(self, settings: Any) -> bool:
        return settings.n_of_m is not None or settings.scope != "global"

    def asked(self, layer: LayerFacts, settings: Any) -> str:
        return super().asked(layer, settings) + ("" if self.exact(settings) else " over all layers")

    def least(self, settings: Any) -> float | None:
        return super().least(settings) if self.exact(settings) else None

    def choice(self, model: Model, settings: Any, context: Context) -> Callable[[WeightMatrix], Tensor]:
        if settings.scope == "global" and not settings.n_of_m:
            context.report.progress(0.0, f"{self.title}: finding the threshold over all layers")
            return SmallestOfAll(model, context, settings.sparsity).keep
        if settings.scope == "row" and not settings.n_of_m:
            return lambda slot: masks.largest_by_row(slot.matrix().abs(), settings.sparsity)
        return lambda slot: smallest_gone(slot, settings)


class SmallestOfAll:
    """One threshold over all layers, and how many values equal to it still have to go."""

    def __init__(self, model: Model, context: Context, sparsity: float) -> None:
        slots = [slot for layer in context.layers for slot in matrices(model, layer)]
        count = round(sparsity * sum(slot.encoded.plan.size for slot in slots))
        self.threshold, self.ties = masks.smallest_threshold(lambda: (slot.matrix() for slot in slots), count)

    def keep(self, slot: WeightMatrix) -> Tensor:
        keep, used = masks.keep_mask(slot.matrix(), self.threshold, self.ties)
        self.ties -= used
        return keep

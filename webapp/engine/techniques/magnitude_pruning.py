"""Unstructured magnitude pruning: the smallest weights are removed, and the file holds only the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..encodings import Dense, Encoded, Factored
from ..facts import LayerFacts
from ..math import masks
from ..model import Model
from ..plans import DensePlan, FactoredPlan, Plan, QuantizedPlan
from ..progress import tracked
from .base import Context, Outcome, Skip, Technique, setting
from .base import Settings as BaseSettings

REACHED = 0.005  # a layer this far below the ratio that was asked is shown as not reached


class MagnitudePruning(Technique):
    name = "magnitude_pruning"
    title = "Magnitude pruning"
    summary = (
        "Removes the weights with the smallest absolute values and stores the rest behind a bitmask; "
        "above 50 % accuracy falls quickly without fine-tuning."
    )
    paper = "https://arxiv.org/abs/1506.02626"
    layers = frozenset({"linear", "conv"})

    class Settings(BaseSettings):
        sparsity: float = setting(
            0.5,
            "Sparsity",
            "The share of weights to remove from the chosen layers.",
            widget="slider",
            step=0.01,
            ge=0.0,
            le=0.99,
        )
        scope: Literal["layer", "global"] = setting(
            "layer",
            "Compared within",
            "layer: every layer loses the same share. global: the smallest weights of all chosen layers go, "
            "wherever they are.",
            widget="choice",
        )

    def refuses(self, plan: Plan) -> str | None:
        inner = (plan.left, plan.right) if isinstance(plan, FactoredPlan) else (plan,)
        if any(isinstance(p, QuantizedPlan) for p in inner):
            return "its values are integers by then; put magnitude_pruning before weight_quantization"
        return None

    def exact(self, settings: Any) -> bool:
        return bool(settings.scope == "layer")

    def plan(self, layer: LayerFacts, plan: Plan, settings: Any) -> Plan:
        if isinstance(plan, FactoredPlan):
            left, right = self.plan(layer, plan.left, settings), self.plan(layer, plan.right, settings)
            return plan.with_factors(left, right)
        assert isinstance(plan, DensePlan)
        return replace(plan, zeros=max(plan.zeros, round(settings.sparsity * plan.size)), zeros_wanted=True)

    def apply(self, model: Model, settings: Any, context: Context) -> list[Outcome]:
        chosen = [layer for layer in context.layers if layer.weight in model.weights]
        shared = None
        if settings.scope == "global":
            context.report.progress(0.0, "Magnitude pruning: finding the threshold over all layers")
            shared = Removal.over(lambda: _values(model, chosen), settings.sparsity)
        outcomes = []
        for layer in tracked(chosen, context.report, "Magnitude pruning: {item.name} ({index} of {total})"):
            before = model.weights[layer.weight]
            model.weights[layer.weight] = _pruned(before, settings.sparsity, shared)
            outcomes.append(_outcome(layer, model.weights[layer.weight].plan, settings))
        return outcomes


class Removal:
    """A threshold and how many values equal to it still have to go."""

    def __init__(self, threshold: int, ties: int) -> None:
        self.threshold, self.ties = threshold, ties

    @classmethod
    def over(cls, tensors: Callable[[], Iterator[Tensor]], sparsity: float) -> Removal:
        count = round(sparsity * sum(t.numel() for t in tensors()))
        return cls(*masks.smallest_threshold(tensors, count))

    def from_(self, values: Tensor) -> Tensor:
        keep, used = masks.keep_mask(values, self.threshold, self.ties)
        self.ties -= used
        return torch.where(keep, values, torch.zeros((), dtype=values.dtype))


def _dense_parts(encoded: Encoded) -> Iterator[Encoded]:
    if isinstance(encoded, Factored):
        yield from (encoded.left, encoded.right)
    else:
        yield encoded


def _values(model: Model, layers: list[LayerFacts]) -> Iterator[Tensor]:
    for layer in layers:
        for part in _dense_parts(model.weights[layer.weight]):
            yield part.decode()


def _pruned(encoded: Encoded, sparsity: float, shared: Removal | None) -> Encoded:
    if isinstance(encoded, Factored):
        return Factored(_pruned(encoded.left, sparsity, shared), _pruned(encoded.right, sparsity, shared))
    values = encoded.decode()
    removal = shared or Removal.over(lambda: iter((values,)), sparsity)
    return Dense(removal.from_(values), zeros_wanted=True)


def _outcome(layer: LayerFacts, plan: Plan, settings: Any) -> Outcome:
    done = 1 - plan.nonzero / plan.params
    if settings.scope == "global":
        return Outcome(layer.name, f"{settings.sparsity:.1%} over all layers", f"{done:.1%}")
    reached = done >= settings.sparsity - max(REACHED, 1 / plan.params)
    note = "" if plan.stored < plan.params or not plan.nonzero else "a bitmask would cost more than it saves here"
    return Outcome(layer.name, f"{settings.sparsity:.1%}", f"{done:.1%}", ok=reached, note=note)


__all__ = ["MagnitudePruning", "Skip"]

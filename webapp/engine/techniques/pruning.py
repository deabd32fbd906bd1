"""What the techniques that set single weights to zero share: ratio and pattern, the plan, and the words about it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any, ClassVar, Literal

from webapp.engine.facts import LayerFacts, Layout
from webapp.engine.lazy import Tensor, torch
from webapp.engine.math import masks
from webapp.engine.progress import tracked
from webapp.engine.recipe import StepSettings, TechniqueSettings, setting
from webapp.engine.techniques.calibration.block_by_block import joined, matrices_of
from webapp.engine.weights import Dense, DensePlan, Encoded, StoragePlan
from webapp.engine.weights.memory import release_freed_memory
from webapp.engine.weights.model import Model
from webapp.units import percent

from .base import MATRICES, Context, Outcome, Technique
from .calibration import WeightMatrix

N_OF_M = {"2:4": (2, 4), "4:8": (4, 8)}
REACHED = 0.005  # a matrix this far below the ratio that was asked is shown as not reached


class PruningSettings(TechniqueSettings):
    sparsity: float = setting(
        0.5,
        "Sparsity",
        "The share of weights to remove from the chosen layers.",
        widget="slider",
        step=0.01,
        show_when={"pattern": "unstructured"},
        per_layer=True,
        ge=0.0,
        le=0.99,
    )
    pattern: Literal["unstructured", "2:4", "4:8"] = setting(
        "unstructured",
        "Pattern",
        "unstructured: any weights. 2:4 and 4:8: half of the weights, so that of every 4 (8) neighbouring inputs (of a "
        "convolution: input channels) 2 (4) stay, which some hardware multiplies faster; it costs more accuracy.",
        per_layer=True,
    )

    @property
    def n_of_m(self) -> tuple[int, int] | None:
        return N_OF_M.get(self.pattern)

    @property
    def share(self) -> float:
        """The share of weights that goes, whatever the pattern."""
        return 1 - self.n_of_m[0] / self.n_of_m[1] if self.n_of_m else self.sparsity


class Pruning(Technique):
    """Zeros where weights were, stored behind a bitmask. Of a factored layer each factor is pruned."""

    layers = MATRICES
    rows_apart = True  # a few tell of all, where it is only tried
    experts_apart: ClassVar[bool] = False  # each expert of a stack loses the ratio, not the stack as a whole
    copies = 8.0  # scores, their order, masks

    def refuses(self, plan: StoragePlan) -> str | None:
        for leaf in plan.leaves:
            if leaf.holds != "floats":
                return f"its values are {leaf.holds} by then; put {self.name} before the quantization"
        return None

    def plan(self, layer: LayerFacts, plan: StoragePlan, settings: Any) -> StoragePlan:
        def pruned(simple: StoragePlan) -> StoragePlan:
            assert isinstance(simple, DensePlan)
            experts = layer.shape[0] if layer.stacked and self.experts_apart else 1
            gone = removed(simple.shape, layer.layout, settings, experts)
            return replace(simple, zeros=max(simple.zeros, gone), zeros_wanted=True)

        return plan.mapped(pruned)

    def named(self, settings: Any) -> str:
        return f"{settings.pattern if settings.n_of_m else percent(settings.sparsity, 0)} sparsity"

    def asked(self, layer: LayerFacts, settings: Any) -> str:
        return settings.pattern if settings.n_of_m else percent(settings.sparsity)

    def result(
        self, matrix: WeightMatrix, encoded: Encoded, settings: Any, share: float | None = None, note: str = ""
    ) -> Outcome:
        """What became of one matrix that was to lose `share`; None: as much as it happens to."""
        plan = encoded.plan
        done = 1 - plan.nonzero / max(plan.params, 1)
        within = REACHED if settings.n_of_m else max(REACHED, 1 / max(plan.params, 1))
        reached = share is None or done >= share - within
        if not reached and settings.n_of_m:
            inputs = matrix.layout.inputs(matrix.encoded.shape)
            note = f"{note} its {inputs} inputs are not groups of {settings.n_of_m[1]}".strip()
        if share and not plan.params - plan.nonzero:
            note = note or f"{percent(share)} of its {plan.params} weights is less than one"
            return Outcome.left(matrix.layer.name, self.asked(matrix.layer, settings), note)
        if not note and plan.stored == plan.params and plan.nonzero:
            note = "a bitmask would cost more than it saves here"
        return Outcome(matrix.layer.name, self.asked(matrix.layer, settings), percent(done), ok=reached, note=note)


class PruningWithoutData(Pruning):
    """The weights alone say what goes."""

    def apply(self, model: Model, settings: StepSettings, context: Context) -> list[Outcome]:
        choose = self.choice(model, settings, context)
        outcomes = []
        for layer in tracked(context.layers, context.report, self.title + ": {item.name} ({index} of {total})"):
            own, parts = settings.of(layer), []
            for matrix in matrices_of(model, layer):
                encoded = without(matrix, choose(matrix))
                parts.append(self.result(matrix, encoded, own, self.least(own)))
                matrix.keep(encoded)
            outcomes.append(joined(parts))
            release_freed_memory()
        return outcomes

    def least(self, settings: Any) -> float | None:
        """The share that every matrix has to lose."""
        return float(settings.share)

    @abstractmethod
    def choice(self, model: Model, settings: StepSettings, context: Context) -> Callable[[WeightMatrix], Tensor]:
        """What says of a matrix (out, in) where a value stays."""


def without(matrix: WeightMatrix, keep: Tensor) -> Encoded:
    """The matrix's values as they are stored, zero where `keep` (out, in) is not."""
    values = matrix.encoded.decode()
    stays = matrix.shaped(keep).bool()
    return Dense(torch.where(stays, values, torch.zeros((), dtype=values.dtype)), zeros_wanted=True)


def smallest_gone(matrix: WeightMatrix, settings: Any) -> Tensor:
    """Where a value of the matrix (out, in) stays if magnitude alone decides."""
    sizes = matrix.floats().abs()
    return (
        by_groups(sizes, matrix, *settings.n_of_m) if settings.n_of_m else masks.keep_largest(sizes, settings.sparsity)
    )


def removed(shape: tuple[int, ...], layout: Layout, settings: PruningSettings, experts: int) -> int:
    """How many values of a weight of this shape go, of each of its experts alike."""
    run = layout.inputs(shape)
    if settings.n_of_m:
        return prod(shape) // max(run, 1) * masks.removed_of_groups(run, *settings.n_of_m)
    return experts * round(settings.sparsity * (prod(shape) // experts))


def by_groups(scores: Tensor, matrix: WeightMatrix, n: int, m: int) -> Tensor:
    """Where a value of the matrix (out, in) stays in an N:M pattern; groups lie along a convolution's channels."""
    rows, run = scores.shape[0], matrix.layout.inputs(matrix.encoded.shape)
    places = scores.shape[1] // max(run, 1)  # of a convolution's kernel
    turned = scores.view(rows, run, places).transpose(1, 2).reshape(rows * places, run)
    keep = masks.largest_of_groups(turned, n, m).view(rows, places, run)
    return keep.transpose(1, 2).reshape(rows, run * places)

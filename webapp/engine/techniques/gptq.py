"""GPTQ: weights are rounded column by column, each column's error compensated by the remaining columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from webapp.engine.facts import LayerFacts
from webapp.engine.lazy import Tensor, torch
from webapp.engine.math import gptq, grids, refining
from webapp.engine.math.compensation import Coded
from webapp.engine.math.quantizers import Grid
from webapp.engine.recipe import StepSettings, setting
from webapp.engine.techniques.calibration.block_by_block import BlockByBlock
from webapp.engine.techniques.calibration.tied_heads import head_of
from webapp.engine.weights import Dense, Encoded, Quantized, StoragePlan
from webapp.engine.weights.model import Model

from .base import MATRICES, Context, Outcome, Skip, calibration_samples
from .calibration import Covariance, Statistic, WeightMatrix
from .rounding import Rounding, RoundingSettings, compensated

HELD_BACK = 4  # every how many batches one is held back, to choose the damping by
USUAL = 0.01  # damping where there are too few batches to hold any back
TRIED = 0.05  # where settings are only tried
AT_A_TIME = 1 << 14  # rows: those of a vocabulary would take several times its floats
ROWS = 64  # of a matrix, that the damping is chosen by
NO_HEAD = "nothing is multiplied with it, so it was rounded to nearest"
LOOKED_UP = "it is no head too, and what is only looked up needs no calibration: weight_quantization rounds it"
SINGULAR = "its inputs' covariance could not be inverted, so it was rounded to nearest"


class HeldBack(Statistic):
    """Covariances of the inputs: `kept` of most batches, `held` of those held back.

    `damping` is what was chosen with them, for all matrices that read these inputs; None before that.
    """

    def __init__(self, groups: int, columns: int) -> None:
        super().__init__(groups, columns)
        self.kept, self.held = Covariance(groups, columns), Covariance(groups, columns)
        self.batches = 0
        self.damping: float | None = None

    def take(self, rows: Tensor, original: Tensor | None) -> None:
        self.batches += 1
        (self.kept if self.batches % HELD_BACK else self.held).add(rows)

    @property
    def mean(self) -> Tensor:
        """(groups, columns, columns), of all batches."""
        return (self.kept.sums + self.held.sums) / max(self.count, 1)


class Gptq(Rounding, BlockByBlock):
    name = "gptq"
    title = "GPTQ"
    family = "Quantization"
    copies, covariances = 8.0, 8.0
    summary = (
        "Rounds weights to 8- to 2-bit codes so that each layer's outputs change least on calibration data; "
        "the most accurate of the roundings, at a few minutes for 100 million weights."
    )
    paper = "https://arxiv.org/abs/2210.17323"
    layers = MATRICES | {"embedding"}
    statistic = HeldBack

    without_data = "so it was rounded to nearest"

    class Settings(RoundingSettings):
        act_order: bool = setting(
            True,
            "Activation order (act-order)",
            "Rounds the columns with the largest input activations first, while most columns are left to compensate.",
            per_layer=True,
        )
        damping: float = setting(
            0.0,
            "Damping",
            "Added to the diagonal of the inputs' covariance, as a share of its mean, so that a layer is not "
            "overfitted to the samples. 0: for each layer the share with the least error on samples that are held out.",
            step=0.01,
            per_layer=True,
            ge=0.0,
            le=1.0,
        )
        refine: int = setting(
            1,
            "Refinement passes",
            "Times that scales and codes are improved in turn after the first rounding. Each takes as long as it.",
            unit="passes",
            per_layer=True,
            ge=0,
            le=10,
        )
        tied: bool = setting(
            False,
            "Tied embeddings",
            "On: a table of embeddings that is the head too is rounded as well, for what the head multiplies it "
            "with. Rounded to nearest a head loses far more, below 6 bits above all.",
            per_layer=True,
        )
        samples: int = calibration_samples()

    def compress_matrix(
        self, matrix: WeightMatrix, statistic: HeldBack, settings: Any, context: Context
    ) -> tuple[Encoded, Outcome]:
        whole, old = matrix.floats(), matrix.encoded
        zeros = whole == 0 if old.plan.pruned else None
        damping = settings.damping or self._damping(whole, statistic, settings.scheme, settings.act_order)
        problems = [
            gptq.problem(rows, mean, damping, settings.act_order)
            for rows, mean in zip(whole.chunk(matrix.groups), statistic.mean, strict=True)
        ]
        solved = [given for given in problems if given is not None]
        if len(solved) < len(problems):
            return (done := self.plainly(matrix, settings)), replace(
                self.told(matrix, done, settings, SINGULAR), ok=False
            )
        weights = torch.stack([given.weights for given in solved]).mean(0)

        def rounded(wanted: Tensor) -> Coded:
            rows = wanted.chunk(matrix.groups)
            each = [replace(given, matrix=own) for given, own in zip(solved, rows, strict=True)]
            grid = grids.fit_grid(wanted if zeros is None else wanted.masked_fill(zeros, 0.0), settings.scheme, weights)
            return _codes(each, grid, zeros, settings.refine)

        base = Quantized(*rounded(whole), old.shape, old.dtype, matrix.layout, old.plan.pruned)
        rank = self.rank(matrix, settings)
        done = compensated(whole, base, rank, rounded, solved[0]) if rank else base
        return done, self.told(matrix, done, settings, "")

    def works_on(self, layer: LayerFacts, settings: Any) -> bool:
        return super().works_on(layer, settings) and (layer.kind != "embedding" or settings.tied)

    def plan(self, layer: LayerFacts, plan: StoragePlan, settings: Any) -> StoragePlan:
        if layer.kind == "embedding" and not layer.aliases:
            raise Skip(LOOKED_UP)
        return super().plan(layer, plan, settings)

    def apply(self, model: Model, settings: StepSettings, context: Context) -> list[Outcome]:
        """A table that is the head too is rounded as the head's weight."""
        seen = {layer: head_of(model, layer) if layer.kind == "embedding" else layer for layer in context.layers}
        asked = [layer for layer in seen.values() if layer is not None]
        outcomes = iter(super().apply(model, settings, replace(context, layers=asked)) if asked else ())
        return [
            replace(next(outcomes), layer=layer.name)
            if product is not None
            else self._table(model, layer, settings.of(layer))
            for layer, product in seen.items()
        ]

    def _table(self, model: Model, layer: LayerFacts, settings: Any) -> Outcome:
        """One that nothing is multiplied with: it shares its values with another, or it is left as it is."""
        if not layer.aliases:
            return Outcome.left(layer.name, self.asked(layer, settings), LOOKED_UP)
        matrix = WeightMatrix(layer, layer.name, "", layer.layout, model)
        matrix.keep(self.plainly(matrix, settings))
        return self.told(matrix, matrix.encoded, settings, NO_HEAD)

    def options(self, layer: LayerFacts, plan: StoragePlan, share: float) -> Iterable[Mapping[str, Any]]:
        table = layer.kind == "embedding"
        if layer.kind == "recurrent" or (table and not layer.aliases):  # its inputs are not seen
            return
        for given in self.menu(layer, plan, share):
            if given["numbers"] != "fitted" or not layer.stacked:  # experts share one table of levels
                yield given | ({"tied": True} if table else {})

    def trials(
        self, matrix: WeightMatrix, inputs: Covariance | None, choices: Sequence[Any]
    ) -> Iterator[Encoded | None]:
        """Without the walk over the columns, and with NormalFloat's levels for those that would be fitted."""
        whole, plan = matrix.floats(), matrix.encoded.plan
        for settings in choices:
            problems = self._problems(whole, inputs, settings) if inputs is not None and inputs.count else []
            if not problems:
                yield self.plainly(matrix, settings)
                continue
            scheme = settings.scheme
            if scheme.numbers == "fitted":
                scheme = replace(scheme, numbers="normal")
            found = [gptq.expected(given, grids.fit_grid(given.matrix, scheme, given.weights)) for given in problems]
            values = torch.cat(found)
            if plan.pruned:
                values = values.masked_fill_(whole == 0, 0.0)
            yield Dense(matrix.layout.weight(values, matrix.encoded.shape).contiguous())

    def _problems(self, whole: Tensor, inputs: Covariance, settings: Any) -> list[gptq.RoundingProblem]:
        """Of each group of a matrix whose settings are tried; none where a covariance cannot be inverted."""
        key = (self.name, settings.damping, settings.act_order)
        rows = whole.chunk(inputs.groups)
        if key not in inputs.shared:
            damping = settings.damping or TRIED
            given = zip(rows, inputs.mean, strict=True)
            inputs.shared[key] = [gptq.problem(own, mean, damping, settings.act_order) for own, mean in given]
        shared = inputs.shared[key]
        if None in shared:
            return []
        return [replace(given, matrix=own) for given, own in zip(shared, rows, strict=True)]

    def _damping(self, whole: Tensor, statistic: HeldBack, scheme: grids.QuantizationScheme, act_order: bool) -> float:
        if not statistic.held.count:
            return USUAL
        if statistic.damping is None:
            rows = whole[: len(whole) // statistic.groups]
            some = rows[:: max(1, len(rows) // ROWS)]
            kept, held = statistic.kept.mean[0], statistic.held.mean[0]
            statistic.damping = gptq.chosen_damping(some, kept, held, scheme, act_order)
        return statistic.damping


def _codes(problems: list[gptq.RoundingProblem], grid: Grid, zeros: Tensor | None, passes: int) -> tuple[Tensor, Grid]:
    """Codes and grid of a matrix whose rows are those of the problems, one below the other."""
    found, start = [], 0
    some = [replace(given, matrix=rows) for given in problems for rows in torch.split(given.matrix, AT_A_TIME)]
    for given in some:
        end = start + len(given.matrix)
        own, held = grid.rows(start, end), None if zeros is None else zeros[start:end]
        found.append(refining.refined(given, gptq.rounded(given, own, held), own, held, passes))
        start = end
    return torch.cat([codes for codes, _ in found]), grid.with_scales(*(own.scale for _, own in found))

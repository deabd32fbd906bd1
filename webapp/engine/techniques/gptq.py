"""GPTQ: weights are rounded column by column, each column's error compensated by the remaining columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

from webapp.engine.facts import LayerFacts
from webapp.engine.lazy import Tensor, torch
from webapp.engine.math import admm, gptq, grids, refining
from webapp.engine.math.compensation import Coded
from webapp.engine.math.quantizers import Grid
from webapp.engine.recipe import StepSettings, setting
from webapp.engine.techniques.calibration.block_by_block import BlockByBlock
from webapp.engine.techniques.calibration.tied_heads import head_of
from webapp.engine.weights import Dense, Encoded, Quantized, StoragePlan
from webapp.engine.weights.model import Model

from .base import MATRICES, Context, Outcome, Skip, calibration_samples
from .calibration import Covariance, CrossCovariance, WeightMatrix
from .rounding import Rounding, RoundingSettings, compensated

AT_A_TIME = 1 << 14  # rows: those of a vocabulary would take several times its floats
NO_HEAD = "nothing is multiplied with it, so it was rounded to nearest"
LOOKED_UP = "it is no head too, and what is only looked up needs no calibration: weight_quantization rounds it"
SINGULAR = "its inputs' covariance could not be inverted, so it was rounded to nearest"


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
    version = 2
    statistic = CrossCovariance
    originals = rows_together = True

    without_data = "so it was rounded to nearest"

    class Settings(RoundingSettings):
        act_order: bool = setting(
            True,
            "Activation order (act-order)",
            "Rounds the columns with the largest input activations first, while most columns are left to compensate.",
            per_layer=True,
        )
        damping: float = setting(
            0.1,
            "Damping",
            "Added to the diagonal of the inputs' covariance, as a share of its mean, so that a layer is not "
            "overfitted to the samples.",
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
        self, matrix: WeightMatrix, statistic: CrossCovariance, settings: Any, context: Context
    ) -> tuple[Encoded, Outcome]:
        return self.compress_alike([matrix], statistic, settings, context)[0]

    def compress_alike(
        self, matrices: Sequence[WeightMatrix], statistic: CrossCovariance, settings: Any, context: Context
    ) -> list[tuple[Encoded, Outcome]]:
        """Matrices that read the same are rounded as one, row below row, unless each has levels of its own."""
        if len(matrices) > 1 and (settings.scheme.numbers == "fitted" or statistic.groups > 1):
            return [self.compress_matrix(matrix, statistic, settings, context) for matrix in matrices]
        posed = _posed(statistic, settings)
        if not posed:
            plain = [(matrix, self.plainly(matrix, settings)) for matrix in matrices]
            return [(done, replace(self.told(each, done, settings, SINGULAR), ok=False)) for each, done in plain]
        wanted = [_ToRound.of(matrix, posed, statistic) for matrix in matrices]
        found = []
        for own, coded in zip(wanted, _coded(wanted, posed, settings), strict=True):
            matrix, old = own.matrix, own.matrix.encoded
            base = Quantized(*coded, old.shape, old.dtype, matrix.layout, old.plan.pruned)
            done: Encoded = base
            if rank := self.rank(matrix, settings):

                def again(rows: Tensor, own: _ToRound = own) -> Coded:
                    return _coded([replace(own, rows=rows)], posed, settings)[0]

                done = compensated(own.rows, base, rank, again, replace(posed[0], matrix=own.rows))
            found.append((done, self.told(matrix, done, settings, "")))
        return found

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
            posed = _posed(inputs, settings) if inputs is not None and inputs.count else []
            if not posed:
                yield self.plainly(matrix, settings)
                continue
            scheme = settings.scheme
            if scheme.numbers == "fitted":
                scheme = replace(scheme, numbers="normal")
            parts = zip(posed, whole.chunk(len(posed)), strict=True)
            problems = (replace(given, matrix=rows) for given, rows in parts)
            found = [gptq.expected(given, grids.fit_grid(given.matrix, scheme, given.weights)) for given in problems]
            values = torch.cat(found)
            if plan.pruned:
                values = values.masked_fill_(whole == 0, 0.0)
            yield Dense(matrix.layout.weight(values, matrix.encoded.shape).contiguous())


def _posed(statistic: Covariance, settings: Any) -> list[gptq.RoundingProblem]:
    """Of each group of the matrices that read these inputs, but for their values; none where one has no inverse."""
    key = (Gptq.name, settings.damping, settings.act_order)
    if key not in statistic.shared:
        none = torch.empty(0, statistic.columns)
        found = [gptq.problem(none, mean, settings.damping, settings.act_order) for mean in statistic.mean]
        statistic.shared[key] = [] if None in found else found
    known: list[gptq.RoundingProblem] = statistic.shared[key]
    return known


@dataclass(frozen=True)
class _ToRound:
    """A matrix, the `rows` (rows, columns) that its codes shall come near to, and where they are zero."""

    matrix: WeightMatrix
    rows: Tensor
    zeros: Tensor | None

    @classmethod
    def of(cls, matrix: WeightMatrix, posed: Sequence[gptq.RoundingProblem], statistic: CrossCovariance) -> _ToRound:
        """What makes up for the layers before, where the original is there to compare with."""
        whole = matrix.floats()
        target = statistic.target(whole)
        if not matrix.encoded.plan.pruned:
            return cls(matrix, target, None)
        parts = zip(posed, target.chunk(len(posed)), whole.chunk(len(posed)), strict=True)
        found = [admm.descended(rows, given.hessian, start, admm.DESCENTS) for given, rows, start in parts]
        return cls(matrix, torch.cat(found), whole == 0)


def _coded(wanted: Sequence[_ToRound], posed: Sequence[gptq.RoundingProblem], settings: Any) -> list[Coded]:
    """Codes and grid of each of the matrices, which are one below the other for the walk over the columns."""
    weights = torch.stack([given.weights for given in posed]).mean(0)
    held, none = None, [torch.zeros_like(own.rows, dtype=torch.bool) for own in wanted if own.zeros is None]
    if len(none) < len(wanted):
        held = torch.cat([none.pop(0) if own.zeros is None else own.zeros for own in wanted])
    rows = torch.cat([own.rows for own in wanted])
    kept = rows if held is None else rows.masked_fill(held, 0.0)
    ends = list(accumulate(len(own.rows) for own in wanted))
    places = [slice(start, end) for start, end in pairwise([0, *ends])]
    each = [grids.fit_grid(kept[place], settings.scheme, weights) for place in places]
    grid = each[0].with_scales(*(own.scale for own in each))
    if grid.zero_point is not None:
        grid = grid.with_zero_points(*(own.zero_point for own in each if own.zero_point is not None))
    parts = [replace(given, matrix=own) for given, own in zip(posed, rows.chunk(len(posed)), strict=True)]
    codes, grid = _codes(parts, grid, held, settings.refine)
    return [(codes[place], grid.at(place).with_scales(grid.scale[place])) for place in places]


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

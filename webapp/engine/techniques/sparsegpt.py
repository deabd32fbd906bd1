"""SparseGPT: what is removed is made up for by the weights that stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from webapp.engine.facts import LayerFacts
from webapp.engine.lazy import Tensor, torch
from webapp.engine.math import admm, masks, obs
from webapp.engine.recipe import setting
from webapp.engine.weights import Dense, Encoded, StoragePlan

from .base import LARGE, Context, Outcome
from .calibrated_pruning import TELLS_NOTHING, CalibratedPruning, CalibratedPruningSettings
from .calibration import Covariance, CrossCovariance, WeightMatrix

SPARSITIES = (0.3, 0.5, 0.7)  # that a budget may choose from
FINER = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # of a large layer


class SparseGPT(CalibratedPruning):
    name = "sparsegpt"
    title = "SparseGPT"
    family = "Pruning"
    copies, covariances = 12.0, 8.0
    summary = (
        "Removes weights column by column and corrects the ones that stay, so that every layer's outputs change least; "
        "takes calibration data and a few times as long as Wanda, and keeps the most accuracy."
    )
    paper = "https://arxiv.org/abs/2301.00774"
    version = 2
    statistic = CrossCovariance
    originals = True

    class Settings(CalibratedPruningSettings):
        rounds: int = setting(
            10,
            "ADMM rounds",
            "After the paper's one pass over the columns, rounds in which removed and kept weights are exchanged "
            "(arXiv 2406.07831). 0: the paper's alone, quicker and less accurate.",
            per_layer=True,
            ge=0,
            le=100,
        )
        damping: float = setting(
            0.01,
            "Damping",
            "Added to the diagonal of each layer's covariance, as a share of its mean; more where samples are few.",
            step=0.001,
            per_layer=True,
            ge=0.0,
            le=1.0,
        )

    def compress_matrix(
        self, matrix: WeightMatrix, statistic: CrossCovariance, settings: Any, context: Context
    ) -> tuple[Encoded, Outcome]:
        values, share = matrix.floats(), self.share(matrix, settings, context)
        order, run = neighbours(matrix, values.shape[1], settings)
        groups = values[:, order].view(matrix.groups, -1, len(order))
        targets = statistic.target(values)[:, order].view_as(groups)
        counts = masks.shared_out(round(share * values.numel()), matrix.groups).tolist()
        notes, found = [], torch.empty_like(groups)
        for index, count in enumerate(counts):
            pattern = obs.Pattern(count / max(groups[index].numel(), 1), run, *(settings.n_of_m or (0, 0)))
            curve = _curvature(statistic, index, order, settings.damping)
            found[index] = _pruned(groups[index], targets[index], curve, pattern, settings.rounds)
            notes.append(_note(curve.damping, settings.damping))
        pruned = torch.empty_like(values)
        pruned[:, order] = found.view_as(values)
        encoded = Dense(matrix.shaped(pruned), zeros_wanted=True)
        return encoded, self.result(matrix, encoded, settings, share, max(notes))

    def options(self, layer: LayerFacts, plan: StoragePlan, share: float) -> Iterable[Mapping[str, Any]]:
        if layer.kind == "recurrent" or plan.factors or plan.pruned or self.refuses(plan):
            return
        for sparsity in FINER if share > LARGE else SPARSITIES:
            yield {"sparsity": sparsity, "pattern": "unstructured"}
        if not layer.layout.inputs(plan.shape) % 4:
            yield {"sparsity": 0.5, "pattern": "2:4"}

    def trials(
        self, matrix: WeightMatrix, inputs: Covariance | None, choices: Sequence[Any]
    ) -> Iterator[Encoded | None]:
        """The mask by Wanda's scores, and the values that suit it best."""
        values = matrix.floats()
        for settings in choices:
            if inputs is None or not obs.FAINTEST < float(inputs.sums.diagonal(dim1=1, dim2=2).mean()) < torch.inf:
                yield self.plainly(matrix, settings)
                continue
            order, run = neighbours(matrix, values.shape[1], settings)
            pattern = obs.Pattern(settings.share, run, *(settings.n_of_m or (0, 0)))
            found = []
            for rows, sums in zip(values.chunk(matrix.groups), inputs.sums, strict=True):
                mean = float(inputs.sums.diagonal(dim1=1, dim2=2).mean())
                hessian = sums + settings.damping * mean * torch.eye(len(sums))
                keep = torch.empty_like(rows, dtype=torch.bool)
                keep[:, order] = pattern.largest((rows.abs() * hessian.diagonal().sqrt())[:, order])
                found.append(admm.descended(rows, hessian, rows * keep, admm.DESCENTS))
            yield Dense(matrix.shaped(torch.cat(found)), zeros_wanted=True)


def neighbours(matrix: WeightMatrix, columns: int, settings: Any) -> tuple[Tensor, int]:
    """The columns in the order in which a pattern counts them, and how many are a run: a convolution's channels."""
    run = matrix.layout.inputs(matrix.encoded.shape) if settings.n_of_m else columns
    return torch.arange(columns).view(run, -1).t().reshape(-1), run


def _curvature(statistic: CrossCovariance, group: int, order: Tensor, damping: float) -> obs.Curvature:
    """Worked out once for all matrices that read these inputs."""
    key = ("curvature", group, damping, tuple(order.tolist()))
    if key not in statistic.shared:
        statistic.shared[key] = obs.curvature(statistic.sums[group][order][:, order], damping)
    known: obs.Curvature = statistic.shared[key]
    return known


def _pruned(matrix: Tensor, target: Tensor, curve: obs.Curvature, pattern: obs.Pattern, rounds: int) -> Tensor:
    """(rows, columns) that answer as `target` does, with the zeros of `matrix` and those of the pattern."""
    alive = matrix != 0
    if not bool(alive.all()):
        target = admm.descended(target, curve.hessian, matrix, admm.DESCENTS)

    def choose(weights: Tensor) -> Tensor:
        return pattern.largest(masks.zeros_first(weights.abs(), alive)) & alive

    found = obs.prune(target, curve, pattern)
    if not rounds:
        return found
    found = admm.exchanged(target, curve.hessian, found, choose, rounds)
    return admm.descended(target, curve.hessian, found, admm.DESCENTS)


def _note(damping: float | None, asked: float) -> str:
    if damping is None:
        return TELLS_NOTHING
    return f"its inputs' covariance is singular, so damping was raised to {damping:g}" if damping > asked else ""

"""Low-rank factorization: a weight becomes low-rank factors, which are stored and run as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

from webapp.engine.data.memory import ModelMemory
from webapp.engine.facts import LayerFacts
from webapp.engine.lazy import Tensor, torch
from webapp.engine.math import ranks, whitening
from webapp.engine.progress import ProgressPart, Report
from webapp.engine.recipe import StepSettings, TechniqueSettings, setting
from webapp.engine.techniques.base import LARGE, MATRICES, AtWork, Context, Need, Outcome, Skip, Technique, missed
from webapp.engine.techniques.calibration import Covariance, KeptBlocks, WeightMatrix
from webapp.engine.techniques.calibration.block_by_block import UNREACHED
from webapp.engine.techniques.calibration.gradients import Learned, MatrixGradients, learned
from webapp.engine.weights import Encoded, StoragePlan
from webapp.engine.weights.held import KEPT_BYTES
from webapp.engine.weights.model import Model
from webapp.units import percent

from .factor_goals import LOSSES, Goal, expected_losses, plain_goals, whitened_goals
from .factorizations import Factorization, MatrixForm, Ranks, SpatialForm, Split, TuckerForm

UNFACTORED = {
    "recurrent": "the operator that runs it takes whole matrices only",
    "experts": "the operator that runs the experts takes whole matrices only",
}
NO_GRADIENTS = "there are no gradients of this model, so all errors of its outputs count alike"
RATIOS = (0.7, 0.4)  # that a budget may choose from
FINER = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05)  # of a large layer
BACKWARD = 8  # batches that are gone back through, about: chunks of text, or a few dozen samples each
SURVEY = 0.25  # of the samples, and about of the time: enough to say what each rank of each layer would lose


class LowRank(Technique):
    name = "low_rank"
    title = "Low-rank factorization"
    family = "Low rank"
    copies, covariances = 12.0, 12.0  # in float64
    summary = (
        "Replaces weights by low-rank factors, which saves memory and arithmetic; the matrices of trained language "
        "models lose much accuracy without calibration data, and far less with it (method whitened)."
    )
    paper = "https://arxiv.org/abs/2403.07378"
    version = 4
    needs = frozenset({"calibration", "architecture"})
    layers = MATRICES

    class Settings(TechniqueSettings):
        method: Literal["plain", "whitened"] = setting(
            "plain",
            "Method",
            "plain: the factors closest to the weights, without data. whitened: those whose outputs are closest on "
            "calibration data, block by block, each making up for what the ones before it lost.",
        )
        by: Literal["ratio", "rank", "energy"] = setting(
            "ratio",
            "Rank selection",
            "ratio: the share of the parameters that the factors may hold. rank: the same rank everywhere. "
            "energy: the share to keep of the squared weights (plain) or outputs (whitened).",
            per_layer=True,
        )
        ratio: float = setting(
            0.5,
            "Parameters kept",
            "Factors hold at most this share of the weights' values.",
            widget="slider",
            step=0.01,
            show_when={"by": "ratio"},
            per_layer=True,
            gt=0.0,
            lt=1.0,
        )
        allocation: Literal["auto", "layer", "global"] = setting(
            "auto",
            "Parameter budget",
            "layer: each layer keeps this share. global: all layers that are asked for the same share keep it "
            "together; those that would lose more get more, and some may stay whole. auto: global where the expected "
            "loss is known, else layer.",
            show_when={"by": "ratio"},
        )
        rank: int = setting(
            32,
            "Rank",
            "Rows that are kept, or columns of the left factor.",
            show_when={"by": "rank"},
            per_layer=True,
            ge=1,
            le=65536,
        )
        energy: float = setting(
            0.9,
            "Energy kept",
            "Share of the sum of squares; the rank then depends on each weight.",
            widget="slider",
            step=0.01,
            show_when={"by": "energy"},
            per_layer=True,
            gt=0.0,
            lt=1.0,
        )
        form: Literal["pivots", "factors"] = setting(
            "pivots",
            "Matrix decomposition",
            "pivots: interpolative, some of the rows and the coefficients that make the others of them; a higher rank "
            "in the same bytes. factors: two low-rank matrices.",
            per_layer=True,
        )
        convolutions: Literal["tucker", "spatial", "matrix"] = setting(
            "tucker",
            "Convolution decomposition",
            "tucker: 1 x 1, a smaller core, 1 x 1. spatial: a vertical, then a horizontal filter. matrix: filters are "
            "the rows of a matrix. 1 x 1 convolutions are matrices in any case.",
            per_layer=True,
        )
        counts: Literal["loss", "outputs"] = setting(
            "loss",
            "What counts",
            "outputs: every error of a layer's outputs alike. loss: as much as it is expected to change the model's "
            "answers, going by one pass backward over some of the samples; like outputs where a model cannot be gone "
            "back through. Language models gain most; of a small convolutional network outputs and a global budget "
            "lost less.",
            show_when={"method": "whitened"},
        )
        samples: int = setting(
            0,
            "Calibration samples",
            "How many to calibrate on; 0: as many as suit the task.",
            show_when={"method": "whitened"},
            ge=0,
            le=65536,
        )

    def needs_for(self, settings: Any) -> frozenset[Need]:
        return self.needs if settings.method == "whitened" else frozenset()

    def refuses(self, plan: StoragePlan) -> str | None:
        if plan.factors:
            return "it is factored already; give each layer to one low_rank step only"
        if plan.holds != "floats":
            return f"its values are {plan.holds} by then; put low_rank before weight_quantization"
        if plan.pruned:
            return "an earlier step has set zeros in it, which factors would fill in again; put low_rank before pruning"
        return None

    def exact(self, settings: Any) -> bool:
        return bool(settings.by != "energy" and not _shared(settings))

    def plan(self, layer: LayerFacts, plan: StoragePlan, settings: Any) -> StoragePlan:
        if settings.by == "energy":
            raise Skip("its rank is known only once its singular values are")
        form = _form(layer, settings)
        return form.plan(plan, _chosen(form, settings))

    def options(self, layer: LayerFacts, plan: StoragePlan, share: float) -> Iterable[Mapping[str, Any]]:
        if not self.refuses(plan):
            each = {"method": "whitened", "allocation": "layer"}
            yield from ({**each, "ratio": ratio} for ratio in (FINER if share > LARGE else RATIOS))

    def named(self, settings: Any) -> str:
        return f"{percent(settings.ratio, 0)} of its parameters in factors"

    def trials(
        self, matrix: WeightMatrix, inputs: Covariance | None, choices: Sequence[Any]
    ) -> Iterator[Encoded | None]:
        """In float32: half the time, and the ranks that are offered are far from where that would tell."""
        target, splits, metric = matrix.floats(), dict[Factorization, Split](), None
        if inputs is not None and inputs.count and matrix.groups == 1:
            if self.name not in inputs.shared:
                whole = whitening.metric(inputs.sums[0])
                inputs.shared[self.name] = replace(whole, root=whole.root.float())
            metric = inputs.shared[self.name]
        for settings in choices:
            try:
                form = _form(matrix.alone, settings)
                chosen = _chosen(form, settings)
            except Skip:
                yield None
                continue
            if form not in splits:
                splits[form] = form.split(target, metric)
            yield splits[form].encoded(chosen, matrix.encoded.dtype)

    def working_bytes(self, at: AtWork) -> int:
        """Beside the data, both models walk: the original's answers are what factors are fitted to."""
        found = int(self.copies * at.largest) + KEPT_BYTES
        if at.settings.own.method == "plain":
            return found
        walk = int(self.covariances * at.covariance) + at.walk(2)
        return found + (max(walk, at.backward()) if _goes_back(at.settings.own) else walk)

    def kept_bytes(self, at: AtWork, after: ModelMemory, file_bytes: int) -> int:
        return at.kept(file_bytes) + (at.learned() if at.walks and _goes_back(at.settings.own) else 0)

    def apply(self, model: Model, settings: StepSettings, context: Context) -> list[Outcome]:
        gradients = _gradients(model, settings, context)
        with torch.no_grad():
            start, shared = SURVEY if gradients else 0.0, dict[str, Ranks | None]()
            if gradients is not None:
                shared = _allocated(_expected(gradients, settings, context.layers))
            elif any(_surveyed(settings.of(layer)) for layer in context.layers):
                start, shared = SURVEY, _allocated(_survey(model, settings, context))
            found: dict[str, list[Outcome]] = {}
            kept = KeptBlocks(context.scratch, model, found)
            report = ProgressPart(context.report, start, 1.0)
            for goal in _goals(model, settings.own, context, report, self.title, kept, gradients):
                own = settings.of(goal.layer)
                if gradients is None and _goes_back(settings.own):
                    goal = replace(goal, note="; ".join(filter(None, (goal.note, NO_GRADIENTS))))
                try:
                    found[goal.layer.name] = [_factorized(goal, own, shared)]
                except Skip as reason:
                    found[goal.layer.name] = [_left(goal.layer, own, str(reason))]
                del goal  # the next one is collected before this name is free, and its metric is large
        return [
            row
            for layer in context.layers
            for own in (settings.of(layer),)
            for row in found.get(layer.name, [_left(layer, own, _why_not(layer, own))])
        ]


def _gradients(model: Model, settings: StepSettings, context: Context) -> Learned | None:
    """Of the model as the step begins, with what each rank of each layer is expected to lose."""
    if not _goes_back(settings.own):
        return None
    layers = [layer for layer in context.layers if layer.kind not in UNFACTORED and layer.groups == 1]
    data = context.calibration(settings.own.samples)

    def learn(found: MatrixGradients) -> dict[str, Tensor]:
        own, form = settings.of(found.matrix.layer), None
        if _shared(own):
            form = _form(found.matrix.layer, own)
        return expected_losses(found, form if form and form.options else None)

    report = ProgressPart(context.report, 0.0, SURVEY)
    return learned(model, layers, data[:: max(1, len(data) // BACKWARD)], context.seed, context.scratch, report, learn)


def _goals(
    model: Model,
    settings: Any,
    context: Context,
    report: Report,
    title: str,
    kept: KeptBlocks | None = None,
    gradients: Learned | None = None,
) -> Iterator[Goal]:
    """Without blocks that are `kept`, a survey on some of the samples."""
    if settings.method == "plain":
        return plain_goals(model, context.layers, report, title)
    data = context.calibration(settings.samples)
    some = data if kept else data[:: round(1 / SURVEY)]
    return whitened_goals(model, context.layers, some, report, title, kept, gradients)


def _factorized(goal: Goal, settings: Any, shared: Mapping[str, Ranks | None]) -> Outcome:
    form = _form(goal.layer, settings)
    if not form.options:
        raise Skip(_useless(form))
    given = shared.get(goal.layer.name)
    if given is None and goal.layer.name in shared:
        why = "it would lose more than others, so they made the room"
        return Outcome(goal.layer.name, _asked(settings), "left as it is", note=why)
    split = form.split(goal.target, goal.metric, goal.outputs)
    chosen = given or _chosen(form, settings, split)
    encoded = split.encoded(chosen, goal.dtype)
    goal.keep(encoded)
    of, share = " and ".join(map(str, chosen)), form.values(chosen) / form.size
    kept = percent(_kept(goal, encoded))
    done = f"rank {of}, {percent(share)} of its parameters ({percent(1 - share)} saved), {kept} of its energy"
    short = _short(form, chosen, share, settings)
    note = "; ".join(filter(None, (short, goal.note)))
    return Outcome(goal.layer.name, _asked(settings), done, ok=not short, note=note)


def _kept(goal: Goal, encoded: Encoded) -> float:
    """The share of the squared weights (outputs, with a metric) that the factors hold as they are stored.

    A split knows it beforehand of a matrix alone; of a convolution it knows a bound.
    """
    sides = (goal.target, goal.target - goal.layer.layout.matrix(encoded.decode()).double())
    root = goal.metric.root if goal.metric else None
    whole, lost = (float((side if root is None else side @ root).square().sum()) for side in sides)
    return max(0.0, 1 - lost / whole) if whole else 1.0


def _short(form: Factorization, chosen: Ranks, share: float, settings: Any) -> str:
    """Why the factors hold another share of the parameters than was asked; "" where they do not."""
    if settings.by != "ratio" or _shared(settings) or not missed(settings.ratio, share):
        return ""
    if share > settings.ratio:
        return "its least rank holds more"
    above = form.options.index(chosen) + 1
    if above == len(form.options):
        return "no higher rank saves anything"
    return f"the next higher rank holds {percent(form.values(form.options[above]) / form.size)}"


Pooled = tuple[float, str, Factorization, list[float]]  # the share, the layer's name, what each rank would lose


def _allocated(pooled: Iterable[Pooled]) -> dict[str, Ranks | None]:
    """The ranks by layer's name that lose least within the share of all that are asked for the same one.

    None where a layer stays whole.
    """
    pools: dict[float, list[Pooled]] = {}
    for one in pooled:
        pools.setdefault(one[0], []).append(one)
    found: dict[str, Ranks | None] = {}
    for ratio, pool in pools.items():
        forms = [form for _, _, form, _ in pool]
        costs = [[*form.costs, form.size] for form in forms]
        budget = ratio * sum(form.size for form in forms)
        taken = ranks.allocate(costs, [[*losses, 0.0] for *_, losses in pool], budget)
        for (_, name, form, _), option in zip(pool, taken, strict=True):
            found[name] = form.options[option] if option < len(form.options) else None
    return found


def _expected(gradients: Learned, settings: StepSettings, layers: Iterable[LayerFacts]) -> Iterator[Pooled]:
    for layer in layers:
        own = settings.of(layer)
        losses = gradients.get(layer.name, LOSSES) if _shared(own) else None
        if losses is not None:
            yield own.ratio, layer.name, _form(layer, own), losses.tolist()


def _survey(model: Model, settings: StepSettings, context: Context) -> Iterator[Pooled]:
    report = ProgressPart(context.report, 0.0, SURVEY)
    for goal in _goals(model, settings.own, context, report, "Finding what each rank would lose"):
        own = settings.of(goal.layer)
        if not _surveyed(own):
            continue
        try:
            form = _form(goal.layer, own)
        except Skip:
            continue
        if form.options:
            split = form.split(goal.target, goal.metric)
            weight = _weight(goal, split, form.options[ranks.within(form.costs, own.ratio * form.size)])
            yield own.ratio, goal.layer.name, form, [weight * lost for lost in split.losses]


def _weight(goal: Goal, split: Split, trial: Ranks) -> float:
    """What a share of the layer's own output is of the block's, going by what these ranks do to both."""
    lost = split.lost(trial)
    if goal.effect is None or lost <= 0:
        return 1.0
    return goal.effect(split.encoded(trial, goal.dtype)) / lost


def _why_not(layer: LayerFacts, settings: Any) -> str:
    try:
        _form(layer, settings)
    except Skip as reason:
        return str(reason)
    return UNREACHED


def _form(layer: LayerFacts, settings: Any) -> Factorization:
    """Raises Skip where there is none."""
    if layer.kind in UNFACTORED:
        raise Skip(UNFACTORED[layer.kind])
    if layer.groups > 1:
        raise Skip(f"its channels are in {layer.groups} groups, each of them a small convolution already")
    first, second, *kernel = layer.shape
    shape = (second, first, *kernel) if layer.transposed else layer.shape
    pointwise = all(length == 1 for length in shape[2:])  # of a matrix too
    if pointwise or settings.convolutions == "matrix":
        return _known(MatrixForm(shape, layer.transposed, settings.form == "pivots"))
    if settings.convolutions == "tucker" or len(kernel) > 2:  # there is no column and row of a volume
        return _known(TuckerForm(shape, layer.transposed))
    return _known(SpatialForm(shape, layer.transposed))


@lru_cache(maxsize=64)
def _known(form: Factorization) -> Factorization:
    """The first of all forms that are alike, which may have counted its ranks already."""
    return form


def _chosen(form: Factorization, settings: Any, split: Split | None = None) -> Ranks:
    """Raises Skip where the factors would hold as many values as the weight."""
    if not form.options:
        raise Skip(_useless(form))
    if settings.by == "ratio":
        return form.options[ranks.within(form.costs, settings.ratio * form.size)]
    if settings.by == "rank":
        asked = form.of_rank(settings.rank)
        if form.values(asked) >= form.size:
            raise Skip(
                f"rank {settings.rank} would not save: factors of {_dimensions(form)} are smaller only up to rank "
                f"{max(form.options[-1])}"
            )
        return asked
    assert split is not None
    enough = (option for option, lost in zip(form.options, split.losses, strict=True) if lost <= 1 - settings.energy)
    found = next(enough, None)
    if found is None:
        most = percent(1 - split.losses[-1])
        raise Skip(
            f"{percent(settings.energy)} would not save: factors smaller than its {_dimensions(form)} keep {most}"
        )
    return found


def _useless(form: Factorization) -> str:
    return f"its {_dimensions(form)} values are too few for factors to save"


def _dimensions(form: Factorization) -> str:
    return " x ".join(map(str, form.shape))


def _goes_back(settings: Any) -> bool:
    return bool(settings.method == "whitened" and settings.counts == "loss")


def _shared(settings: Any) -> bool:
    """Whether layers share their budget, should the expected loss be known."""
    every = settings.allocation == "global" or (settings.allocation == "auto" and _goes_back(settings))
    return bool(settings.by == "ratio" and every)


def _surveyed(settings: Any) -> bool:
    """Whether they do in any case."""
    return bool(settings.by == "ratio" and settings.allocation == "global")


def _asked(settings: Any) -> str:
    if settings.by == "rank":
        return f"rank {settings.rank}"
    if settings.by == "energy":
        return f"{percent(settings.energy, 0)} of its energy"
    return f"{percent(settings.ratio, 0)} of its parameters" + (
        " over all layers of this ratio" if _shared(settings) else ""
    )


def _left(layer: LayerFacts, settings: Any, reason: str) -> Outcome:
    return Outcome.left(layer.name, _asked(settings), reason)

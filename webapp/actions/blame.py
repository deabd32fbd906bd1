"""What each layer of a finished run costs, and giving one back: a fork that leaves it as it was."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from sqlalchemy.orm import Session

from webapp.engine.errors import RecipeInvalid, quoted
from webapp.engine.facts import CheckpointFacts
from webapp.engine.profiles.budget import Solver
from webapp.engine.recipe import Recipe
from webapp.engine.run.giving_back import choice_of, followed, without_layers
from webapp.engine.run.metrics import METRICS
from webapp.engine.run.stages.blame import WORST, BlameStage
from webapp.engine.run.worsening import LOSSES
from webapp.store.models import Profile, Run, Stage

from .budgets import profile_of, solver_for
from .errors import Conflict
from .run_requests import RunChanges, RunQueue, fork_run, printable


class BlameQueue(RunQueue, Protocol):
    """The part of the job client that this needs."""

    def blame_run(self, run_id: str, layers: Sequence[str]) -> Any: ...


@dataclass(frozen=True)
class BlamedLayer:
    """`bytes_back` is what undoing it costs; `expected` its share of the loss that the profile expects of the run."""

    name: str
    option: str  # how it is stored, or what the profile calls that
    size_bytes: int
    bytes_back: int
    cut: bool  # rows or channels have left it, so that the original's does not fit in its place
    expected: float | None
    measured: Mapping[str, Any] | None  # {metric: {"difference", "ci95", "verdict"}} where it was given back alone

    def cost(self, metric: str) -> float | None:
        """By how much the file is worse for it, in the metric's own unit; None where that was not measured."""
        change = ((self.measured or {}).get(metric) or {}).get("difference")
        return None if change is None else change * (1 if METRICS[metric].higher_is_better else -1)


@dataclass(frozen=True)
class BlamedCut:
    """What a cut of several layers is `expected` to cost: its share of the loss that the profile expects of the run."""

    unit: str
    label: str
    expected: float


@dataclass(frozen=True)
class Blame:
    """The layers that a step works on, those that cost most first: as measured, else as expected, else by bytes."""

    profile_id: str | None
    unit: str  # of `expected`
    expected: float | None  # of the whole run
    metrics: Mapping[str, Any]  # of the delivered file, on the samples that layers were given back on
    metric: str  # of them, the one that tells most; "" where nothing was measured
    cuts: list[BlamedCut]
    layers: list[BlamedLayer]
    stage: Stage | None  # that measures, where it was asked for


def blame_of(session: Session, run: Run) -> Blame:
    """Raises Conflict where the run has no result."""
    if run.result is None or run.baseline is None:
        raise Conflict(f"The run {run.name} is {run.state}; what its layers cost is seen once it is done.")
    facts, recipe = CheckpointFacts.model_validate(run.checkpoint.facts), Recipe.read(run.recipe)
    profile = profile_of(session, run)
    costs, cuts, total, solver = ({}, (), None, None) if profile is None else _expected(recipe, profile)
    told = (run.receipt or {}).get("blame") or {"layers": (), "metrics": {}}
    measured = {row["name"]: row["differences"] for row in told["layers"]}
    before = {layer["name"]: layer for layer in run.baseline["layers"]}
    now = {layer["name"]: layer for layer in run.result["layers"]}
    layers = followed(facts, recipe)
    metrics = told["metrics"]
    metric = next((name for name, _ in LOSSES.values() if name in metrics), next(iter(metrics), ""))
    rows = []
    for name in layers.worked_on:
        own = before.get(layers.original.get(name, name))
        if name not in now or own is None:  # vectors
            continue
        size, known = now[name]["stored_bytes"], costs.get(name, LayerLoss(now[name]["storage"], None))
        back, cut = own["stored_bytes"] - size, own["shape"] != now[name]["shape"]
        rows.append(BlamedLayer(name, known.option, size, back, cut, known.loss, measured.get(name)))
    return Blame(
        profile_id=profile.id if profile else None,
        unit=solver.profile.unit if solver else "",
        expected=total,
        metrics=metrics,
        metric=metric,
        cuts=sorted(cuts, key=lambda cut: -cut.expected),
        layers=sorted(rows, key=lambda row: (-(row.cost(metric) or -math.inf), -(row.expected or 0), -row.bytes_back)),
        stage=next((stage for stage in run.stages if stage.name == BlameStage.name_of()), None),
    )


class LayerLoss(NamedTuple):
    """Of a layer: what its option is called, and its share of the expected loss."""

    option: str
    loss: float | None


def _expected(
    recipe: Recipe, profile: Profile
) -> tuple[dict[str, LayerLoss], tuple[BlamedCut, ...], float | None, Solver]:
    """What is expected of each layer by its name after cuts, of the cuts and of all, and the solver."""
    solver = solver_for(profile)
    asked = choice_of(solver, recipe)
    if asked is None:
        return {}, (), None, solver
    left, choice = asked
    known = [0 if number is None else number for number in choice]
    losses = left.scaled_losses(known)
    if not math.isfinite(sum(losses)):
        return {}, (), None, solver
    total = left.expected(known).loss.value
    share = total / sum(losses) if sum(losses) > 0 else 0.0
    found: dict[str, LayerLoss] = {}
    cuts = []
    for layer, number, loss in zip(left.profile.layers, choice, losses, strict=True):
        if not layer.layers:
            cuts.append(BlamedCut(layer.name, layer.options[0].label, share * loss))
        for name in layer.layers if number is not None else ():
            found[name] = LayerLoss(layer.options[number or 0].label, share * loss / len(layer.layers))
    return found, tuple(cuts), total if None not in choice else None, solver


def measure_blame(session: Session, jobs: BlameQueue, run: Run, layers: Sequence[str] = ()) -> None:
    """Has these layers given back one by one and measured; without any, the ten that are expected to cost most.

    Raises Conflict where the run has no result, is under way, measured nothing, or every layer was cut, and
    RecipeInvalid where no step works on one of them.
    """
    found = blame_of(session, run)
    if not run.state.final:
        raise Conflict(f"The run {run.name} is {run.state}; wait until it is done.")
    if not (run.result or {}).get("metrics"):
        raise Conflict(f"The run {run.name} measured no quality, so what a layer costs cannot be measured either.")
    if unknown := sorted({*layers} - {row.name for row in found.layers}):
        raise RecipeInvalid(f"No step works on {quoted(unknown[0])}, so there is nothing to give back.", "layers")
    whole = [row for row in found.layers if not row.cut]
    if not whole:
        raise Conflict(f"Every layer of {run.name} has lost some of its shape, so none can be given back alone.")
    worst = sorted(whole, key=lambda row: -(row.expected or 0.0))[:WORST]
    known = any(row.expected for row in worst)  # else those whose weights moved furthest
    jobs.blame_run(run.id, list(layers) or [row.name for row in worst if known])
    session.expire(run)


def give_back(session: Session, jobs: RunQueue, run: Run, layers: Sequence[str], name: str | None = None) -> Run:
    """A fork that leaves these layers as they are in the original; what its steps share with the run is reused.

    Raises RecipeInvalid where no step works on one of them, and what `fork_run` raises.
    """
    facts = CheckpointFacts.model_validate(run.checkpoint.facts)
    recipe = without_layers(facts, Recipe.read(run.recipe), layers)
    several = layers[0] if len(layers) == 1 else f"{len(layers)} layers"
    called = printable(name or "") or f"{run.name}, {several} given back"[:200]
    return fork_run(session, jobs, run, RunChanges(recipe=recipe.as_dict(), name=called))

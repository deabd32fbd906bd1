"""Fitting a checkpoint to a budget: data is chosen and a profile made; then a goal is set, and its recipe is run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import func, select
from sqlalchemy.orm import joinedload

from webapp import charts
from webapp.actions.budgets import (
    AskedBudget,
    most_seen,
    profile_to_ask,
    samples_seen,
    solved,
    solved_on,
    solver_for,
)
from webapp.actions.compatibility import best_of, incompatible_datasets, incompatible_formats, unprofilable_datasets
from webapp.actions.errors import NotFound
from webapp.actions.profiles import ProfileRequest, cancel_profile, create_profile, retry_profile
from webapp.actions.studies import FrontAsked, RaceAsked, StudyRequest, start_study
from webapp.engine.errors import BudgetInvalid, PareError, some
from webapp.engine.exporters import exporters, measured
from webapp.engine.profiles.budget import Budget, BudgetGoal, Chosen, Solver
from webapp.engine.profiles.facts import KEPT, LayerOptions, LossUnit, ProfileFacts
from webapp.engine.recipe import Recipe
from webapp.samples import CHECKPOINT, digest_of
from webapp.store.models import Checkpoint, Dataset, Profile, Run, RunState, UploadState
from webapp.units import byte_unit
from webapp.web.calls import MadeBy
from webapp.web.extensions import db, row_of, services
from webapp.web.layer_map import layer_map
from webapp.web.tour import note_started

from . import run_builder

blueprint = Blueprint("fit", __name__, url_prefix="/checkpoints/<id>/fit")

# The colours of the map: bits per weight from which each begins, and what it is called.
LEVELS = {0: "≤ 1", 1.5: "2", 2.5: "3", 3.5: "4", 4.6: "5", 5.6: "6", 6.6: "8", 10: "16", 17: "32"}

MOST = 8  # families, and formats, that are named at once
SMALL_LOSS: dict[LossUnit, float] = {"nats": 0.05, "cosine distance": 0.01, "squared error": 0.01}  # of a loss
GONE = Chosen(name="", option=-1, label="cut out", family="", bytes=0, loss=0.0)  # with its block
HALF_A_POINT = BudgetGoal(points=0.5)


@dataclass(frozen=True)
class Asked:
    """What the form holds; numbers as they were typed."""

    size: str
    tolerance: str
    tolerance_in: str
    families: list[str]
    exports: list[str]
    locks: dict[str, int]

    @classmethod
    def of(cls, form: Any) -> Asked:
        """Raises BudgetInvalid."""
        try:
            locks = json.loads(form.get("locks") or "{}")
        except (ValueError, RecursionError):
            locks = None
        if not isinstance(locks, dict) or not all(isinstance(option, int) for option in locks.values()):
            raise BudgetInvalid("The locks are not a JSON object of option numbers.", "locks")
        families, exports = form.getlist("families"), form.getlist("exports")
        if len(families) > MOST or len(exports) > MOST:
            raise BudgetInvalid(f"At most {MOST} families and {MOST} formats can be named.", "exports")
        size, tolerance = form.get("size", "").strip(), form.get("tolerance", "").strip()
        return cls(size, tolerance, form.get("tolerance_in", "loss"), families, exports, locks)

    def budget(self, profile_id: str, unit_bytes: float) -> AskedBudget:
        """Raises BudgetInvalid."""
        return AskedBudget(profile_id=profile_id, goal=self.goal(unit_bytes), families=self.families, locks=self.locks)

    def goal(self, unit_bytes: float) -> BudgetGoal:
        """Raises BudgetInvalid."""
        if self.tolerance:
            return BudgetGoal.read({self.tolerance_in: number(self.tolerance, "The loss")})
        return BudgetGoal.read({"bytes": round(number(self.size, "The size") * unit_bytes, 0)})  # may be infinite


def number(typed: str, what: str) -> float:
    try:
        found = float(typed.replace(",", "."))
    except ValueError:
        found = math.nan
    if not (math.isfinite(found) and found >= 0):
        raise BudgetInvalid(f"{what} is to be a number, and not below 0: {typed[:40]!r}.", "goal")
    return found


@blueprint.get("")
def show(id: str) -> ResponseReturnValue:
    """The profile that saw most, `?profile=ID`, or with `?new=1` the choice of another, or of data for one."""
    checkpoint = db.get_or_abort(Checkpoint, id)
    if checkpoint.state != UploadState.READY:
        return redirect(url_for("checkpoints.show", id=id))
    profile = None if "new" in request.args else profile_of(checkpoint)
    if profile is None:
        return start_page(checkpoint)
    if profile.state != RunState.SUCCEEDED:
        return render_template("fit/profiling.html", checkpoint=checkpoint, profile=profile)
    return budget_page(checkpoint, profile)


@blueprint.post("")
def solve(id: str) -> ResponseReturnValue:
    """Without scripts: what the form asks for."""
    checkpoint = db.get_or_abort(Checkpoint, id)
    return budget_page(checkpoint, asked_profile(checkpoint), request.form)


@blueprint.post("/profiles")
def profile(id: str) -> ResponseReturnValue:
    checkpoint = db.get_or_abort(Checkpoint, id)
    try:
        chosen = {f"{name}_id": request.form.get(name) or None for name in ("dataset", "training_dataset")}
        asked = ProfileRequest(checkpoint_id=id, **chosen)
        made = create_profile(db.session, services().jobs, asked)
    except PareError as error:
        return start_page(checkpoint, error), error.status
    return redirect(url_for("fit.show", id=id, profile=made.id))


@blueprint.post("/profiles/<profile_id>/cancel")
def cancel(id: str, profile_id: str) -> ResponseReturnValue:
    cancel_profile(db.session, services().jobs, owned(db.get_or_abort(Checkpoint, id), profile_id))
    return redirect(url_for("fit.show", id=id, profile=profile_id))


@blueprint.post("/profiles/<profile_id>/retry")
def retry(id: str, profile_id: str) -> ResponseReturnValue:
    profile = owned(db.get_or_abort(Checkpoint, id), profile_id)
    goes_on = retry_profile(db.session, services().jobs, profile)
    return redirect(url_for("fit.show", id=id, profile=goes_on.id))


@blueprint.post("/run")
def start(id: str) -> ResponseReturnValue:
    """Runs the budget's recipe, raced against uniform ones of its bytes where there are any."""
    return begun(id, lambda budget: {"race": RaceAsked(goal=budget.goal)})


@blueprint.post("/front")
def front(id: str) -> ResponseReturnValue:
    """Runs budgets of many sizes; what else the form asks for limits them too."""

    def asked(budget: AskedBudget) -> dict[str, Any]:
        points = request.form.get("points", "")
        if not points.isdecimal() or not 2 <= int(points) <= 50:
            raise BudgetInvalid("Name how many sizes are to run: 2 to 50.", "points")
        return {"front": FrontAsked(points=int(points))}

    return begun(id, asked)


def begun(id: str, question: Callable[[AskedBudget], dict[str, Any]]) -> ResponseReturnValue:
    """A study of what the form asks, within the families, locks and formats that it names."""
    checkpoint = db.get_or_abort(Checkpoint, id)
    profile = asked_profile(checkpoint)
    try:
        asked = Asked.of(request.form)
        budget = asked.budget(profile.id, unit_of(profile))
        shared: dict[str, Any] = {"families": budget.families, "locks": budget.locks, "exports": asked.exports}
        wanted = StudyRequest(profile_id=profile.id, **question(budget), **shared)
        study = start_study(db.session, services().jobs, wanted)
    except PareError as error:
        db.session.rollback()
        return budget_page(checkpoint, profile, request.form, error), error.status
    note_started(study)
    return redirect(url_for("studies.show", id=study.id))


@blueprint.post("/recipe")
def build(id: str) -> ResponseReturnValue:
    """The recipe of the budget in the recipe builder."""
    checkpoint = db.get_or_abort(Checkpoint, id)
    profile = asked_profile(checkpoint)
    try:
        asked = Asked.of(request.form)
        budget = solved(profile, asked.budget(profile.id, unit_of(profile)), asked.exports)
    except PareError as error:
        return budget_page(checkpoint, profile, request.form, error), error.status
    recipe = Recipe.read(budget.recipe or {"version": 2, "steps": []})
    return run_builder.opened(profile, recipe, asked.exports)


def unit_of(profile: Profile) -> int:
    """The bytes of the unit that sizes are typed in."""
    return byte_unit(solver_for(profile).facts.weights_bytes)[0]


def offered(profile: ProfileFacts) -> set[str]:
    return {option.family for layer in profile.layers for option in layer.options} - {KEPT}


def profile_of(checkpoint: Checkpoint) -> Profile | None:
    """The one that the address names, else of those that are done the one that saw most samples, else the newest."""
    if asked := request.args.get("profile"):
        return owned(checkpoint, asked)
    own = select(Profile).where(Profile.checkpoint_id == checkpoint.id).limit(1)
    done = db.session.scalars(own.where(Profile.state == RunState.SUCCEEDED).order_by(*most_seen())).first()
    return done or db.session.scalars(own.order_by(Profile.created_at.desc())).first()


def asked_profile(checkpoint: Checkpoint) -> Profile:
    """Raises NotFound, or Conflict while there is nothing to solve on."""
    return profile_to_ask(db.session, owned(checkpoint, request.form.get("profile", "")).id)


def owned(checkpoint: Checkpoint, id_: str) -> Profile:
    """Raises NotFound."""
    profile = row_of(Profile, id_)
    if profile.checkpoint_id != checkpoint.id:
        raise NotFound(f"{checkpoint.name} has no profile {id_}.", "profile")
    return profile


def start_page(checkpoint: Checkpoint, error: PareError | None = None) -> str:
    fit, alike = (which(db.session, checkpoint) for which in (unprofilable_datasets, incompatible_datasets))
    rows = {row.id: row for row in db.session.scalars(select(Dataset).where(Dataset.id.in_(fit)))}
    training = {id_: row.name for id_, row in rows.items() if alike[id_] is None and (row.facts or {}).get("training")}
    lacking = {id_ for id_ in rows if alike[id_] is None and id_ not in training}  # which others can calibrate for
    first = best_of(db.session, fit)
    profiles = select(Profile, samples_seen()).where(Profile.checkpoint_id == checkpoint.id)
    named = (joinedload(which).load_only(Dataset.name) for which in (Profile.dataset, Profile.training_dataset))
    return render_template(
        "fit/start.html",
        checkpoint=checkpoint,
        error=error,
        is_sample=checkpoint.digest == digest_of(CHECKPOINT),
        why_not=(checkpoint.facts or {}).get("weights_only_because"),
        datasets=[(id_, rows[id_].name, None if id_ in lacking and training else why) for id_, why in fit.items()],
        training=training,
        lacking=lacking,
        chosen=request.form.get("dataset") or request.args.get("dataset") or (first.id if first else None),
        profiles=db.session.execute(profiles.options(*named).order_by(Profile.created_at.desc())).tuples().all(),
    )


def budget_page(checkpoint: Checkpoint, profile: Profile, form: Any = None, error: PareError | None = None) -> str:
    """`form` is what was sent; without it the page begins at the smallest file that is expected to lose little."""
    solver = solver_for(profile)
    known, least = solver.profile, solver.smallest()
    mine = (Profile.checkpoint_id == checkpoint.id, Profile.state == RunState.SUCCEEDED)
    original = max(least, solver.facts.weights_bytes)
    unit_bytes, unit = byte_unit(original)
    families = [family for family in solver.fit.families if family in offered(known)]
    begins, little = first_goal(solver)
    answer = solved_on(solver, begins)
    size = size_text(answer.size_bytes, unit_bytes)
    asked = Asked(size, "", "points" if solver.points_fit else "loss", families, [], {})
    if form is not None:
        try:
            asked = Asked.of(form)
            answer = solved(profile, asked.budget(profile.id, unit_bytes), asked.exports)
        except PareError as refused:
            error = error or refused
    files = {form.name: form.file for form in exporters().values()} | {"own": measured().file}
    layers = [shown(layer, solver) for layer in known.layers]
    trials, runs = measured_by(solver)
    chosen = {each.name: each for each in answer.layers}
    return render_template(
        "fit/show.html",
        checkpoint=checkpoint,
        profile=profile,
        known=known,
        profiles=db.session.scalar(select(func.count(Profile.id)).where(*mine)),
        asked=asked,
        size=asked.size or size_text(answer.size_bytes, unit_bytes),
        little=little,
        answer=answer,
        made_by=MadeBy("/budgets", AskedBudget(profile_id=profile.id, goal=BudgetGoal(bytes=answer.size_bytes))),
        chosen=[chosen.get(layer["name"], GONE) for layer in layers],
        error=error,
        families=families,
        formats=formats_of(checkpoint),
        layers=layers,
        map=layer_map([layer["name"] for layer in layers]),
        unreached=some([layer.name for layer in known.layers if layer.unreached]),
        levels=LEVELS,
        front=charts.budget_front(*front_of(answer), known.unit, runs),
        held=charts.predicted_against_measured([*trials, *runs], known.unit),
        measured=[*runs, *trials],
        loss_title=charts.LOSS_TITLES[known.unit],
        loss_unit=known.unit,
        original_bytes=original,
        least_bytes=least,
        params=solver.facts.params_total,
        unit=unit,
        unit_bytes=unit_bytes,
        files=files,
        data={
            "profile": profile.id,
            "files": files,
            "original_bytes": original,
            "least_bytes": least,
            "unit_bytes": unit_bytes,
            "unit": unit,
            "loss_unit": known.unit,
            "params": solver.facts.params_total,
            "levels": list(LEVELS),
            "layers": layers,
            "locks": asked.locks,
            "answer": answer.model_dump(mode="json", exclude={"recipe"}),
        },
    )


def first_goal(solver: Solver) -> tuple[BudgetGoal, str]:
    """What the page begins with, and in words. Points of a regression are its target's own unit, and say nothing."""
    if solver.points_fit is not None and solver.profile.task != "regression":
        return HALF_A_POINT, "half a point"
    unit = solver.profile.unit
    return BudgetGoal(loss=SMALL_LOSS[unit]), f"{SMALL_LOSS[unit]} {unit}"


def size_text(size_bytes: int, unit_bytes: int) -> str:
    """Four digits, rounded up: what is typed is the most that the file may have."""
    digit = 10.0 ** (math.floor(math.log10(size_bytes / unit_bytes)) - 3)
    return f"{math.ceil(size_bytes / unit_bytes / digit - 1e-6) * digit:.4g}"


def shown(layer: LayerOptions, solver: Solver) -> dict[str, Any]:
    """A layer as the page's script has it; each option is [label, bytes, scaled loss]."""
    return {
        "name": layer.name,
        "shape": layer.shape,
        "params": layer.params,
        "bytes": layer.options[0].bytes,
        "unreached": layer.unreached,
        "options": [[o.label, o.bytes, solver.fit.scales.get(o.family, 1.0) * o.loss] for o in layer.options],
    }


def front_of(answer: Budget) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    loss = answer.expected.loss
    chosen = {"size_bytes": answer.size_bytes, "loss": loss.value, "low": loss.low, "high": loss.high}
    return [point.model_dump() for point in answer.front], chosen


def measured_by(solver: Solver) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What the profile measured itself, and what runs did, each beside what the fit now says of it."""
    ids = [each.run_id for each in solver.profile.measured if each.run_id]
    names = dict(db.session.execute(select(Run.id, Run.name).where(Run.id.in_(ids))).tuples().all())
    trials: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    for place, each in enumerate(solver.profile.measured, 1):
        run = each.run_id
        loss = solver.fit.loss(solver.fit.scaled(each.predicted), each.predicted, run is not None)
        (runs if run else trials).append(
            {
                "name": names.get(run, "A run that was deleted") if run else f"Trial {place}",
                "run": run if run in names else None,
                "size_bytes": each.size_bytes,
                "loss": each.loss,
                "expected": loss.value,
                "low": loss.low,
                "high": loss.high,
            }
        )
    return trials, runs


def formats_of(checkpoint: Checkpoint) -> list[dict[str, str]]:
    """Those that the checkpoint can be written in."""
    return [
        {"name": name, "title": exporters()[name].title, "summary": exporters()[name].summary}
        for name, reason in incompatible_formats(checkpoint).items()
        if reason is None
    ]

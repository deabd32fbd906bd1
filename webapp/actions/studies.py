"""Studies: runs that answer one question. Asked for, cancelled as one, and told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import BaseModel, Field, model_validator
from sqlalchemy.orm import Session

from webapp.engine.errors import BudgetInvalid
from webapp.engine.profiles.budget import Budget, BudgetGoal, Limits, Solver
from webapp.engine.profiles.smallest import Probe
from webapp.engine.profiles.smallest import within as is_within
from webapp.engine.profiles.uniform import uniform
from webapp.engine.run.budgets import expected_of, limits_of
from webapp.engine.run.worsening import POINTS, Worsening, worsened
from webapp.store.clock import now
from webapp.store.models import Profile, Run, Study
from webapp.units import byte_text

from .budgets import profile_to_ask, solver_for
from .errors import Conflict
from .run_requests import RunQueue, RunRequest, checked_run, printable
from .sharing import shares_of_study

LABELS_OF_THEIR_OWN = ("text", "multiple-choice")  # kinds of datasets
TEMPLATE = ("dataset_id", "training_dataset_id", "exports", "seed", "preprocessing", "task")  # columns all runs share


class StudyQueue(RunQueue, Protocol):
    """The part of the job client that studies need."""

    def cancel_study(self, study_id: str) -> Any: ...


class RaceAsked(BaseModel, extra="forbid"):
    goal: BudgetGoal = Field(description="What the budget is to reach; the uniform recipes get its bytes.")


class SmallestAsked(BaseModel, extra="forbid"):
    """The smallest file within a tolerance."""

    points: float | None = Field(None, ge=0, description="At most so many points of the metric with labels are lost.")
    loss: float | None = Field(None, ge=0, description="Or at most so much of the profile's loss.")
    certain: bool = Field(
        False, description="The whole 95 % interval has to be within the tolerance, not the measured value alone."
    )
    most_runs: int = Field(8, ge=1, le=50)
    most_minutes: float = Field(10, gt=0, le=10_080, description="No run is begun that would end after it.")

    @model_validator(mode="after")
    def _one_tolerance(self) -> SmallestAsked:
        if (self.points is None) == (self.loss is None):
            raise ValueError("a tolerance is named once: points or loss")
        return self


class StudyRequest(BaseModel, extra="forbid"):
    """A question, and what all of its runs have in common. The checkpoint and the data are the profile's."""

    profile_id: str
    race: RaceAsked | None = Field(None, description="A budget's recipe beside uniform ones of the same bytes.")
    smallest: SmallestAsked | None = None
    families: list[str] | None = Field(None, description="The only ones to choose from; null: all.")
    locks: dict[str, int] = Field(default_factory=dict, description="Layers by name, each with the option it keeps.")
    exports: list[str] = Field(default_factory=list, max_length=8)
    name: str | None = Field(None, max_length=200)

    @model_validator(mode="after")
    def _one_question(self) -> StudyRequest:
        if (self.race is None) == (self.smallest is None):
            raise ValueError("a study asks one question: race or smallest")
        return self


def start_study(session: Session, jobs: StudyQueue, asked: StudyRequest) -> Study:
    """Raises NotFound, Conflict, BudgetInvalid, and what asking for a run raises."""
    profile = profile_to_ask(session, asked.profile_id)
    if profile.dataset_id is None:
        raise Conflict("The profile was made without a dataset that evaluates, so runs of it measure nothing.")
    solver = solver_for(profile, asked.exports if asked.race is not None else ())
    limits = limits_of(solver.facts, asked.families, asked.locks, asked.exports)
    begin = _race if asked.race is not None else _smallest
    study, runs = begin(session, profile, asked, solver, limits)
    session.add(study)
    session.flush()
    for run in runs:
        run.study_id = study.id
    session.add_all(runs)
    session.commit()
    for run in runs:
        jobs.enqueue_run(run.id)
    return study


def _race(
    session: Session, profile: Profile, asked: StudyRequest, solver: Solver, limits: Limits
) -> tuple[Study, list[Run]]:
    assert asked.race is not None
    budget = solver.solve(asked.race.goal, limits)
    if budget.recipe is None:
        raise BudgetInvalid("Within this goal nothing has to change, so there is nothing to run.", "goal")
    runs = [_run(session, profile, asked, budget, {"title": "Budget", "leads": True})]
    for other in uniform(solver, budget.size_bytes, limits):
        if other.budget.recipe is not None:
            runs.append(_run(session, profile, asked, other.budget, {"title": other.title}))
    name = f"{profile.checkpoint.name} at {byte_text(budget.size_bytes)}"
    question = {"goal": asked.race.goal.model_dump(exclude_none=True), "size_bytes": budget.size_bytes}
    question["others"] = len(runs) - 1
    return _study(profile, asked, "race", name, question, runs[0]), runs


def _smallest(
    session: Session, profile: Profile, asked: StudyRequest, solver: Solver, limits: Limits
) -> tuple[Study, list[Run]]:
    """Its runs are begun by the workers; one is drafted here to find what it would be refused for."""
    wanted = asked.smallest
    assert wanted is not None
    budget = solver.solve(BudgetGoal(bytes=solver.smallest(limits)), limits)
    facts = profile.dataset.facts or {} if profile.dataset else {}
    counted = facts.get("kind") in LABELS_OF_THEIR_OWN or facts.get("targets") or facts.get("labels")
    if wanted.points is not None and (budget.expected.points is None or not counted):
        unit = solver.profile.unit
        raise BudgetInvalid(
            f"The data has no labels to count points by; give the tolerance as a loss, in {unit}.", "smallest.points"
        )
    if budget.recipe is None:
        raise BudgetInvalid("With these families and locks nothing can be made smaller.", "families")
    draft = _run(session, profile, asked, budget, {})
    tolerance = wanted.loss if wanted.points is None else wanted.points
    unit = solver.profile.unit if wanted.points is None else POINTS
    name = f"{profile.checkpoint.name}: the smallest file at most {tolerance:g} {unit} worse"
    question = wanted.model_dump(include={"certain", "most_runs", "most_minutes"})
    return _study(profile, asked, "smallest", name, {**question, "tolerance": tolerance, "unit": unit}, draft), []


def _study(
    profile: Profile, asked: StudyRequest, kind: Literal["race", "smallest"], name: str, question: Any, run: Run
) -> Study:
    shared = {"families": asked.families, "locks": asked.locks, "run": {key: getattr(run, key) for key in TEMPLATE}}
    return Study(
        name=printable(asked.name or "") or name[:200],
        kind=kind,
        checkpoint_id=profile.checkpoint_id,
        dataset_id=profile.dataset_id,
        profile_id=profile.id,
        question={**question, **shared},
    )


def _run(session: Session, profile: Profile, asked: StudyRequest, budget: Budget, role: Mapping[str, Any]) -> Run:
    assert budget.recipe is not None
    run = checked_run(
        session,
        RunRequest(
            checkpoint_id=profile.checkpoint_id,
            dataset_id=profile.dataset_id,
            training_dataset_id=profile.training_dataset_id,
            recipe=budget.recipe,
            exports=asked.exports,
            seed=profile.seed,
            name=f"{profile.checkpoint.name}: {role['title']}"[:200] if role else None,
            preprocessing=profile.preprocessing,
        ),
    )
    run.role = dict(role) or None
    run.expected = expected_of(profile.id, budget)
    return run


def cancel_study(session: Session, jobs: StudyQueue, study: Study) -> None:
    """With every run of it that has not ended. Raises Conflict where it has ended itself."""
    if study.state.final:
        raise Conflict(f"The study {study.name} has already ended ({study.state}); there is nothing to cancel.")
    jobs.cancel_study(study.id)
    session.expire_all()


def delete_study(session: Session, study: Study) -> None:
    """Its runs stay, and its links end. Raises Conflict while it is under way."""
    if not study.state.final:
        raise Conflict(f"The study {study.name} is {study.state}; cancel it before you delete it.")
    for run in study.runs:
        run.study_id, run.role = None, None
    for share in shares_of_study(session, study.id):
        share.revoked_at = now()
    session.flush()
    session.delete(study)
    session.commit()


@dataclass(frozen=True)
class StudyRow:
    """A run as its study tells it: what was measured of what the study asks for, beside what was expected."""

    run: Run
    title: str
    measured: Worsening | None
    expected: Mapping[str, Any] | None  # {"value", "low", "high"}
    difference: Mapping[str, Any] | None  # the leader's less this one's, with interval and verdict
    why: str  # it was tried
    within: bool | None  # the tolerance
    wins: bool

    @property
    def size_bytes(self) -> int | None:
        return (self.run.result or {}).get("size_bytes")


def unit_of(study: Study) -> str:
    """ "points", or what the losses of its runs are told in; "" before there is a run."""
    if "unit" in study.question:
        return str(study.question["unit"])
    return next((run.expected["loss"]["unit"] for run in study.runs if run.expected), "")


def rows_of(study: Study) -> list[StudyRow]:
    """In the order in which the runs were begun."""
    unit, conclusion = unit_of(study), study.conclusion or {}
    decides = next(iter((conclusion.get("by_metric") or {}).values()), {})
    found = []
    for run in study.runs:
        role, expected = run.role or {}, run.expected or {}
        measured = _measured(run, unit)
        within = None
        if measured is not None and study.kind == "smallest":
            probe = Probe(0, measured.value, measured.low, measured.high)
            within = is_within(probe, study.question["tolerance"], study.question["certain"])
        found.append(
            StudyRow(
                run=run,
                title=role.get("title", run.name),
                measured=measured,
                expected=expected.get("points" if unit == POINTS else "loss"),
                difference=(decides.get("rows") or {}).get(run.id),
                why=role.get("why", ""),
                within=within,
                wins=conclusion.get("winner") == run.id,
            )
        )
    return found


def _measured(run: Run, unit: str) -> Worsening | None:
    if run.result is None or run.receipt is None or not unit:
        return None
    return worsened(unit, run.result["metrics"], run.receipt["verdict"])


def progress_of(study: Study) -> float:
    """0 to 1, by the runs that there are and those that there may be."""
    if study.state.final:
        return 1.0
    most = study.question["most_runs"] if study.kind == "smallest" else max(1, len(study.runs))
    done = sum(1.0 if run.state.final else run.progress for run in study.runs)
    return float(min(1.0, done / most))

"""Studies: runs that answer one question. Asked for, cancelled as one, and told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, Field, model_validator
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session, joinedload

from webapp.engine.errors import BudgetInvalid
from webapp.engine.exporters import measured
from webapp.engine.profiles.budget import Budget, BudgetGoal, Limits, Solver
from webapp.engine.profiles.smallest import Probe
from webapp.engine.profiles.smallest import within as is_within
from webapp.engine.profiles.uniform import uniform
from webapp.engine.recipe import Recipe, read_text
from webapp.engine.run.budgets import expected_of, limits_of
from webapp.engine.run.sweep import MOST_VARIANTS
from webapp.engine.run.worsening import POINTS, Worsening, worsened
from webapp.store.clock import now
from webapp.store.database import locked
from webapp.store.models import Checkpoint, Profile, Run, RunState, Study
from webapp.units import byte_text

from .budgets import profile_to_ask, solver_for
from .deletion import forget_runs
from .errors import Conflict, NotFound, RequestInvalid
from .keyset import KeysetPage, Order, keyset_page
from .run_requests import AskedRecipe, RunQueue, RunRequest, checked_run, printable
from .sharing import shares_of_study
from .sweeps import StudyPlan, SweepAsked, SweepDraft, drafted, planned

LABELS_OF_THEIR_OWN = ("text", "multiple-choice")  # kinds of datasets
TEMPLATE = ("dataset_id", "training_dataset_id", "exports", "seed", "preprocessing", "task")  # columns all runs share

PAGE = 50  # studies of the list
NEWEST_FIRST = Order(Study.id, (Study.created_at,), descending=True, nullable=False)


class StudyQueue(RunQueue, Protocol):
    """The part of the job client that studies need."""

    def cancel_study(self, study_id: str) -> Any: ...
    def reopen_study(self, study_id: str) -> Any: ...


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


FileSize = Annotated[int, Field(gt=0, lt=2**53)]


class FrontAsked(BaseModel, extra="forbid"):
    """Budgets from the smallest file to the original's size, each run and measured."""

    points: int = Field(8, ge=2, le=50, description="So many sizes, each as much larger than the one before.")
    sizes: list[FileSize] | None = Field(None, min_length=1, max_length=50, description="Bytes; in place of points.")

    @model_validator(mode="after")
    def _said_once(self) -> FrontAsked:
        if self.sizes is not None and "points" in self.model_fields_set:
            raise ValueError("the sizes are said once: as points or as sizes")
        return self


class StudyRequest(BaseModel, extra="forbid"):
    """One question, and what all of its runs have in common.

    The checkpoint and the data of a race, a search and a front are the profile's; a sweep names its own.
    """

    profile_id: str | None = None
    race: RaceAsked | None = Field(None, description="A budget's recipe beside uniform ones of the same bytes.")
    smallest: SmallestAsked | None = None
    front: FrontAsked | None = Field(None, description="Budgets of many sizes.")
    sweep: SweepAsked | None = Field(
        None,
        description="A recipe in which any setting may be a range, `0.3..0.8 step 0.1`, or a list, and a technique a "
        "list: all recipes that it stands for, at most 500. Those that cannot run are left out, and said.",
    )
    families: list[str] | None = Field(None, description="The only ones to choose from; null: all.")
    locks: dict[str, int] = Field(default_factory=dict, description="Layers by name, each with the option it keeps.")
    exports: list[str] = Field(default_factory=list, max_length=8)
    name: str | None = Field(None, max_length=200)

    @model_validator(mode="after")
    def _one_question(self) -> StudyRequest:
        if sum(asked is not None for asked in (self.race, self.smallest, self.front, self.sweep)) != 1:
            raise ValueError("a study asks one question: race, smallest, front or sweep")
        if (self.profile_id is None) != (self.sweep is not None):
            raise ValueError("a race, a search and a front are made on a profile_id, and a sweep without one")
        if self.sweep is not None and (self.families is not None or self.locks):
            raise ValueError("families and locks limit budgets; a sweep's recipe says all itself")
        return self


def start_study(session: Session, jobs: StudyQueue, asked: StudyRequest) -> Study:
    """Raises NotFound, Conflict, BudgetInvalid, and what asking for a run raises."""
    study, runs = _swept(session, asked, asked.sweep) if asked.sweep else _on_profile(session, asked)
    session.add(study)
    session.flush()
    _begin(session, jobs, study, runs)
    return study


def plan_study(session: Session, asked: StudyRequest) -> StudyPlan:
    """What a sweep will run, and take; nothing is started. Raises as `start_study` does."""
    if asked.sweep is None:
        raise RequestInvalid("Only a sweep can be planned: the others are told by their profile.", "sweep")
    return planned(session, drafted(session, asked.sweep, asked.exports), asked.sweep.data)


def _begin(session: Session, jobs: StudyQueue, study: Study, runs: list[Run]) -> None:
    for run in runs:
        run.study_id = study.id
    session.add_all(runs)
    session.commit()
    for run in runs:
        jobs.enqueue_run(run.id)


def _on_profile(session: Session, asked: StudyRequest) -> tuple[Study, list[Run]]:
    assert asked.profile_id is not None
    profile = profile_to_ask(session, asked.profile_id)
    if profile.dataset_id is None:
        raise Conflict("The profile was made without a dataset that evaluates, so runs of it measure nothing.")
    solver = solver_for(profile, asked.exports if asked.smallest is None else ())
    limits = limits_of(solver.facts, asked.families, asked.locks, asked.exports)
    make = _race if asked.race is not None else _smallest if asked.smallest is not None else _front
    return make(session, profile, asked, solver, limits)


def _swept(session: Session, asked: StudyRequest, sweep: SweepAsked) -> tuple[Study, list[Run]]:
    draft = drafted(session, sweep, asked.exports)
    first = draft.runs[0]
    checkpoint = session.get_one(Checkpoint, first.checkpoint_id)
    over = " × ".join(axis["title"] for axis in draft.axes) or "one recipe"
    study = Study(
        name=printable(asked.name or "") or f"{checkpoint.name}: {over}"[:200],
        kind="sweep",
        checkpoint_id=checkpoint.id,
        dataset_id=first.dataset_id,
        question={
            "recipes": [sweep.data],
            "run_id": sweep.run_id,
            "axes": draft.axes,
            "left_out": [{"title": each.title, "message": each.message} for each in draft.left_out],
            "teacher_checkpoint_id": first.teacher_checkpoint_id,
            "run": {key: getattr(first, key) for key in TEMPLATE},
        },
    )
    return study, draft.runs


def study_request(study: Study) -> StudyRequest | None:
    """What asks for the same again; None where that is no single request, or its profile was deleted."""
    kept, exports = study.question, _exports_asked(study)
    if study.kind == "sweep":
        first, *more = kept["recipes"]
        return None if more else StudyRequest(sweep=_sweep_of(study, first), exports=exports)
    if study.profile_id is None:
        return None
    shared = {"families": kept["families"], "locks": kept["locks"], "exports": exports, "profile_id": study.profile_id}
    if study.kind == "race":
        return StudyRequest(race=RaceAsked(goal=BudgetGoal(**kept["goal"])), **shared)
    if study.kind == "smallest":
        tolerance = {"points" if kept["unit"] == POINTS else "loss": kept["tolerance"]}
        limits = {name: kept[name] for name in ("certain", "most_runs", "most_minutes")}
        return StudyRequest(smallest=SmallestAsked(**tolerance, **limits), **shared)
    return StudyRequest(front=FrontAsked(sizes=kept["sizes"]), **shared) if "sizes" in kept else None


class MoreAsked(BaseModel, extra="forbid"):
    """What joins a study: a sweep's other values, or a front's other sizes."""

    recipe: AskedRecipe | None = None
    sizes: list[FileSize] | None = Field(None, min_length=1, max_length=50, description="Bytes.")

    @model_validator(mode="after")
    def _one_kind(self) -> MoreAsked:
        if (self.recipe is None) == (self.sizes is None):
            raise ValueError("name what joins: a recipe, or sizes")
        return self


def extend_study(session: Session, jobs: StudyQueue, study: Study, asked: MoreAsked) -> int:
    """Adds the runs that are not there yet, and returns how many; a study that had ended goes on.

    Raises Conflict where it is of another kind or nothing is new, RecipeInvalid, BudgetInvalid, and as `checked_run`.
    """
    if study.kind == "sweep" and asked.recipe is not None:
        draft = _more_of_a_sweep(session, study, asked.recipe)
        found = draft.runs
    elif study.kind == "front" and asked.sizes is not None:
        found = _more_of_a_front(session, study, asked.sizes)
    else:
        has = {"sweep": "a recipe with other values", "front": "other sizes"}.get(study.kind)
        raise Conflict(f"This study is extended by {has}." if has else "Only a sweep or a front can be extended.")
    _lock(session, study)  # now that all is thought through: somebody else may extend it too
    known = session.execute(select(Run.recipe, Run.role).where(Run.study_id == study.id)).tuples().all()
    there = {Recipe.read(recipe).digest for recipe, _ in known}
    fresh = [run for run in found if Recipe.read(run.recipe).digest not in there]
    if not fresh:
        raise Conflict("All of these runs are in the study already.")
    if (count := len(known) + len(fresh)) > MOST_VARIANTS:
        raise Conflict(f"With these the study would have {count} runs; at most {MOST_VARIANTS} are possible.")
    if study.kind == "sweep":
        _note_more(study, draft, asked.recipe)
    elif "sizes" in study.question:  # of one that was begun before they were kept, they are not known
        study.question = {**study.question, "sizes": sorted({*study.question["sizes"], *(asked.sizes or ())})}
    number = max(((role or {}).get("number", 0) for _, role in known), default=0)
    for place, run in enumerate(fresh, start=number + 1):
        run.role = {**(run.role or {}), "number": place}
    _begin(session, jobs, study, fresh)
    jobs.reopen_study(study.id)
    session.expire_all()
    return len(fresh)


def _more_of_a_sweep(session: Session, study: Study, recipe: AskedRecipe) -> SweepDraft:
    run_id = study.question["run_id"]
    if run_id is not None and session.get(Run, run_id) is None:
        raise Conflict("The run that this sweep goes on from was deleted; fork one of its runs to try other values.")
    return drafted(session, _sweep_of(study, recipe), study.question["run"]["exports"])


def _exports_asked(study: Study) -> list[str]:
    """Without the format that every run writes."""
    return [name for name in study.question["run"]["exports"] if name != measured().name]


def _sweep_of(study: Study, recipe: AskedRecipe) -> SweepAsked:
    """A sweep like it, of another recipe."""
    run, run_id = study.question["run"], study.question["run_id"]
    shared = {name: run[name] for name in ("dataset_id", "training_dataset_id", "seed", "preprocessing")}
    start = {"run_id": run_id} if run_id is not None else {"checkpoint_id": study.checkpoint_id}
    teacher = study.question["teacher_checkpoint_id"]
    return SweepAsked(**start, teacher_checkpoint_id=teacher, recipe=recipe, **shared)


def _note_more(study: Study, draft: SweepDraft, recipe: Any) -> None:
    """The question is what was asked at first and since; an axis has the values of both."""
    axes = {axis["path"]: axis for axis in study.question["axes"]}
    for axis in draft.axes:
        known = axes.setdefault(axis["path"], axis)
        merged = [*known["values"], *(value for value in axis["values"] if value not in known["values"])]
        axes[axis["path"]] = {**known, "values": merged}
    left_out = [{"title": each.title, "message": each.message} for each in draft.left_out]
    question = {**study.question, "axes": list(axes.values())}
    question["recipes"] = [*question["recipes"], read_text(recipe) if isinstance(recipe, str) else recipe]
    study.question = {**question, "left_out": [*question["left_out"], *left_out]}


def _front(
    session: Session, profile: Profile, asked: StudyRequest, solver: Solver, limits: Limits
) -> tuple[Study, list[Run]]:
    assert asked.front is not None
    least, whole = solver.smallest(limits), solver.facts.weights_bytes
    if asked.front.sizes is None:
        points = asked.front.points
        sizes = [round(least * (whole / least) ** (place / points)) for place in range(points)]
    else:
        sizes = sorted(set(asked.front.sizes))
    runs = _of_sizes(session, profile, asked, solver, limits, sizes)
    budgets = "one budget of" if len(runs) == 1 else f"{len(runs)} budgets from"
    name = f"{profile.checkpoint.name}: {budgets} {byte_text(sizes[0])}"
    return _study(profile, asked, "front", name, {"axes": [], "sizes": sizes}, runs[0]), runs


def _of_sizes(
    session: Session, profile: Profile, asked: StudyRequest, solver: Solver, limits: Limits, sizes: Sequence[int]
) -> list[Run]:
    """One run for each size, or fewer where two of them have the same recipe. Raises BudgetInvalid."""
    runs: dict[str, Run] = {}
    for size in sizes:
        budget = solver.solve(BudgetGoal(bytes=size), limits)
        if budget.recipe is None:
            continue
        title = f"At most {byte_text(size)}"
        run = _run(session, profile, asked, budget, {"title": title, "number": len(runs) + 1})
        runs.setdefault(Recipe.read(run.recipe).digest, run)
    if not runs:
        raise BudgetInvalid("At these sizes nothing has to change, so there is nothing to run.", "front.sizes")
    return list(runs.values())


def _more_of_a_front(session: Session, study: Study, sizes: Sequence[int]) -> list[Run]:
    if study.profile_id is None:
        raise Conflict("The profile of this study was deleted, so no other size can be tried.")
    kept = study.question
    request = StudyRequest(
        profile_id=study.profile_id,
        front=FrontAsked(sizes=list(sizes)),
        families=kept["families"],
        locks=kept["locks"],
        exports=_exports_asked(study),
    )
    profile = profile_to_ask(session, study.profile_id)
    solver = solver_for(profile, request.exports)
    limits = limits_of(solver.facts, request.families, request.locks, request.exports)
    return _of_sizes(session, profile, request, solver, limits, sorted(set(sizes)))


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
    profile: Profile,
    asked: StudyRequest,
    kind: Literal["race", "smallest", "front"],
    name: str,
    question: Any,
    run: Run,
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


def studies_page(session: Session, after: str, until: str, limit: int = PAGE) -> tuple[list[Study], KeysetPage]:
    """Of all studies, newest first. Raises RequestInvalid for a cursor that is none."""
    found = keyset_page(session, NEWEST_FIRST, (), after, until, limit)
    named = joinedload(Study.checkpoint).load_only(Checkpoint.name)
    rows = {row.id: row for row in session.scalars(select(Study).options(named).where(Study.id.in_(found.ids)))}
    return [rows[id_] for id_ in found.ids if id_ in rows], found


def cancel_study(session: Session, jobs: StudyQueue, study: Study) -> None:
    """With every run of it that has not ended. Raises Conflict where it has ended itself."""
    if study.state.final:
        raise Conflict(f"The study {study.name} has already ended ({study.state}); there is nothing to cancel.")
    jobs.cancel_study(study.id)
    session.expire_all()


def retry_study(session: Session, jobs: StudyQueue, study: Study) -> int:
    """Tries again all of its runs that failed or were cancelled, and returns how many; the study goes on.

    Raises Conflict where there is none.
    """
    again = (Run.study_id == study.id, Run.state.in_((RunState.FAILED, RunState.CANCELLED)))
    ids = session.scalars(select(Run.id).where(*again).order_by(Run.created_at)).all()
    if not ids:
        raise Conflict(f"No run of the study {study.name} failed or was cancelled; there is nothing to try again.")
    for id_ in ids:
        jobs.retry_run(id_)
    jobs.reopen_study(study.id)
    session.expire_all()
    return len(ids)


def take_run(session: Session, study: Study, run_id: str) -> Run:
    """This run is the one to go on with, of all of the study. Raises NotFound, or Conflict where it has no result."""
    run = session.get(Run, run_id)
    if run is None or run.study_id != study.id:
        raise NotFound(f"The study {study.name} has no run {run_id[:40]}.", "run_id")
    if run.state is not RunState.SUCCEEDED:
        raise Conflict(f"The run {run.name} is {run.state}; one with a result can be taken.", "run_id")
    study.taken_run_id = run.id
    session.commit()
    return run


def delete_study(session: Session, study: Study, with_runs: bool = False) -> None:
    """Its links end; its runs stay unless they are to go too. Raises Conflict while it is under way.

    Where one of its runs is deployed, or is tried again, all of them and the study stay, which a Conflict says.
    """
    _lock(session, study)
    if not study.state.final:
        raise Conflict(f"The study {study.name} is {study.state}; cancel it before you delete it.")
    if with_runs:
        forget_runs(session, session.scalars(select(Run.id).where(Run.study_id == study.id)).all())
    session.execute(update(Run).where(Run.study_id == study.id).values(study_id=None, role=None))
    for share in shares_of_study(session, study.id):
        share.revoked_at = now()
    session.execute(delete(Study).where(Study.id == study.id))
    session.expunge(study)
    session.commit()


def _lock(session: Session, study: Study) -> None:
    """From here on nobody else changes it, and it is as it is now. Raises NotFound where it was deleted meanwhile."""
    name = study.name
    if locked(session, study) is None:
        raise NotFound(f"The study {name} was deleted meanwhile.")


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
        lost = _measured(run, unit)
        within = None
        if lost is not None and study.kind == "smallest":
            probe = Probe(0, lost.value, lost.low, lost.high)
            within = is_within(probe, study.question["tolerance"], study.question["certain"])
        found.append(
            StudyRow(
                run=run,
                title=role.get("title", run.name),
                measured=lost,
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

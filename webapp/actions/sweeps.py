"""Sweeps: the runs that a recipe with ranges stands for, what they will take, and what came of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, cast

from pydantic import BaseModel, Field, model_validator
from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp import charts
from webapp.charts.points import METRIC, SETTING
from webapp.engine.errors import ExportUnfit, RecipeInvalid
from webapp.engine.facts import CheckpointFacts
from webapp.engine.recipe import Recipe, as_yaml, read_text
from webapp.engine.run.predict import StepMatches, match_layers, result_of, size_of
from webapp.engine.run.stages import plan_stages
from webapp.engine.run.stages.base import SourceDigests
from webapp.engine.run.stages.step import StepStage
from webapp.engine.run.sweep import Axis, is_amount, numeric_axes, shown, unfold, value_at
from webapp.engine.techniques import technique_title
from webapp.store.models import Checkpoint, Dataset, Run, RunState, Stage, StageState, Study

from .continuing import digests_of, given_of
from .errors import RequestInvalid
from .run_requests import AskedRecipe, RunRequest, checked_run
from .workers import alive

GATHERED = ("front", "sweep")  # kinds of studies whose runs stand beside each other, and none is the answer by itself
LATEST = 400  # stages that were timed, of which the time of others is foretold


class SweepAsked(BaseModel, extra="forbid"):
    """A run's request in whose recipe settings are ranges or lists, and techniques too."""

    checkpoint_id: str | None = None
    run_id: str | None = Field(None, description="In place of a checkpoint: the runs go on from what it delivered.")
    dataset_id: str | None = Field(None, description="Evaluates; without it only sizes are compared.")
    training_dataset_id: str | None = None
    teacher_checkpoint_id: str | None = None
    recipe: AskedRecipe
    seed: int = Field(0, ge=0, lt=2**31)
    preprocessing: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_start(self) -> SweepAsked:
        if (self.checkpoint_id is None) == (self.run_id is None):
            raise ValueError("a sweep begins with a checkpoint_id, or goes on from a run_id, one of the two")
        return self

    @property
    def data(self) -> Any:
        """The recipe as plain data. Raises RecipeInvalid."""
        return read_text(self.recipe) if isinstance(self.recipe, str) else self.recipe


@dataclass(frozen=True)
class LeftOut:
    """A recipe of a sweep that cannot run, and why."""

    title: str
    message: str


@dataclass(frozen=True)
class SweepDraft:
    """A sweep's runs, which are not in the database yet."""

    axes: list[dict[str, Any]]  # {"path", "title", "values"}; the path is of the whole recipe of a run
    runs: list[Run]
    left_out: list[LeftOut]
    steps_before: int = 0  # of the run that they go on from


def drafted(session: Session, asked: SweepAsked, exports: list[str]) -> SweepDraft:
    """Each recipe checked as a run's is; those that are refused are left out, unless all are.

    Raises as `checked_run` does.
    """
    sweep = unfold(asked.data)
    runs: list[Run] = []
    left_out: list[LeftOut] = []
    first: RecipeInvalid | ExportUnfit | None = None
    shared = asked.model_dump(exclude={"recipe"}, exclude_unset=True) | {"exports": exports}
    for variant in sweep.variants:
        title = sweep.title_of(variant)
        try:
            run = checked_run(session, RunRequest.model_validate({**shared, "recipe": variant.recipe.as_dict()}))
        except (RecipeInvalid, ExportUnfit) as error:
            first = first or error
            left_out.append(LeftOut(title, error.message))
        else:
            run.role = {"title": title or run.name, "number": len(runs) + 1}
            runs.append(run)
    if first is not None and not runs:
        raise first
    before = len(runs[0].recipe["steps"]) - len(sweep.variants[0].recipe.steps)
    return SweepDraft([_axis(axis, before) for axis in sweep.axes], runs, left_out, before)


def _axis(axis: Axis, steps_before: int) -> dict[str, Any]:
    _, index, rest = axis.path.split(".", 2)
    return {"path": f"steps.{int(index) + steps_before}.{rest}", "title": axis.title, "values": list(axis.values)}


class PlannedRun(BaseModel):
    title: str
    size_bytes: int = Field(description="Foretold, of the weights' file.")


class StudyPlan(BaseModel):
    """What a study will run, and take."""

    runs: list[PlannedRun]
    left_out: list[dict[str, str]] = Field(description="Recipes that cannot run: title and message.")
    axes: list[dict[str, Any]] = Field(description="What differs: path, title and values.")
    stages: int = Field(description="Pieces of work, those that runs share counted once.")
    stages_done: int = Field(description="Of these, those that an earlier run has done already.")
    seconds: float | None = Field(description="On the workers that are there; null where nothing like it has run yet.")
    untimed_stages: int = Field(description="Pieces of work whose like has not run yet, and is not in the seconds.")
    size_bytes: int = Field(description="Of all files that it will leave, the weights' alone.")
    memory_bytes: int | None = Field(description="That one run takes at most.")
    recipe: dict[str, Any] = Field(description="As it was asked, with its ranges; overrides as pairs.")
    recipe_yaml: str
    matches: list[StepMatches] = Field(description="Which layers the patterns of the first run's recipe match.")


def planned(session: Session, draft: SweepDraft, data: Mapping[str, Any]) -> StudyPlan:
    """Everything is foretold from facts; nothing runs."""
    checkpoint = session.get_one(Checkpoint, draft.runs[0].checkpoint_id)
    facts = CheckpointFacts.model_validate(checkpoint.facts)
    rows = []
    for run in draft.runs:
        left = result_of(facts, Recipe.read(run.recipe))
        rows.append(PlannedRun(title=(run.role or {})["title"], size_bytes=size_of(left.facts, left.plans)))
    work = _work(session, draft.runs)
    done = _keys_done(session, list(work))
    left = {key: kind for key, kind in work.items() if key not in done}
    took = _seconds_by_kind(session, checkpoint)
    known = [took[kind] for kind in left.values() if kind in took]
    workers = max(1, len(alive(session)))
    steps = Recipe.read(draft.runs[0].recipe).steps
    peaks = [(run.needs or {}).get("memory_bytes") for run in draft.runs]
    return StudyPlan(
        runs=rows,
        left_out=[{"title": each.title, "message": each.message} for each in draft.left_out],
        axes=draft.axes,
        stages=len(work),
        stages_done=len(done),
        seconds=sum(known) / min(workers, len(draft.runs)) if known or not left else None,
        untimed_stages=len(left) - len(known),
        size_bytes=sum(row.size_bytes for row in rows),
        memory_bytes=None if None in peaks else max(cast("list[int]", peaks)),
        recipe=with_pairs(data),
        recipe_yaml=as_yaml(data),
        matches=[match_layers(facts, step, at) for at, step in enumerate(steps)][draft.steps_before :],
    )


def with_pairs(data: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as JSON that keeps the order of its overrides everywhere."""
    steps = [
        {**step, "overrides": [[pattern, given] for pattern, given in step["overrides"].items()]}
        if isinstance(step.get("overrides"), dict)
        else dict(step)
        for step in data["steps"]
    ]
    return {**data, "steps": steps}


def _work(session: Session, runs: Iterable[Run]) -> dict[str, str]:
    """The distinct stages of the runs: what each is of, by its key."""
    found: dict[str, str] = {}
    digests: dict[tuple[str | None, ...], SourceDigests] = {}
    for run in runs:
        ids = (run.checkpoint_id, run.dataset_id, run.training_dataset_id, run.teacher_checkpoint_id)
        sources = digests.get(ids) or digests.setdefault(ids, _digests(session, *ids))
        for stage in plan_stages(given_of(run)).values():
            found[stage.key(sources)] = kind_of(stage.name, run.recipe)
    return found


def _digests(
    session: Session, checkpoint_id: str, dataset_id: str | None, training_id: str | None, teacher_id: str | None
) -> SourceDigests:
    asked = ((Dataset, dataset_id), (Dataset, training_id), (Checkpoint, teacher_id))
    others = (session.get_one(table, id_) if id_ else None for table, id_ in asked)
    return digests_of(session.get_one(Checkpoint, checkpoint_id), *others)


def kind_of(stage_name: str, recipe: Mapping[str, Any]) -> str:
    """What takes as long: a technique's step whatever its number, a format's export, the baseline."""
    kind, _, which = stage_name.partition("-")
    if kind == StepStage.kind and which.isdecimal() and int(which) <= len(recipe["steps"]):
        return f"{kind}-{recipe['steps'][int(which) - 1]['technique']}"
    return stage_name


def _keys_done(session: Session, keys: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(keys), 500):  # SQLite takes a bounded number of parameters
        asked = select(Stage.key).where(Stage.key.in_(keys[start : start + 500]))
        found.update(session.scalars(asked.where(Stage.state.in_((StageState.SUCCEEDED, StageState.REUSED)))))
    return found


def _seconds_by_kind(session: Session, checkpoint: Checkpoint) -> dict[str, float]:
    """The median of what each kind of stage took: on this checkpoint, else on others, in proportion to their bytes."""
    rows = session.execute(
        select(Stage.name, Stage.started_at, Stage.finished_at, Run.recipe, Run.checkpoint_id, Checkpoint.size_bytes)
        .join(Run, Stage.run_id == Run.id)
        .join(Checkpoint, Run.checkpoint_id == Checkpoint.id)
        .where(Stage.state == StageState.SUCCEEDED, Stage.started_at.is_not(None), Stage.finished_at.is_not(None))
        .order_by(Stage.id.desc())
        .limit(LATEST)
    ).tuples()
    own: dict[str, list[float]] = {}
    others: dict[str, list[float]] = {}
    for name, started, finished, recipe, checkpoint_id, size in rows:
        seconds, kind = (finished - started).total_seconds(), kind_of(name, recipe)
        if checkpoint_id == checkpoint.id:
            own.setdefault(kind, []).append(seconds)
        elif size:
            others.setdefault(kind, []).append(seconds * checkpoint.size_bytes / size)
    return {kind: statistics.median(times) for kind, times in {**others, **own}.items()}


@dataclass(frozen=True)
class SweptRun:
    """A run of a sweep without what is heavy in it."""

    id: str
    name: str
    title: str
    number: int
    state: RunState
    progress: float
    error: str | None
    settings: Mapping[str, Any]  # by the axis' path; None: its technique has no such setting
    techniques: tuple[str, ...]  # their titles, in the recipe's order
    result: Mapping[str, Any]  # size_bytes, sparsity, bits_per_weight, speed, metrics; {} until there is one
    baseline: Mapping[str, Any]
    seconds: float | None  # that it took


FIGURES = ("size_bytes", "sparsity", "bits_per_weight", "speed", "metrics")  # of a result


def swept_runs(session: Session, study: Study) -> list[SweptRun]:
    """In the order in which they were drafted."""
    asked = select(
        Run.id,
        Run.name,
        Run.role,
        Run.state,
        Run.progress,
        Run.error,
        Run.recipe,
        Run.started_at,
        Run.finished_at,
        *(Run.result[name] for name in FIGURES),
        *(Run.baseline[name] for name in FIGURES),
    ).where(Run.study_id == study.id)
    found = []
    for row in session.execute(asked.order_by(Run.created_at, Run.id)).tuples():
        id_, name, role, state, progress, error, recipe, started, finished, *figures = row
        result = dict(zip(FIGURES, figures[: len(FIGURES)], strict=True))
        baseline = dict(zip(FIGURES, figures[len(FIGURES) :], strict=True))
        done = state is RunState.SUCCEEDED
        found.append(
            SweptRun(
                id=id_,
                name=name,
                title=(role or {}).get("title", name),
                number=(role or {}).get("number", 0),
                state=state,
                progress=progress,
                error=(error or {}).get("message"),
                settings={axis["path"]: value_at(recipe, axis["path"]) for axis in study.question.get("axes", ())},
                techniques=tuple(technique_title(step["technique"]) for step in recipe["steps"]),
                result=result if done and result["size_bytes"] is not None else {},
                baseline=baseline if done and baseline["size_bytes"] is not None else {},
                seconds=(finished - started).total_seconds() if started and finished and done else None,
            )
        )
    return sorted(found, key=lambda run: run.number)


def share_done(state: RunState, runs: Sequence[SweptRun]) -> float:
    """Of a study's work, 0 to 1."""
    if state.final or not runs:
        return 1.0 if state.final else 0.0
    return sum(1.0 if run.state.final else run.progress for run in runs) / len(runs)


def seconds_left(session: Session, runs: Sequence[SweptRun]) -> float | None:
    """As those that have ended took, on the workers that are there; None before one has."""
    took = [run.seconds for run in runs if run.seconds is not None]
    if not took:
        return None
    open_ = sum(1 - run.progress for run in runs if not run.state.final)
    return open_ * statistics.median(took) / max(1, len(alive(session)))


@dataclass(frozen=True)
class SweepTold:
    """A sweep as its page, its table and the API tell it."""

    runs: list[SweptRun]
    axes: list[dict[str, Any]]  # {"path", "title", "values"}
    metrics: dict[str, str]  # that some run has: titles by names
    metric: str  # the one that is shown; "" where no run has any
    x: str  # of the curve: one of charts.AXES, or an axis' path
    xs: dict[str, str]  # what x may be: titles by names
    knee: str | None  # the run's id
    front: set[str]
    drawn: list[dict[str, Any]]  # the runs as charts are fed

    def value(self, run: SweptRun) -> dict[str, Any]:
        """Of the metric that is shown: value, ci95, n; {} where the run has none (yet)."""
        return dict((run.result.get("metrics") or {}).get(self.metric) or {})

    def figures(self, taken: str | None, links: bool = True) -> dict[str, Any]:
        title = self.metrics.get(self.metric, "")
        runs = [run for run in self.runs if run.result][: charts.PARALLEL_RUNS]  # the curve has all
        results: dict[str, list[Any]] = {
            "Size (kB)": [size and size / 1000 for size in (run.result.get("size_bytes") for run in runs)],
            "Bits per weight": [run.result.get("bits_per_weight") for run in runs],
            "Sparsity, measured": [run.result.get("sparsity") for run in runs],
            "Speed (× the original)": [(run.result.get("speed") or {}).get("ratio") for run in runs],
        }
        settings = [
            charts.Dimension(axis["title"], [_worded(axis["path"], run.settings[axis["path"]]) for run in runs])
            for axis in self.axes
        ]
        measured = [charts.Dimension(name, values) for name, values in results.items() if any(values)]
        shown = charts.Dimension(title or "Size (kB)", [self.value(run).get("value") for run in runs])
        if not title:
            shown = measured.pop(0) if measured else shown
        sides = charts.Sides(
            x=self.x if self.x in charts.AXES else f"{SETTING}{self.x}",
            y=f"{METRIC}{self.metric}",
            scale="log" if self.x == "size_bytes" else "auto",  # as the knee counts sizes
            colour=charts.SERIES,
            titles={f"{SETTING}{path}": named for path, named in self.xs.items()} | {METRIC: "Quality"},
            links=links,
            labels=False,
            marks={"Knee": self.knee, "Taken": taken},
            empty="The curve begins with the first run that ends with a result.",
        )
        return {
            "curve": charts.tradeoff(self.drawn, sides),
            "parallel": charts.parallel_coordinates([run.title for run in runs], [*settings, *measured], shown),
        }


def told(session: Session, study: Study, metric: str = "", x: str = "") -> SweepTold:
    """Raises RequestInvalid for a metric or an x that there is not."""
    runs, axes = swept_runs(session, study), list(study.question.get("axes", ()))
    numeric = numeric_axes(axes)
    along = next(iter(numeric), None)
    rows = [_as_charts_are_fed(study, run, _series(run, runs, axes, along), along) for run in runs]
    metrics = charts.metric_names(rows)
    xs = {**{name: charts.AXES[name] for name in ("size_bytes", "bits_per_weight", "time_ratio")}}
    xs |= {axis["path"]: axis["title"] for axis in numeric}
    for name, given, known in (("metric", metric, metrics), ("x", x, xs)):
        if given and given not in known:
            has = f"They have {', '.join(known)}." if known else "They have none (yet)."
            raise RequestInvalid(f"The runs of this study have no {name} {given[:60]!r}. {has}", name)
    metric, x = metric or next(iter(metrics), ""), x or "size_bytes"
    return SweepTold(
        runs=runs,
        axes=axes,
        metrics=metrics,
        metric=metric,
        x=x,
        xs=xs,
        knee=charts.knee_run(rows, metric),
        front=charts.front_runs(rows, metric),
        drawn=rows,
    )


def _as_charts_are_fed(study: Study, run: SweptRun, series: str, along: Mapping[str, Any] | None) -> dict[str, Any]:
    """On the line of its series, by its value of the setting `along`."""
    at = run.settings.get(along["path"]) if along else None
    return {
        "id": run.id,
        "name": run.title,
        "series": series,
        "line": {"key": series, "at": at} if is_amount(at) else None,
        "settings": {f"{SETTING}{path}": value for path, value in run.settings.items()},
        "state": run.state,
        "checkpoint": {"id": study.checkpoint_id, "name": study.checkpoint.name},
        "dataset": {"id": study.dataset_id, "name": study.dataset.name} if study.dataset else None,
        "baseline": run.baseline or None,
        "result": run.result or None,
    }


def _series(
    run: SweptRun, runs: Sequence[SweptRun], axes: Sequence[Mapping[str, Any]], along: Mapping[str, Any] | None
) -> str:
    """The line that a run is on: its techniques, those alone that differ between the runs where any do, and what it has
    of the settings that the line does not go along."""
    steps = list(zip_longest(*(each.techniques for each in runs)))
    differing = [title for title, each in zip(run.techniques, steps, strict=False) if len(set(each)) > 1]
    others = [axis for axis in axes if axis is not along and not axis["path"].endswith(".technique")]
    fixed = [
        shown(axis["path"], axis["title"], value)
        for axis in others
        if (value := run.settings[axis["path"]]) is not None
    ]
    return ", ".join([" + ".join(differing or run.techniques), *fixed])


def _worded(path: str, value: Any) -> Any:
    return technique_title(value) if path.endswith(".technique") and isinstance(value, str) else value


def table_of(found: SweepTold, named: bool = True) -> list[list[Any]]:
    """The sweep's table with a heading row, numbers unrounded; the runs `named` by their ids, or numbered."""
    titles = [axis["title"] for axis in found.axes]
    head = [
        "id",
        "run",
        "state",
        "techniques",
        *titles,
        "size_bytes",
        "size_bytes_original",
        "sparsity",
        "bits_per_weight",
    ]
    head += [
        "speed",
        f"metric:{found.metric}",
        "ci95_low",
        "ci95_high",
        "n",
        "metric_original",
        "pareto",
        "knee",
        "seconds",
    ]
    rows: list[list[Any]] = [head]
    for run in found.runs:
        own, low_high = found.value(run), found.value(run).get("ci95") or (None, None)
        original = ((run.baseline.get("metrics") or {}).get(found.metric) or {}).get("value")
        settings = [run.settings[axis["path"]] for axis in found.axes]
        figures = [run.result.get("size_bytes"), run.baseline.get("size_bytes"), run.result.get("sparsity")]
        figures += [run.result.get("bits_per_weight"), (run.result.get("speed") or {}).get("ratio")]
        measured = [own.get("value"), *low_high, own.get("n"), original]
        marks = [run.id in found.front, run.id == found.knee, run.seconds]
        rows.append(
            [
                run.id if named else run.number,
                run.title,
                str(run.state),
                run.techniques,
                *settings,
                *figures,
                *measured,
                *marks,
            ]
        )
    return rows

"""The runs of a comparison as it is fed, read without what is heavy in them: a hundred receipts are many megabytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session, aliased, joinedload

from webapp.engine.errors import RecipeInvalid
from webapp.engine.run.metrics import METRICS
from webapp.engine.run.sweep import is_amount, numeric_axes, value_at
from webapp.engine.techniques import technique_title
from webapp.store.figures import SETTING
from webapp.store.models import Checkpoint, Dataset, Run, RunFigure, RunTag, Study

from .blame import blame_of
from .errors import Conflict, NotFound, RequestInvalid

MOST_RUNS = 500  # of one comparison
WHOLE_RUNS = 100  # of more, what only a receipt has is not read
LAYER_RUNS = 6  # whose layers stand side by side
AT_ONCE = 500  # SQLite takes a bounded number of parameters
ANY = f"{SETTING}any."  # begins a setting of whichever technique has it: "setting.any.bits"
ORIGINAL = ("size_bytes", "params_total", "params_nonzero", "sparsity", "bits_per_weight", "speed", "latency_ms")
RESULT = (*ORIGINAL, "metrics", "metrics_unavailable")
BASELINE = (*ORIGINAL, "metrics")
LAYER = ("name", "shape", "stored_bytes", "sparsity", "bits_per_weight", "storage")  # what is compared of one


def runs_of_studies(session: Session, study_ids: Sequence[str]) -> list[str]:
    """The ids of their runs, in the order in which they were made. Raises NotFound (field "study")."""
    found: list[str] = []
    for id_ in study_ids:
        if session.get(Study, id_) is None:
            raise NotFound(
                f"There is no study {id_[:40]}. It may have been deleted; take it out of the address.", "study"
            )
        found += session.scalars(select(Run.id).where(Run.study_id == id_).order_by(Run.created_at, Run.id))
    return found


def runs_of(session: Session, run_ids: Sequence[str]) -> list[Run]:
    """Whole, in the order asked; of a few. Raises NotFound (field "run")."""
    asked = select(Run).where(Run.id.in_(run_ids[:MOST_RUNS]))
    found = {run.id: run for run in session.scalars(asked.options(joinedload(Run.checkpoint), joinedload(Run.dataset)))}
    _require_all(run_ids, found)
    return [found[id_] for id_ in run_ids]


def _require_all(run_ids: Sequence[str], found: Mapping[str, Any]) -> None:
    if missing := [id_ for id_ in run_ids if id_ not in found]:
        raise NotFound(
            f"There is no run {missing[0][:40]}. It may have been deleted; take it out of the address.", "run"
        )


def drawn(
    session: Session, run_ids: Sequence[str], anonymous: bool = False, with_tags: bool = True
) -> list[dict[str, Any]]:
    """What charts and tables are fed, in the order asked; `layers` only of the first LAYER_RUNS.

    `anonymous` numbers runs, checkpoints, datasets and studies instead of naming their ids. Raises NotFound (field
    "run"), and RequestInvalid for more than MOST_RUNS.
    """
    if len(run_ids) > MOST_RUNS:
        raise RequestInvalid(f"At most {MOST_RUNS} runs are compared; these are {len(run_ids):,}.", "run")
    numbers: dict[str, str] = {}

    def shown(id_: str) -> str:
        return numbers.setdefault(id_, str(len(numbers) + 1)) if anonymous else id_

    rows = _read(session, run_ids)
    _require_all(run_ids, rows)
    figures = _figures(session, run_ids)
    tags: dict[str, list[str]] = {}
    if with_tags:
        asked = select(RunTag.run_id, RunTag.tag).where(RunTag.run_id.in_(run_ids)).order_by(RunTag.tag)
        for id_, tag in session.execute(asked):
            tags.setdefault(id_, []).append(tag)
    layers = _layers(session, run_ids[:LAYER_RUNS])
    losses = _losses(session, run_ids[:LAYER_RUNS]) if len(run_ids) > 1 else {}
    prunable = _prunable(session, run_ids) if len(run_ids) <= WHOLE_RUNS else {}
    found = []
    for id_ in run_ids:
        row = rows[id_]
        result = row["result"]
        known = figures.get(id_, {})
        if result is not None:
            result |= {"layers": layers.get(id_, [])} | {name: known[name] for name in EXACT if name in known}
        study = row.pop("question"), row.pop("kind")
        line = _line(row, *study)
        found.append(
            row
            | {
                "id": shown(id_),
                "checkpoint": row["checkpoint"] | {"id": shown(row["checkpoint"]["id"])},
                "dataset": row["dataset"] and row["dataset"] | {"id": shown(row["dataset"]["id"])},
                "study": row["study"] and row["study"] | {"id": shown(row["study"]["id"])},
                "line": line and {"key": shown(line["key"]), "at": line["at"]},
                "settings": {name: value for name, value in known.items() if name not in EXACT},
                "tags": tags.get(id_, []),
                "prunable_sparsity": prunable.get(id_),
                "losses": losses.get(id_),
            }
        )
    return found


def _read(session: Session, run_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    training, teacher = aliased(Dataset), aliased(Checkpoint)
    own = (Run.id, Run.name, Run.state, Run.recipe, Run.seed, Run.exports, Run.task)
    times = (Run.created_at, Run.started_at, Run.finished_at)
    asked = (
        select(*own, *times, Run.checkpoint_id, Checkpoint.name, Run.dataset_id, Dataset.name, training.name)
        .add_columns(teacher.name, Run.study_id, Study.name, Study.kind, Study.question)
        .add_columns(*(Run.result[name] for name in RESULT), *(Run.baseline[name] for name in BASELINE))
        .join(Checkpoint, Checkpoint.id == Run.checkpoint_id)
        .outerjoin(Dataset, Dataset.id == Run.dataset_id)
        .outerjoin(training, training.id == Run.training_dataset_id)
        .outerjoin(teacher, teacher.id == Run.teacher_checkpoint_id)
        .outerjoin(Study, Study.id == Run.study_id)
    )
    found: dict[str, dict[str, Any]] = {}
    for start in range(0, len(run_ids), AT_ONCE):
        for row in session.execute(asked.where(Run.id.in_(run_ids[start : start + AT_ONCE]))).tuples():
            id_, name, state, recipe, seed, exports, task, created, started, finished, *rest = row
            checkpoint_id, checkpoint, dataset_id, dataset, trained, taught, study_id, study, kind, question = rest[:10]
            result = dict(zip(RESULT, rest[10 : 10 + len(RESULT)], strict=True))
            baseline = dict(zip(BASELINE, rest[10 + len(RESULT) :], strict=True))
            done = finished if result["size_bytes"] is not None else None
            found[id_] = {
                "name": name,
                "state": state,
                "recipe": recipe,
                "seed": seed,
                "exports": exports,
                "task": task,
                "created_at": created,
                "started_at": started,
                "finished_at": finished,
                "seconds": (done - started).total_seconds() if started and done else None,
                "techniques": " + ".join(technique_title(step["technique"]) for step in recipe.get("steps") or ()),
                "checkpoint": {"id": checkpoint_id, "name": checkpoint},
                "dataset": {"id": dataset_id, "name": dataset} if dataset_id and dataset else None,
                "training_dataset": trained,
                "teacher_checkpoint": taught,
                "study": {"id": study_id, "name": study} if study_id and study else None,
                "kind": kind,
                "question": question,
                "result": result if result["size_bytes"] is not None else None,
                "baseline": baseline if baseline["size_bytes"] is not None else None,
            }
    return found


EXACT = ("sparsity", "bits_per_weight")  # of a result: SQLite rounds a number that it takes out of JSON


def _figures(session: Session, run_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Of each run, by "setting.gptq.bits": numbers and words; of several steps with one technique, of the first."""
    found: dict[str, dict[str, Any]] = {}
    asked = select(RunFigure.run_id, RunFigure.name, RunFigure.value, RunFigure.text)
    asked = asked.where(
        RunFigure.run_id.in_(run_ids),
        or_(RunFigure.name.startswith(SETTING, autoescape=True), RunFigure.name.in_(EXACT)),
    )
    for id_, name, value, text in session.execute(asked.order_by(RunFigure.run_id, RunFigure.name)):
        own = found.setdefault(id_, {})
        own[name] = text or value
        if name.startswith(SETTING):
            own.setdefault(f"{ANY}{name.split('.', 2)[2]}", own[name])
    return found


def _layers(session: Session, run_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    asked = select(Run.id, Run.result["layers"]).where(Run.id.in_(run_ids), Run.result.is_not(None))
    return {
        id_: [{name: layer.get(name) for name in LAYER} for layer in layers or ()]
        for id_, layers in session.execute(asked)
    }


def _losses(session: Session, run_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the layers of each run are expected and measured to cost, where a profile or the receipt has it."""
    found = {}
    for run in session.scalars(select(Run).where(Run.id.in_(run_ids), Run.result.is_not(None))):
        if not all("layers" in (side or {}) for side in (run.result, run.baseline)) or run.checkpoint.facts is None:
            continue
        try:
            blame = blame_of(session, run)
        except (Conflict, RecipeInvalid):  # of a technique that is gone
            continue
        metric = METRICS.get(blame.metric)
        found[run.id] = {
            "expected_unit": blame.unit,
            "measured_unit": metric.title if metric else "",
            "layers": {
                row.name: {"expected": row.expected, "measured": row.cost(blame.metric) if metric else None}
                for row in blame.layers
            },
        }
    return found


def _prunable(session: Session, run_ids: Sequence[str]) -> dict[str, float | None]:
    asked = select(Run.id, Run.receipt["parameters"]["prunable_sparsity"]).where(Run.id.in_(run_ids))
    return dict(session.execute(asked.where(Run.receipt.is_not(None))).tuples().all())


def _line(row: Mapping[str, Any], question: Mapping[str, Any] | None, kind: str | None) -> dict[str, Any] | None:
    """Which line the run is on, and where: along the numeric setting of most values that its study varies.

    A front's runs, which have no such setting, lie along their sizes; the runs of a race on no line.
    """
    size = (row["result"] or {}).get("size_bytes")
    if not row["study"] or size is None or kind not in ("sweep", "front"):
        return None
    axes = (question or {}).get("axes") or ()
    along = next(iter(numeric_axes(axes)), None)
    if along is None:
        return {"key": row["study"]["id"], "at": size} if kind == "front" else None
    at = value_at(row["recipe"], along["path"])
    others = [str(value_at(row["recipe"], axis["path"])) for axis in axes if axis is not along]
    steps = [step["technique"] for step in row["recipe"]["steps"]]
    key = " ".join([row["study"]["id"], *steps, *others])
    return {"key": key, "at": at} if is_amount(at) else None

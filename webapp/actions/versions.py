"""The best run of a checkpoint, the versions of one, and the runs of one version applied to another."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy import func, literal, select
from sqlalchemy.orm import Session, load_only

from webapp.engine.errors import PareError
from webapp.store.database import locked
from webapp.store.models import Checkpoint, Run, RunState, Study, UploadState

from .errors import Conflict, NotFound, RequestInvalid
from .run_requests import RunChanges, checked_run, fork_request, ready
from .run_table import ListedRun, RunsView, ids_of, rows_of_runs
from .studies import MoreAsked, StudyQueue, StudyRequest, extend_study, start_study
from .sweeps import SweepAsked, drafted, with_pairs
from .uploads import version_before

VERSIONS_LOCK = 0x76657273  # "vers"
MOST_VERSIONS = 100  # in a row of them
MOST_RUNS = 200  # that are started at once
LOOKED_THROUGH, COMPARED = 500, 5  # checkpoints whose names are looked at, and whose tensors are, for a suggestion
MOST_EARLIER = 200  # checkpoints that one may be a version of, the newest
OFFERED = 50  # runs whose recipes can be applied
NAMED = load_only(Run.id, Run.name, Run.best_of_id)  # without receipts
PASSING = {"v", "ver", "version", "epoch", "step", "iter", "best", "last", "latest", "final", "new", "old", "copy"}
SUFFIX = re.compile(r"\.[a-z0-9]{1,12}$")


class AppliedRuns(BaseModel, extra="forbid"):
    """Whose recipes are applied."""

    run_ids: list[str] = Field(default_factory=list, max_length=MOST_RUNS)
    study_ids: list[str] = Field(
        default_factory=list,
        max_length=20,
        description="Studies: a sweep is asked again, as a study of its own, and of another one all runs are applied.",
    )


def set_best(session: Session, checkpoint: Checkpoint, run_id: str | None) -> None:
    """The run that is the best of the checkpoint so far, as the last one says who says so; None: none is.

    Raises NotFound, or Conflict for a run of another checkpoint, or one that has not succeeded.
    """
    if locked(session, checkpoint) is None:
        raise NotFound("The checkpoint has just been deleted.")
    run = None
    if run_id is not None and run_id.isascii() and run_id.isalnum():
        run = session.get(Run, run_id, with_for_update=True, populate_existing=True)
    if run_id is not None and run is None:
        raise NotFound(f"There is no run {run_id[:40]!r}. It may have been deleted.", "best_run_id")
    if run is not None and run.checkpoint_id != checkpoint.id:
        raise Conflict(f"The run {run.name} is of another checkpoint, {run.checkpoint.name}.", "best_run_id")
    if run is not None and run.state != RunState.SUCCEEDED:
        raise Conflict(f"The run {run.name} is {run.state}; the best so far has succeeded.", "best_run_id")
    promoted = select(Run).where(Run.best_of_id == checkpoint.id).execution_options(populate_existing=True)
    for earlier in session.scalars(promoted):
        earlier.best_of_id = None
    session.flush()
    if run is not None:
        run.best_of_id = checkpoint.id
    session.commit()
    session.refresh(checkpoint, ["best_run_id"])


def set_version(session: Session, checkpoint: Checkpoint, newer_than_id: str | None) -> None:
    """Of which checkpoint it is the next version; None: of none. Raises NotFound, or Conflict for a circle.

    One at a time: each of two edits that are no circle alone may close one with the other.
    """
    if locked(session, checkpoint, alone=VERSIONS_LOCK) is None:
        raise NotFound("The checkpoint has just been deleted.")
    if newer_than_id is not None:
        earlier = version_before(session, newer_than_id)
        if earlier.id == checkpoint.id:
            raise Conflict("A checkpoint is no newer version of itself.", "newer_than_id")
        if any(each.id == checkpoint.id for each in _chain(session, earlier.id, up=True)):
            raise Conflict(
                f"{earlier.name} is a newer version of {checkpoint.name} already, so this one cannot be newer.",
                "newer_than_id",
            )
    checkpoint.newer_than_id = newer_than_id
    session.commit()


def versions_of(session: Session, checkpoint: Checkpoint) -> list[Checkpoint]:
    """All that are versions of one with it, the first one first; it alone where there are no others."""
    if checkpoint.newer_than_id is None and not _has_newer(session, checkpoint.id):
        return [checkpoint]
    first = _chain(session, checkpoint.id, up=True)[-1]
    return _chain(session, first.id, up=False)


def earlier_versions(session: Session, but: str | None = None) -> list[Checkpoint]:
    """What a checkpoint may be a newer version of, newest first."""
    rows = select(Checkpoint).options(load_only(Checkpoint.id, Checkpoint.name)).where(Checkpoint.id != (but or ""))
    return list(session.scalars(rows.order_by(Checkpoint.created_at.desc()).limit(MOST_EARLIER)))


def _has_newer(session: Session, checkpoint_id: str) -> bool:
    return session.scalar(select(Checkpoint.id).where(Checkpoint.newer_than_id == checkpoint_id).limit(1)) is not None


def _chain(session: Session, checkpoint_id: str, up: bool) -> list[Checkpoint]:
    """Versions before it, up to the first, or after it: nearest first, and with it."""
    walk = (
        select(Checkpoint.id, Checkpoint.newer_than_id, literal(0).label("steps"))
        .where(Checkpoint.id == checkpoint_id)
        .cte("versions", recursive=True)
    )
    joined = Checkpoint.id == walk.c.newer_than_id if up else Checkpoint.newer_than_id == walk.c.id
    further = select(Checkpoint.id, Checkpoint.newer_than_id, (walk.c.steps + 1).label("steps"))
    walk = walk.union_all(further.join(walk, joined).where(walk.c.steps < MOST_VERSIONS))
    columns = (Checkpoint.id, Checkpoint.name, Checkpoint.state, Checkpoint.size_bytes, Checkpoint.created_at)
    asked = select(Checkpoint).options(load_only(*columns, Checkpoint.newer_than_id))
    ordered = asked.join(walk, walk.c.id == Checkpoint.id).order_by(walk.c.steps, Checkpoint.created_at)
    return list(session.scalars(ordered.limit(MOST_VERSIONS)))


def suggested_version(session: Session, checkpoint: Checkpoint) -> Checkpoint | None:
    """An earlier checkpoint of like name with the same architecture, and tensors of the same names and shapes.

    None where the checkpoint says already which it follows, or came from a run.
    """
    if checkpoint.newer_than_id or checkpoint.delivered_by_id or checkpoint.state != UploadState.READY:
        return None
    columns = (Checkpoint.id, Checkpoint.name, Checkpoint.digest)
    earlier = (
        select(*columns)
        .where(Checkpoint.state == UploadState.READY, Checkpoint.created_at < checkpoint.created_at)
        .where(Checkpoint.delivered_by_id.is_(None))
        .order_by(Checkpoint.created_at.desc(), Checkpoint.id)
    )
    wanted = name_without_version(checkpoint.name)
    alike = [
        id_
        for id_, name, digest in session.execute(earlier.limit(LOOKED_THROUGH))
        if name_without_version(name) == wanted and digest != checkpoint.digest
    ]
    own = _shapes(checkpoint)
    for id_ in alike[:COMPARED]:
        found = session.get_one(Checkpoint, id_)
        if _shapes(found) == own:
            return found
    return None


def name_without_version(name: str) -> str:
    """ "Digits-CNN_v2.epoch10.pt" → "digits cnn": what the names of versions share."""
    words = re.findall(r"[^\W\d_]+", SUFFIX.sub("", name.lower()))
    return " ".join(word for word in words if word not in PASSING)


def _shapes(checkpoint: Checkpoint) -> Any:
    facts = checkpoint.facts or {}
    family = (facts.get("architecture") or {}).get("family")
    return family, {tensor["name"]: tuple(tensor["shape"]) for tensor in facts.get("tensors", ())}


@dataclass(frozen=True)
class Version:
    """A version of a checkpoint, with its best run, and how many runs it has."""

    checkpoint: Checkpoint
    best: Run | None
    runs: int


def told_versions(session: Session, checkpoint: Checkpoint) -> list[Version]:
    """Of `versions_of`, the newest first."""
    rows = versions_of(session, checkpoint)[::-1]
    ids = [row.id for row in rows]
    counted = (
        select(Run.checkpoint_id, func.count(Run.id)).where(Run.checkpoint_id.in_(ids)).group_by(Run.checkpoint_id)
    )
    counts = dict(session.execute(counted).tuples().all())
    named = select(Run).options(NAMED).where(Run.best_of_id.in_(ids))
    best = {run.best_of_id: run for run in session.scalars(named)}
    return [Version(row, best.get(row.id), counts.get(row.id, 0)) for row in rows]


def apply_runs(session: Session, jobs: StudyQueue, checkpoint: Checkpoint, asked: AppliedRuns) -> list[Run]:
    """New runs like these, of the checkpoint, with those of the sweeps that are asked again: all of them are checked
    before any is started.

    Raises RequestInvalid where there is none, or too many; NotFound; Conflict; and what asking for a run raises, which
    then names the run that cannot be applied.
    """
    ready(session, Checkpoint, checkpoint.id, "id")
    runs = [_found(session, Run, id_, "run_ids") for id_ in dict.fromkeys(asked.run_ids)]
    studies = [_found(session, Study, id_, "study_ids") for id_ in dict.fromkeys(asked.study_ids)]
    sweeps = [study for study in studies if study.kind == "sweep" and not study.question["run_id"]]
    for study in studies:
        runs += [] if study in sweeps else study.runs
    runs = list({run.id: run for run in runs}.values())
    if not runs and not sweeps:
        raise RequestInvalid("No run is named whose recipe is to be applied.", "run_ids")
    if len(runs) > MOST_RUNS:
        raise RequestInvalid(f"These are {len(runs)} runs; at most {MOST_RUNS} are started at once.", "run_ids")
    made = [_applied(session, run, checkpoint) for run in runs]
    again = [(study, [_asked_again(study, data, checkpoint) for data in study.question["recipes"]]) for study in sweeps]
    for study, asked_again in again:
        for sweep in asked_again:
            drafted(session, sweep, study.question["run"]["exports"])
    session.add_all(made)
    session.commit()
    for run in made:
        jobs.enqueue_run(run.id)
    for study, (first, *more) in again:
        begun = start_study(session, jobs, StudyRequest(sweep=first, exports=study.question["run"]["exports"]))
        for sweep in more:
            with suppress(Conflict):  # nothing of it is new
                extend_study(session, jobs, begun, MoreAsked(recipe=sweep.recipe))
        made += begun.runs
    return made


def _asked_again(study: Study, data: Any, checkpoint: Checkpoint) -> SweepAsked:
    """What asks for the same of another checkpoint; `data` is one of the study's recipes."""
    shared = ("dataset_id", "training_dataset_id", "seed", "preprocessing")
    return SweepAsked(
        checkpoint_id=checkpoint.id,
        recipe=with_pairs(data),
        teacher_checkpoint_id=study.question["teacher_checkpoint_id"],
        **{name: study.question["run"][name] for name in shared},
    )


def _applied(session: Session, run: Run, checkpoint: Checkpoint) -> Run:
    try:
        made = checked_run(session, fork_request(run, RunChanges(checkpoint_id=checkpoint.id)))
    except PareError as error:
        error.message = f"{run.name} cannot be applied to {checkpoint.name}: {error.message}"
        raise
    made.forked_from_id = run.id
    return made


def _found(session: Session, table: type[Any], id_: str, field: str) -> Any:
    row = session.get(table, id_)
    if row is None:
        raise NotFound(f"There is no {table.__name__.lower()} {id_[:40]}. It may have been deleted.", field)
    return row


def applicable(session: Session, checkpoint: Checkpoint) -> Sequence[ListedRun]:
    """Runs of the version before it that succeeded, the best and then the newest first."""
    if checkpoint.newer_than is None:
        return ()
    newest = ids_of(session, RunsView(checkpoint=checkpoint.newer_than.id), 2 * OFFERED)  # whatever became of them
    best = [id_ for id_ in (checkpoint.newer_than.best_run_id,) if id_ is not None]
    rows = rows_of_runs(session, [*dict.fromkeys([*best, *newest])], ())
    return [row for row in rows if row.state is RunState.SUCCEEDED][:OFFERED]


def studies_of(session: Session, checkpoint_ids: Iterable[str | None]) -> Sequence[Study]:
    """The newest studies of these checkpoints."""
    asked = select(Study).where(Study.checkpoint_id.in_([id_ for id_ in checkpoint_ids if id_]))
    return session.scalars(asked.order_by(Study.created_at.desc()).limit(20)).all()

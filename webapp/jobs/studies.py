"""Studies go on: what has become of each one's runs is looked at, and another is begun, or the answer written down.

No workflow waits for them. Any worker looks, every second or so; what it finds is decided outside of any transaction,
and written only where the study is still as it was seen. So a study holds no place in a queue, and survives the death
of any worker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, selectinload, undefer

from webapp.engine.errors import PareError, some
from webapp.engine.exporters import measured
from webapp.engine.run.race import Entrant, judged
from webapp.engine.run.stages.baseline import SCORES, read_scores
from webapp.engine.run.stages.verify import VerifyStage
from webapp.store.clock import now
from webapp.store.database import writing
from webapp.store.errors import StoreError
from webapp.store.models import Profile, Run, RunState, Study

from .client import JobClient
from .job_files import foreseen
from .searches import searched
from .study_steps import Begin, Conclude
from .workplace import Workplace

log = logging.getLogger(__name__)


def raced(place: Workplace, study: Study) -> Conclude:
    """The budget's run beside the uniform ones, by every metric that they share."""
    done = [run for run in study.runs if run.state is RunState.SUCCEEDED]
    leader = next((run for run in done if (run.role or {}).get("leads")), None)
    if leader is None:
        return Conclude({"winner": None, "sentence": "The budget's run has no result, so there is nothing to compare."})
    entrants = {run.id: Entrant((run.role or {})["title"], scores_of(place, run)) for run in done}
    first = ((leader.expected or {}).get("loss") or {}).get("metric")
    metrics = sorted(entrants[leader.id].scores, key=lambda metric: metric != first)
    by_metric = {metric: judged(metric, leader.id, entrants, leader.seed) for metric in metrics}
    if not by_metric:
        return Conclude({"winner": None, "sentence": "Nothing was measured, so there is nothing to compare."})
    decides, sentence = by_metric[metrics[0]], by_metric[metrics[0]]["sentence"]
    if not study.question.get("others", True):
        sentence = ALONE
    if lacking := [f"“{(run.role or {})['title']}”" for run in study.runs if run not in done]:
        sentence += f" Without a result: {some(lacking)}."
    return Conclude({"winner": decides["winner"], "sentence": sentence, "by_metric": by_metric})


def scores_of(place: Workplace, run: Run) -> dict[str, Any]:
    """Per sample, as the stage left them that measured the delivered file."""
    name = VerifyStage.name_of(measured().name)
    files = next((stage.files for stage in run.stages if stage.name == name), {})
    return read_scores(place.files.path(files[SCORES]["digest"])) if SCORES in files else {}


ALONE = "No uniform recipe gives a file that is as small, so the budget ran alone: its receipt says how it did."


def gathered(place: Workplace, study: Study) -> Conclude:
    """Runs that stand beside each other: which of them is best is for the reader, by the metric that counts there."""
    lacking = [run for run in study.runs if run.state is not RunState.SUCCEEDED]
    done = len(study.runs) - len(lacking)
    sentence = f"{done} of {len(study.runs)} run{'' if len(study.runs) == 1 else 's'} ended with a result."
    if lacking:
        named = [f"“{(run.role or {}).get('title', run.name)}”" for run in lacking]
        sentence += f" Without one: {some(named)}."
    return Conclude({"winner": None, "sentence": sentence})


KINDS: dict[str, Callable[[Workplace, Study], Begin | Conclude]] = {  # asked once all of its runs have ended
    "race": raced,
    "smallest": searched,
    "front": gathered,
    "sweep": gathered,
}


LIGHT = (selectinload(Study.runs).load_only(Run.name, Run.state, Run.role),)  # there may be hundreds
WHOLE = (
    selectinload(Study.runs).selectinload(Run.stages),
    selectinload(Study.profile).options(undefer(Profile.facts)),
    selectinload(Study.checkpoint),
)


def advance_studies(place: Workplace, jobs: JobClient) -> None:
    """Looks at every study that is under way."""
    going_on = select(Study.id, Study.state).where(Study.state.in_((RunState.QUEUED, RunState.RUNNING)))
    with place.sessions() as session:
        found = session.execute(going_on.order_by(Study.created_at)).tuples().all()
    for id_, state in found:
        try:
            if state is RunState.QUEUED:
                _begin(place, id_)
            _advance(place, jobs, id_)
        except (PareError, StoreError) as error:
            _fail(place, id_, error.as_dict())
        except OperationalError:
            raise  # the database is busy, or restarts: looked at again
        except Exception as error:
            log.exception("The study %s failed for a reason that nobody foresaw", id_)
            message = f"Something went wrong inside Pare ({type(error).__name__}). The worker's log has the details."
            _fail(place, id_, {"code": "internal", "message": message})


def _advance(place: Workplace, jobs: JobClient, id_: str) -> None:
    with place.sessions() as session:
        seen = _seen(session, id_)
    if not all(state.final for _, state, _ in seen):
        return
    with place.sessions() as session:
        kind = session.scalar(select(Study.kind).where(Study.id == id_))
        study = session.get(Study, id_, options=LIGHT if KINDS.get(kind or "") is gathered else WHOLE)
    if study is None:
        return
    decided = KINDS[study.kind](place, study)
    with writing(place.sessions) as session:
        row = _open(session, id_)
        if row is None or _seen(session, id_) != seen:
            return
        begun = _write(session, row, decided)
    if begun is not None:
        _foresee(place, begun.id)
        jobs.enqueue_run(begun.id)


def _write(session: Session, study: Study, decided: Begin | Conclude) -> Run | None:
    if isinstance(decided, Conclude):
        study.conclusion, study.state, study.finished_at = decided.conclusion, RunState.SUCCEEDED, now()
        study.message, study.progress = "Done", 1.0
        return None
    run = Run(study_id=study.id, checkpoint_id=study.checkpoint_id, **study.question["run"], **decided.run)
    session.add(run)
    session.flush()
    study.message = decided.run["role"]["title"]
    return run


def _foresee(place: Workplace, run_id: str) -> None:
    """Writes down what it needs, so that a worker takes it that has as much."""
    with place.sessions() as session:
        run = session.get(Run, run_id)
        needs = run and foreseen(run)
    with place.sessions.begin() as session:
        session.execute(update(Run).where(Run.id == run_id).values(needs=needs))


def _begin(place: Workplace, id_: str) -> None:
    mine = (Study.id == id_, Study.state == RunState.QUEUED)
    with place.sessions.begin() as session:
        session.execute(update(Study).where(*mine).values(state=RunState.RUNNING, started_at=now()))


def _fail(place: Workplace, id_: str, error: dict[str, Any]) -> None:
    with writing(place.sessions) as session:
        if (row := _open(session, id_)) is not None:
            row.state, row.error, row.message, row.finished_at = RunState.FAILED, error, "Failed", now()
    log.warning("The study %s failed: %s", id_, error["message"])


def _open(session: Session, id_: str) -> Study | None:
    """The study, locked, if it is still under way."""
    row = session.get(Study, id_, with_for_update=True)
    return row if row is not None and not row.state.final else None


def _seen(session: Session, id_: str) -> list[tuple[str, RunState, int]]:
    """What there is to decide by: each run, its state and its attempt."""
    runs = select(Run.id, Run.state, Run.attempt).where(Run.study_id == id_).order_by(Run.created_at, Run.id)
    return [(run_id, state, attempt) for run_id, state, attempt in session.execute(runs)]

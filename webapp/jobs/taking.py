"""Which worker computes what: one that computes nothing takes the oldest run or profile that fits it.

The job system knows queues, and neither what a run needs nor what a worker can. So nobody listens to the queue in which
all of them wait (RUNS): a worker moves what it takes into a queue of its own, from which it is given one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

from dbos import DBOS
from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp.store.database import writing
from webapp.store.models import Profile, Run, RunState, Worker

from .abilities import Abilities, Needs, lacking
from .heartbeat import living
from .queues import JOBS, RUNS, lock_moves, own_queue
from .workplace import Workplace

AT_ONCE = 100  # rows that are looked at for one that fits


def take(place: Workplace, able: Abilities) -> None:
    """Moves the oldest that fits into this worker's own queue, unless it has something there."""
    mine = own_queue(place.executor_id)
    if _are_any(mine, "ENQUEUED", "PENDING") or not _are_any(RUNS, "ENQUEUED"):
        return
    with writing(place.sessions) as session:
        lock_moves(session)
        if place.executor_id not in living(session):
            return  # others took it for dead
        found, over = None, []
        for workflow_id, row in _waiting(session):
            if row is None or row.state.final:
                over.append(workflow_id)
            elif able.fits(Needs.of(row)):
                found = workflow_id
                break
        if over:  # each would be begun, only to find that there is nothing to do: hundreds where a study was cancelled
            DBOS.cancel_workflows(over)
        if found is not None:
            DBOS.resume_workflow(found, queue_name=mine)


def tell_waiting(place: Workplace) -> None:
    """Runs that fit no worker that is alive say so, until one fits."""
    with place.sessions() as session:
        workers = [Abilities.read(kept) for kept in session.scalars(select(Worker.able))]
        rows = session.scalars(select(Run).where(Run.state == RunState.QUEUED)).all()
    told = {row.id: lacking(workers, Needs.of(row)) or "" for row in rows}
    changed = [row.id for row in rows if row.message != told[row.id]]
    if not changed:
        return
    with writing(place.sessions) as session:
        for row in session.scalars(select(Run).where(Run.id.in_(changed)).with_for_update()):
            if row.state is RunState.QUEUED:
                row.message = told[row.id][:500]


def _are_any(queue: str, *states: str) -> bool:
    return bool(DBOS.list_workflows(queue_name=queue, status=[*states], limit=1, load_input=False, load_output=False))


def _waiting(session: Session) -> Iterator[tuple[str, Run | Profile | None]]:
    """The workflows that wait, the oldest first, each with its row, unless that was deleted."""
    offset = 0
    while True:
        workflows = DBOS.list_workflows(
            queue_name=RUNS, status="ENQUEUED", limit=AT_ONCE, offset=offset, load_input=False, load_output=False
        )
        if not workflows:
            return
        kinds = {kind.workflow: kind for kind in JOBS}
        ids = [kinds[each.name].row_id(each.workflow_id) for each in workflows]
        rows: dict[str, Run | Profile] = {
            row.id: row for table in (Run, Profile) for row in session.scalars(select(table).where(table.id.in_(ids)))
        }
        for workflow, id_ in zip(workflows, ids, strict=True):
            yield workflow.workflow_id, rows.get(id_)
        offset += AT_ONCE

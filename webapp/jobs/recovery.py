"""Nothing is lost: the work of dead workers is taken over, and rows that no workflow works on get one."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from datetime import timedelta

from dbos import DBOS, WorkflowStatus
from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp.store.clock import now
from webapp.store.database import writing
from webapp.store.models import Checkpoint, Dataset, RunState, UploadState

from .client import JobClient
from .heartbeat import bury, living
from .inspections import InspectionWork
from .queues import (
    APPLICATION_VERSION,
    INSPECTION_WORKFLOW,
    INSPECTIONS,
    JOBS,
    RUNS,
    TRANSFERS,
    JobKind,
    inspection_workflow_id,
    lock_moves,
)
from .workflows import WORK, in_hand
from .workplace import Workplace

log = logging.getLogger(__name__)

SETTLE = timedelta(seconds=10)  # a row this young may just be on its way into the queue
ALIVE = ("ENQUEUED", "PENDING", "DELAYED")
QUEUES = {INSPECTION_WORKFLOW: INSPECTIONS, **{kind.workflow: kind.queue for kind in JOBS}}
LOST = {
    "code": "internal",
    "message": "The work ended again and again without a result. Try once more; if that happens again, the worker's "
    "log says why.",
}


def take_over(place: Workplace, missed: Mapping[str, float]) -> dict[str, float]:
    """Puts the workflows of workers that are dead back into their queues, and those that this one lost hold of.

    It loses hold of one whose end it could not write down: the disk was full. `missed` are those that it was not at
    when it looked last, and since when (monotonic seconds); returns those that it is not at now.
    """
    at, mine = time.monotonic(), {}
    with writing(place.sessions) as session:
        lock_moves(session)
        for executor_id in bury(session, place.settings.worker_stale_seconds, place.executor_id):
            log.warning("The worker %s was silent for too long; its work is taken over", executor_id)
        session.flush()
        alive = living(session)
        # within the lock: a workflow that is resumed twice could be worked on twice
        for workflow in DBOS.list_workflows(status="PENDING", name=list(QUEUES), load_input=False):
            id_ = workflow.workflow_id
            if workflow.executor_id == place.executor_id and id_ not in in_hand():
                mine[id_] = missed.get(id_, at)
            if workflow.executor_id not in alive or at - mine.get(id_, at) > SETTLE.total_seconds():
                log.info("%s is taken over from %s", id_, workflow.executor_id)
                known = workflow.queue_name in (RUNS, INSPECTIONS, TRANSFERS)
                DBOS.resume_workflow(id_, queue_name=workflow.queue_name if known else QUEUES[workflow.name])
                mine.pop(id_, None)
        for queue in DBOS.list_queues():
            executor_id = queue.name.partition("@")[2]
            if executor_id and executor_id not in alive:
                _give_back(queue.name)
    return mine


def _give_back(queue: str) -> None:
    """What a worker that is dead had taken and not begun; its queue goes too."""
    for workflow in DBOS.list_workflows(queue_name=queue, status="ENQUEUED", load_input=False):
        log.info("%s waits again", workflow.workflow_id)
        DBOS.resume_workflow(workflow.workflow_id, queue_name=RUNS)
    DBOS.delete_queue(queue)


def requeue(place: Workplace, jobs: JobClient) -> None:
    """Queues the jobs and uploads that wait and have no workflow: a crash came between the row and the queue."""
    with place.sessions() as session:
        for kind in JOBS:
            _requeue_jobs(place, session, jobs, kind)
        _requeue_uploads(place, session, jobs)


def sweep_scratch(place: Workplace) -> None:
    """Removes what jobs left behind that are deleted or have succeeded, or ended long ago without a retry."""
    long_ago = now() - timedelta(seconds=place.settings.sweep_age_seconds)
    for folder in place.scratches.glob("*"):
        with place.sessions() as session:
            row = next(filter(None, (session.get(kind.table, folder.name) for kind in JOBS)), None)
        if row is not None and not row.state.final:
            continue
        if row is None or row.state is RunState.SUCCEEDED or (row.finished_at or long_ago) <= long_ago:
            shutil.rmtree(folder, ignore_errors=True)


def _requeue_jobs(place: Workplace, session: Session, jobs: JobClient, kind: JobKind) -> None:
    table = kind.table
    waiting = select(table.id, table.attempt).where(
        table.state.in_((RunState.QUEUED, RunState.RUNNING)), table.created_at < now() - SETTLE
    )
    rows = {kind.workflow_id(id_, attempt): (id_, attempt) for id_, attempt in session.execute(waiting)}

    def give_up(workflow_id: str) -> None:
        WORK[kind](place, *rows[workflow_id]).fail(LOST)

    _requeue(list(rows), lambda workflow_id: jobs.enqueue(kind, rows[workflow_id][0]), give_up)


def _requeue_uploads(place: Workplace, session: Session, jobs: JobClient) -> None:
    old = now() - SETTLE
    checkpoints = select(Checkpoint.id).where(Checkpoint.state == UploadState.INSPECTING, Checkpoint.created_at < old)
    datasets = select(Dataset.id).where(Dataset.state == UploadState.INSPECTING, Dataset.created_at < old)
    works = [InspectionWork(place, "checkpoint", id) for id in session.scalars(checkpoints)]
    works += [InspectionWork(place, "dataset", id) for id in session.scalars(datasets)]
    by_workflow = {inspection_workflow_id(work.kind, work.id): work for work in works}

    def enqueue(workflow_id: str) -> None:
        jobs.enqueue_inspection(by_workflow[workflow_id].kind, by_workflow[workflow_id].id)

    _requeue(list(by_workflow), enqueue, lambda workflow_id: by_workflow[workflow_id].refuse(LOST))


def _requeue(workflow_ids: list[str], enqueue: Callable[[str], None], give_up: Callable[[str], None]) -> None:
    if not workflow_ids:
        return
    found: dict[str, WorkflowStatus] = {
        status.workflow_id: status
        for status in DBOS.list_workflows(workflow_ids=workflow_ids, load_input=False, load_output=False)
    }
    for workflow_id in workflow_ids:
        status = found.get(workflow_id)
        if status is None:
            log.info("%s has no workflow yet; it gets one", workflow_id)
            enqueue(workflow_id)
        elif status.status not in ALIVE:
            give_up(workflow_id)  # does nothing where the row has ended meanwhile
        elif status.app_version not in (None, APPLICATION_VERSION):
            log.warning("%s was begun by another version of Pare and waits for it", workflow_id)

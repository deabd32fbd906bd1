"""What the web process does with jobs: put them into a queue, cancel them, retry them. Everything is idempotent."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dbos import DBOSClient, EnqueueOptions
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from webapp.config import InstallationSettings
from webapp.engine.run.stages import format_of
from webapp.engine.run.stages.blame import BlameStage
from webapp.store.database import make_engine, make_sessions, writing
from webapp.store.models import ArtifactState, Run, RunState, Stage, StageState, now

from .errors import RunMissing, RunNotRetryable
from .queues import (
    APPLICATION_NAME,
    INSPECTION_WORKFLOW,
    INSPECTIONS,
    RUN_WORKFLOW,
    RUNS,
    Kind,
    inspection_workflow_id,
    migrate_jobs,
    run_workflow_id,
)

log = logging.getLogger(__name__)
logging.getLogger("dbos").setLevel(logging.WARNING)


class JobClient:
    """Call `enqueue_…` after the row is committed: a worker may look at it at once.

    A crash between the commit and the call loses nothing; workers look for rows without a workflow.
    """

    def __init__(self, settings: InstallationSettings, engine: Engine | None = None) -> None:
        self._settings = settings
        self._sessions = make_sessions(engine or make_engine(settings.database_url))
        self._lock = threading.Lock()
        self._client: DBOSClient | None = None
        self._jobs_engine = make_engine(settings.jobs_database_url)  # connects at first use

    def enqueue_inspection(self, kind: Kind, id: str) -> None:
        """Has the uploaded checkpoint or dataset of this id inspected; its state turns to ready or refused."""
        self._enqueue(INSPECTION_WORKFLOW, INSPECTIONS, inspection_workflow_id(kind, id), kind, id)

    def enqueue_run(self, run_id: str) -> None:
        """Has the run computed. Does nothing for a run that has ended. Raises RunMissing."""
        with self._sessions() as session:
            run = _existing(session.get(Run, run_id), run_id)
        if not run.state.final:
            self._enqueue(RUN_WORKFLOW, RUNS, run_workflow_id(run_id, run.attempt), run_id, run.attempt)

    def cancel_run(self, run_id: str) -> None:
        """The run is cancelled at once; its worker kills the child soon after. Raises RunMissing.

        One that has delivered, and only tries a format again, has succeeded as before.
        """
        with writing(self._sessions) as session:
            run = _existing(session.get(Run, run_id, with_for_update=True), run_id)
            if run.state.final:
                return
            end_run(run, RunState.CANCELLED, "Cancelled")
        with queue_may_fail("cancelled"):  # the worker looks at the run itself
            self._connected().cancel_workflow(run_workflow_id(run_id, run.attempt))

    def retry_run(self, run_id: str, format: str | None = None) -> None:
        """Starts a failed or cancelled run again; stages that are done stay done. Raises RunMissing, RunNotRetryable.

        Of one that succeeded, the stages of `format`, or of all formats that failed, are done anew and no others. A
        run that is already queued or running again stays as it is.
        """
        with writing(self._sessions) as session:
            run = _existing(session.get(Run, run_id, with_for_update=True), run_id)
            failed = {each["format"] for each in run.undelivered if format in (None, each["format"])}
            if run.state == RunState.SUCCEEDED and not failed:
                raise RunNotRetryable(f"The run {run.name} has succeeded; there is nothing to retry. Fork it instead.")
            if run.state.final:
                done = (StageState.SUCCEEDED, StageState.REUSED)
                again = [
                    stage
                    for stage in run.stages
                    if format_of(stage.name) in failed or not (stage.state in done or failed)
                ]
                _begin_again(run, again)
        self.enqueue_run(run_id)

    def blame_run(self, run_id: str, layers: Sequence[str]) -> None:
        """Has the layers of a run that succeeded given back one by one and measured; without any, the worst ones.

        Its file and receipt stay; one that is under way already stays as it is. Raises RunMissing, RunNotRetryable.
        """
        with writing(self._sessions) as session:
            run = _existing(session.get(Run, run_id, with_for_update=True), run_id)
            if run.receipt is None:
                raise RunNotRetryable(
                    f"The run {run.name} is {run.state}; what its layers cost is seen once it is done."
                )
            if run.state.final:
                run.blame = [*layers]
                _begin_again(run, [stage for stage in run.stages if stage.name == BlameStage.name_of()])
        self.enqueue_run(run_id)

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.destroy()
                self._client = None
            self._jobs_engine.dispose()

    def _enqueue(self, workflow: str, queue: str, workflow_id: str, *arguments: str | int) -> None:
        options: EnqueueOptions = {"workflow_name": workflow, "queue_name": queue, "workflow_id": workflow_id}
        with queue_may_fail("queued"):  # workers queue what waits and has no workflow
            self._connected().enqueue(options, *arguments)

    def _connected(self) -> DBOSClient:
        with self._lock:
            if self._client is None:
                migrate_jobs(self._settings)
                self._client = DBOSClient(
                    system_database_engine=self._jobs_engine,
                    application_name=APPLICATION_NAME,
                    retry_connection_errors=False,
                )
            return self._client


def _begin_again(run: Run, stages: Iterable[Stage]) -> None:
    """Another attempt at a run that has ended, which does these stages anew."""
    run.attempt += 1
    run.state, run.error, run.finished_at = RunState.QUEUED, None, None
    run.message, run.progress = "", 0.0
    for stage in stages:
        stage.state, stage.started_at, stage.finished_at, stage.error = StageState.WAITING, None, None, None


def end_run(run: Run, state: RunState, message: str, error: dict[str, Any] | None = None) -> None:
    """Failed or cancelled; but a run that has delivered, and only tried a format again, is left as it was."""
    done = run.receipt is not None
    run.state, run.error = (RunState.SUCCEEDED, None) if done else (state, error)
    run.message, run.seconds_left, run.finished_at = "Done" if done else message, None, now()
    run.progress = 1.0 if done else run.progress
    open_states = (StageState.RUNNING, StageState.WAITING) if done else (StageState.RUNNING,)
    tried = set()
    for stage in run.stages:
        if stage.state in open_states:
            stage.state, stage.error, stage.finished_at = StageState(state.value), error, now()
            tried.add(format_of(stage.name))
    if run.receipt is not None and error is not None:
        rows = [row | {"reason": error} if row["format"] in tried else row for row in run.undelivered]
        run.receipt = {**run.receipt, "undelivered": rows}
        for artifact in run.artifacts:
            if artifact.state is ArtifactState.FAILED and artifact.format in tried:
                artifact.reason = error


@contextmanager
def queue_may_fail(done: str) -> Iterator[None]:
    """What the rows say will be done without the queue's knowing it now: its database is full, or does not answer."""
    try:
        yield
    except DBAPIError as error:
        log.warning("The job system could not be told that something was %s: %s", done, error.orig)


def _existing(run: Run | None, run_id: str) -> Run:
    if run is None:
        raise RunMissing(f"There is no run {run_id}; it may have been deleted.")
    return run

"""What the web process does with jobs: put them into a queue, cancel them, retry them. Everything is idempotent."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dbos import DBOSClient, EnqueueOptions
from sqlalchemy import Engine, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from webapp.config import InstallationSettings
from webapp.engine.run.stages import format_of
from webapp.engine.run.stages.blame import BlameStage
from webapp.engine.run.stages.job import PromptSet
from webapp.engine.run.stages.prompts import PromptsStage, set_name
from webapp.store.clock import now
from webapp.store.database import make_engine, make_sessions, writing
from webapp.store.models import ArtifactState, Checkpoint, Profile, Run, RunState, Stage, StageState, Study

from .errors import JobMissing, JobNotRetryable
from .queues import (
    APPLICATION_NAME,
    INSPECTION_WORKFLOW,
    INSPECTIONS,
    PROFILE,
    PUBLICATION,
    RUN,
    TRANSFERS,
    JobKind,
    Kind,
    inspection_workflow_id,
    migrate_jobs,
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
        self._jobs_engine = make_engine(settings.jobs_database_url, tells_time=False)  # connects at first use

    def enqueue_inspection(self, kind: Kind, id: str) -> None:
        """Has the checkpoint or dataset of this id inspected, and fetched before where it is on a hub.

        Its state turns to ready or refused.
        """
        with self._sessions() as session:
            row = session.get(Checkpoint, id) if kind == "checkpoint" else None
        queue = TRANSFERS if row is not None and (row.source or {}).get("kind") == "hub" else INSPECTIONS
        self._enqueue(INSPECTION_WORKFLOW, queue, inspection_workflow_id(kind, id), kind, id)

    def enqueue_run(self, run_id: str) -> None:
        """Has the run computed. Does nothing for a run that has ended. Raises JobMissing."""
        self.enqueue(RUN, run_id)

    def cancel_run(self, run_id: str) -> None:
        """The run is cancelled at once; its worker kills the child soon after. Raises JobMissing.

        One that has delivered, and only tries a format again, has succeeded as before.
        """
        self._cancel(RUN, run_id)

    def retry_run(self, run_id: str, format: str | None = None) -> None:
        """Starts a failed or cancelled run again; stages that are done stay done. Raises JobMissing, JobNotRetryable.

        Of one that succeeded, the stages of `format`, or of all formats that failed, are done anew and no others. A
        run that is already queued or running again stays as it is. A study that had ended without it goes on.
        """
        with writing(self._sessions) as session:
            run = _existing(session, RUN, run_id, lock=True)
            failed = {each["format"] for each in run.undelivered if format in (None, each["format"])}
            if run.state == RunState.SUCCEEDED and not failed:
                raise JobNotRetryable(f"The run {run.name} has succeeded; there is nothing to retry. Fork it instead.")
            if run.state.final:
                done = (StageState.SUCCEEDED, StageState.REUSED)
                again = [
                    stage
                    for stage in run.stages
                    if format_of(stage.name) in failed or not (stage.state in done or failed)
                ]
                if run.study is not None and run.state != RunState.SUCCEEDED and run.study.state == RunState.SUCCEEDED:
                    _reopen(run.study)
                _begin_again(run, again)
        self.enqueue_run(run_id)

    def blame_run(self, run_id: str, layers: Sequence[str]) -> None:
        """Has the layers of a run that succeeded given back one by one and measured; without any, the worst ones.

        Its file and receipt stay; one that is under way already stays as it is. Raises JobMissing, JobNotRetryable.
        """
        with writing(self._sessions) as session:
            run = _existing(session, RUN, run_id, lock=True)
            if run.receipt is None:
                raise JobNotRetryable(
                    f"The run {run.name} is {run.state}; what its layers cost is seen once it is done."
                )
            if run.state.final:
                run.blame = [*layers]
                _begin_again(run, [stage for stage in run.stages if stage.name == BlameStage.name_of()])
        self.enqueue_run(run_id)

    def ask_prompts(self, run_id: str, given: PromptSet) -> None:
        """Has original and result of a run that succeeded answer prompts; what was answered before stays.

        Its file and receipt stay. Raises JobMissing, and JobNotRetryable where it is not done, or answers others.
        """
        with writing(self._sessions) as session:
            run = _existing(session, RUN, run_id, lock=True)
            if run.receipt is None:
                raise JobNotRetryable(f"The run {run.name} is {run.state}; prompts are answered once it is done.")
            if not run.state.final and given.row not in run.prompts:
                raise JobNotRetryable(f"The run {run.name} is {run.state}; ask again when it is done.")
            if run.state.final:
                run.prompts = [*(each for each in run.prompts if each != given.row), given.row]
                name = PromptsStage.name_of(set_name(given))
                _begin_again(run, [stage for stage in run.stages if stage.name == name])
        self.enqueue_run(run_id)

    def enqueue_profile(self, profile_id: str) -> None:
        """As of a run. Raises JobMissing."""
        self.enqueue(PROFILE, profile_id)

    def cancel_profile(self, profile_id: str) -> None:
        """As of a run. Raises JobMissing."""
        self._cancel(PROFILE, profile_id)

    def retry_profile(self, profile_id: str) -> None:
        """Starts a failed or cancelled profile again, with what it has kept. Raises JobMissing, JobNotRetryable."""
        with writing(self._sessions) as session:
            profile = _existing(session, PROFILE, profile_id, lock=True)
            if profile.state == RunState.SUCCEEDED:
                raise JobNotRetryable("The profile has succeeded; there is nothing to retry.")
            if profile.state.final:
                _begin_again(profile)
        self.enqueue_profile(profile_id)

    def enqueue_publication(self, publication_id: str) -> None:
        """As of a run. Raises JobMissing."""
        self.enqueue(PUBLICATION, publication_id)

    def cancel_study(self, study_id: str) -> None:
        """The study is cancelled at once, and with it those of its runs that have not ended. Raises JobMissing."""
        with writing(self._sessions) as session:
            study = _existing_study(session, study_id)
            if study.state.final:
                return
            study.state, study.message, study.finished_at = RunState.CANCELLED, "Cancelled", now()
            open_ = (Run.study_id == study_id, Run.state.in_((RunState.QUEUED, RunState.RUNNING)))
            ids = session.scalars(select(Run.id).where(*open_)).all()
        for run_id in ids:
            self.cancel_run(run_id)

    def reopen_study(self, study_id: str) -> None:
        """One that has ended goes on, for it has runs again that have not. Raises JobMissing."""
        with writing(self._sessions) as session:
            study = _existing_study(session, study_id)
            if study.state.final:
                _reopen(study)

    def enqueue(self, kind: JobKind, id: str) -> None:
        """Has it computed, unless it has ended. Raises JobMissing."""
        with self._sessions() as session:
            row = _existing(session, kind, id)
        if not row.state.final:
            self._enqueue(kind.workflow, kind.queue, kind.workflow_id(id, row.attempt), id, row.attempt)

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.destroy()
                self._client = None
            self._jobs_engine.dispose()

    def _cancel(self, kind: JobKind, id: str) -> None:
        with writing(self._sessions) as session:
            row = _existing(session, kind, id, lock=True)
            if row.state.final:
                return
            end_job(row, RunState.CANCELLED, "Cancelled")  # its workflow looks at the row, and ends as any other

    def _enqueue(self, workflow: str, queue: str, workflow_id: str, *arguments: str | int) -> None:
        options: EnqueueOptions = {"workflow_name": workflow, "queue_name": queue, "workflow_id": workflow_id}
        with queue_may_fail():  # workers queue what waits and has no workflow
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


def _begin_again(row: Run | Profile, stages: Iterable[Stage] = ()) -> None:
    """Another attempt at what has ended, which does these stages anew."""
    row.attempt += 1
    row.state, row.error, row.finished_at = RunState.QUEUED, None, None
    row.message, row.progress = "", 0.0
    for stage in stages:
        stage.state, stage.started_at, stage.finished_at, stage.error = StageState.WAITING, None, None, None


def end_job(row: Run | Profile, state: RunState, message: str, error: dict[str, Any] | None = None) -> None:
    """Failed or cancelled; but a run that has delivered, and only tried a format again, is left as it was."""
    done = isinstance(row, Run) and row.receipt is not None
    row.state, row.error = (RunState.SUCCEEDED, None) if done else (state, error)
    row.message, row.seconds_left, row.finished_at = "Done" if done else message, None, now()
    row.progress = 1.0 if done else row.progress
    if isinstance(row, Run):
        _end_stages(row, state, error)


def _end_stages(run: Run, state: RunState, error: dict[str, Any] | None) -> None:
    open_states = (StageState.RUNNING, *((StageState.WAITING,) if run.receipt is not None else ()))
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
def queue_may_fail() -> Iterator[None]:
    """What the rows say will be done without the queue's knowing it now: its database is full, or does not answer."""
    try:
        yield
    except DBAPIError as error:
        log.warning("The job system could not be told that something was queued: %s", error.orig)


def _existing_study(session: Session, study_id: str) -> Study:
    """Locked."""
    study = session.get(Study, study_id, with_for_update=True)
    if study is None:
        raise JobMissing(f"There is no study {study_id}; it may have been deleted.")
    return study


def _reopen(study: Study) -> None:
    study.state, study.message, study.error = RunState.RUNNING, "", None
    study.conclusion, study.finished_at = None, None


def _existing(session: Session, kind: JobKind, id: str, lock: bool = False) -> Any:
    row = session.get(kind.table, id, with_for_update=lock)
    if row is None:
        raise JobMissing(f"There is no {kind.noun} {id}; it may have been deleted.")
    return row

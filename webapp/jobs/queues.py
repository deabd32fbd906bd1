"""The names that the web process and the workers agree on, and the job system's own database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dbos import DBOS
from sqlalchemy import text
from sqlalchemy.orm import Session

from webapp.config import InstallationSettings
from webapp.store.models import Profile, Publication, Replay, Run

APPLICATION_NAME = "pare"
APPLICATION_VERSION = "1"  # raised when a workflow's steps change so that one in progress could not go on
RUNS = "runs"  # in which runs and profiles wait until a worker takes them (see taking)
INSPECTIONS = "inspections"  # a queue of their own: an upload is inspected while a long run is computed
TRANSFERS = "transfers"  # from a hub and to it: no inspection waits for a slow line
INSPECTION_WORKFLOW = "pare_inspection"
MOVES_LOCK = 0x7061726F  # PostgreSQL's advisory lock

Kind = Literal["checkpoint", "dataset"]


@dataclass(frozen=True)
class JobKind:
    """A table whose rows are durable jobs: each attempt at a row is a workflow."""

    table: type[Run | Profile | Publication | Replay]
    workflow: str
    prefix: str = ""  # of a workflow's id
    queue: str = RUNS  # which a profile shares, so that a worker computes one thing at a time

    @property
    def noun(self) -> str:
        return self.table.__name__.lower()

    def workflow_id(self, id: str, attempt: int) -> str:
        return f"{self.prefix}{id}-{attempt}"

    def row_id(self, workflow_id: str) -> str:
        return workflow_id.removeprefix(self.prefix).rpartition("-")[0]


RUN = JobKind(Run, "pare_run")
PROFILE = JobKind(Profile, "pare_profile", "profile-")
PUBLICATION = JobKind(Publication, "pare_publication", "publication-", TRANSFERS)
JOBS = (RUN, PROFILE, PUBLICATION)


def own_queue(executor_id: str) -> str:
    """Of one worker, for what it has taken out of RUNS."""
    return f"{RUNS}@{executor_id}"


def lock_moves(session: Session) -> None:
    """Until its transaction ends no other process moves work between queues; on SQLite its write lock says so."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MOVES_LOCK})


def inspection_workflow_id(kind: Kind, id: str) -> str:
    return f"{kind}-{id}"


def migrate_jobs(settings: InstallationSettings) -> None:
    """Makes the job system's tables where they are missing; several processes may do it at once."""
    DBOS.migrate(settings.jobs_database_url)

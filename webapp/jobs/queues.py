"""The names that the web process and the workers agree on, and the job system's own database."""

from __future__ import annotations

from typing import Literal

from dbos import DBOS

from webapp.config import InstallationSettings

APPLICATION_NAME = "pare"
APPLICATION_VERSION = "1"  # raised when a workflow's steps change so that one in progress could not go on
RUNS = "runs"
INSPECTIONS = "inspections"  # a queue of their own: an upload is inspected while a long run is computed
RUN_WORKFLOW = "pare_run"
INSPECTION_WORKFLOW = "pare_inspection"

Kind = Literal["checkpoint", "dataset"]


def run_workflow_id(run_id: str, attempt: int) -> str:
    return f"{run_id}-{attempt}"


def inspection_workflow_id(kind: Kind, id: str) -> str:
    return f"{kind}-{id}"


def migrate_jobs(settings: InstallationSettings) -> None:
    """Makes the job system's tables where they are missing; several processes may do it at once."""
    DBOS.migrate(settings.jobs_database_url)

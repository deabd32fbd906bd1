"""Pushing a result to the hub: asked for here, done by a worker."""

from __future__ import annotations

from typing import Any, Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp.config import InstallationSettings
from webapp.store.models import Publication, Run, RunState

from .errors import Conflict
from .imports import repository_name


class PublicationQueue(Protocol):
    """The part of the job client that publications need."""

    def enqueue_publication(self, publication_id: str) -> Any: ...


def publish_run(
    run: Run,
    repo_id: str,
    private: bool,
    *,
    session: Session,
    jobs: PublicationQueue,
    settings: InstallationSettings,
) -> Publication:
    """A queued one. Raises RequestInvalid; Conflict where no hub and token are named, nothing was delivered yet, or the
    same is on its way."""
    if not (settings.hub_url and settings.hub_token):
        raise Conflict("Results are not pushed from here: the settings hub_url and hub_token name no hub and token.")
    name = repository_name(repo_id)
    if run.receipt is None or run.state is not RunState.SUCCEEDED:
        raise Conflict(f"The run {run.name} is {run.state}; what it delivers can be pushed once it has succeeded.")
    under_way = select(Publication.id).where(
        Publication.repo_id == name, Publication.state.in_((RunState.QUEUED, RunState.RUNNING))
    )
    if session.scalar(under_way):
        raise Conflict(f"A result is being pushed to {name} right now. Wait until that is done.")
    row = Publication(run_id=run.id, repo_id=name, private=private)
    session.add(row)
    session.commit()
    jobs.enqueue_publication(row.id)
    return row


def publications_of(session: Session, run: Run) -> list[Publication]:
    """Newest first."""
    rows = select(Publication).where(Publication.run_id == run.id).order_by(Publication.created_at.desc())
    return list(session.scalars(rows))

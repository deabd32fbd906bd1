"""Workers."""

from __future__ import annotations

from webapp.actions.workers import alive
from webapp.store.clock import clock
from webapp.web.extensions import db

from . import schemas
from .endpoints import endpoint


@endpoint("GET", "/workers", "The workers that are alive, and what each can do")
def get_workers() -> schemas.Items[schemas.WorkerAnswer]:
    at, items = clock(db.session), []
    for row in alive(db.session):
        seconds = max(0.0, (at - row.seen_at).total_seconds())
        items.append(
            schemas.WorkerAnswer(
                id=row.executor_id,
                host=row.host,
                started_at=row.started_at,
                silent_seconds=seconds,
                **{"memory_bytes": 0, "device": "cpu", "runtimes": {}} | (row.able or {}),
            )
        )
    return schemas.Items[schemas.WorkerAnswer](items=items)

"""The workers of an installation, as they said themselves."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp.store.models import Worker


def alive(session: Session) -> Sequence[Worker]:
    """Those that were not taken for dead yet, the longest here first."""
    return session.scalars(select(Worker).order_by(Worker.started_at)).all()


def memory_limit(session: Session) -> int | None:
    """The most memory, in bytes, that one of them gives a run; None where there is no limit, or nobody to say it."""
    told = [(worker.able or {}).get("memory_bytes") for worker in alive(session)]
    known = [most for most in told if most]
    return max(known) if known and len(known) == len(told) else None

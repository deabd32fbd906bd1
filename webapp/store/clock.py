"""What the time is for all who share a database: the database's, for the clocks of machines may be minutes apart."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, event, func, select
from sqlalchemy.orm import Session

STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # nobody sets it
_told: tuple[datetime, float] | None = None  # by a database, and what the steady clock showed then


def now() -> datetime:
    """In UTC. This machine's own time until a database has told its."""
    if _told is None:
        return datetime.now(UTC)
    at, steady = _told
    return at + timedelta(seconds=time.clock_gettime(STEADY) - steady)


def clock(session: Session) -> datetime:
    """What the database says now."""
    if session.get_bind().dialect.name == "sqlite":  # of one machine
        return datetime.now(UTC)
    told = session.scalar(select(func.clock_timestamp()))
    assert told is not None
    return _set(told)


def follow(engine: Engine) -> None:
    """Each new connection is asked for the time; `now` goes on from there."""
    if engine.dialect.name == "sqlite":
        return

    @event.listens_for(engine, "connect")
    def ask(connection: Any, record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT clock_timestamp()")
            _set(cursor.fetchone()[0])
        connection.rollback()


def _set(told: datetime) -> datetime:
    global _told
    told = told.astimezone(UTC)
    _told = (told, time.clock_gettime(STEADY))
    return told

"""Workers saying that they are alive, and finding those that are not, all by the clock of the database."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import CursorResult, delete, func, select, update
from sqlalchemy.orm import Session, sessionmaker

from webapp.store.clock import clock, now
from webapp.store.database import writing
from webapp.store.models import Worker


class Heartbeat:
    """Of one worker, from `start` on."""

    def __init__(
        self, sessions: sessionmaker[Session], executor_id: str, able: Mapping[str, Any] | None = None
    ) -> None:
        self._sessions, self.executor_id, self._able = sessions, executor_id, dict(able or {})
        self._started_at = now()  # until `start`

    def start(self) -> None:
        with writing(self._sessions) as session:
            self._started_at = seen_at = clock(session)
            session.merge(
                Worker(
                    executor_id=self.executor_id,
                    host=socket.gethostname(),
                    pid=os.getpid(),
                    able=self._able,
                    started_at=self._started_at,
                    seen_at=seen_at,
                )
            )

    def beat(self) -> bool:
        """False when others took this worker for dead: its work is theirs now, and it must end."""
        mine = (Worker.executor_id == self.executor_id, Worker.started_at == self._started_at)
        with self._sessions.begin() as session:
            result = session.execute(update(Worker).where(*mine).values(seen_at=clock(session)))
        assert isinstance(result, CursorResult)
        return result.rowcount == 1

    def stop(self) -> None:
        """Others take over at once."""
        with self._sessions.begin() as session:
            session.execute(delete(Worker).where(Worker.executor_id == self.executor_id))


def bury(session: Session, stale_seconds: float, by: str) -> list[str]:
    """Removes the workers, `by` apart, that were silent for longer than that; returns their executor ids."""
    long_ago = clock(session) - timedelta(seconds=stale_seconds)
    silent = select(Worker).where(Worker.seen_at < long_ago, Worker.executor_id != by)
    found = list(session.scalars(silent.with_for_update()))
    for worker in found:
        session.delete(worker)
    return [worker.executor_id for worker in found]


def living(session: Session) -> set[str]:
    return set(session.scalars(select(Worker.executor_id)))


def neighbours(session: Session) -> int:
    """How many workers are alive on this machine, this one included."""
    found = session.scalar(select(func.count()).select_from(Worker).where(Worker.host == socket.gethostname()))
    return max(1, found or 0)

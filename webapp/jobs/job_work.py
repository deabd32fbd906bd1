"""What attempts at runs, profiles and publications have in common: whether they are wanted, and how they fail."""

from __future__ import annotations

import logging
import shutil
from abc import ABC
from dataclasses import dataclass
from typing import Any, ClassVar

from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from webapp.store.database import writing
from webapp.store.models import RunState

from .client import end_job
from .queues import JobKind
from .workplace import Workplace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobWork(ABC):
    """One attempt."""

    kind: ClassVar[JobKind]

    place: Workplace
    id: str
    attempt: int

    def fail(self, error: dict[str, Any]) -> None:
        """Ends it with the error, unless it has ended already or is in another attempt."""
        with writing(self.place.sessions) as session:
            if (row := self._mine(session)) is None:
                return
            end_job(row, RunState.FAILED, "Failed", error)
        log.warning("The %s %s failed: %s", self.kind.noun, self.id, error["message"])

    def unwanted(self) -> bool:
        """Whether it was cancelled, retried or deleted since. A database that is busy says no."""
        table = self.kind.table
        try:
            with self.place.sessions() as session:
                found = session.execute(select(table.state, table.attempt).where(table.id == self.id)).one_or_none()
        except OperationalError as error:
            log.warning("Whether the %s %s is still wanted could not be read: %s", self.kind.noun, self.id, error)
            return False
        return found is None or found.state.final or found.attempt != self.attempt

    def _mine(self, session: Session) -> Any:
        """The row, locked, if this attempt is still the one that works on it."""
        row = session.get(self.kind.table, self.id, with_for_update=True)
        return row if row and row.attempt == self.attempt and not row.state.final else None

    def _forget_scratch(self, key: str = "") -> None:
        shutil.rmtree(self.place.scratch(self.id, key), ignore_errors=True)

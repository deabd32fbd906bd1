"""How far a job is, how long it still takes (a run by its stages' weights and the time they took), and its curves."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from webapp.store.clock import now
from webapp.store.models import LogLine, Profile, Replay, Run, RunState, Stage, StageState

from .child import CurvePoint

log = logging.getLogger(__name__)

ENOUGH = 0.02  # of the work, before the time left is guessed
MOST = 500  # points of a series


def grown(curves: Mapping[str, Any], points: Iterable[CurvePoint]) -> dict[str, Any]:
    """{series: {"x": [...], "values": {name: [...]}}} with these points at the end.

    What lies at a point or beyond it is replaced: the work was begun again from there. A series of more than MOST
    points loses every second one. A value that a point does not have is None.
    """
    found = {name: _rows(curve) for name, curve in curves.items()}
    for series, x, values in points:
        kept = [row for row in found.get(series, []) if row[0] < x]
        kept.append((x, values))
        found[series] = kept[::2] if len(kept) > MOST else kept
    return {name: _columns(rows) for name, rows in found.items()}


def _rows(curve: Mapping[str, Any]) -> list[tuple[float, dict[str, float]]]:
    names = list(curve["values"])
    each = zip(*curve["values"].values(), strict=True)
    return [
        (x, {name: value for name, value in zip(names, values, strict=True) if value is not None})
        for x, values in zip(curve["x"], each, strict=True)
    ]


def _columns(rows: list[tuple[float, dict[str, float]]]) -> dict[str, Any]:
    names = list(dict.fromkeys(name for _, values in rows for name in values))
    columns = {name: [values.get(name) for _, values in rows] for name in names}
    return {"x": [x for x, _ in rows], "values": columns}


@dataclass
class JobProgress:
    """Of one attempt at a run, a profile, …"""

    sessions: sessionmaker[Session]
    table: type[Run | Profile | Replay]
    id: str
    attempt: int
    started_at: datetime = field(default_factory=now, kw_only=True)
    found_done: float | None = field(default=None, init=False)  # what an earlier attempt, or child, had left

    def tell(self, fraction: float | None, message: str, lines: list[str], points: Sequence[CurvePoint] = ()) -> None:
        """Notes progress, log lines and points of curves. What cannot be noted now (a busy database) is only logged."""
        try:
            with self.sessions.begin() as session:
                self._keep(session, lines, points)
                if fraction is not None:
                    noted: dict[str, float | str | None] = {
                        "progress": self.overall(fraction),
                        "seconds_left": self.seconds_left(fraction),
                    }
                    if message:
                        noted["message"] = message
                    table = self.table
                    mine = (table.id == self.id, table.attempt == self.attempt, table.state == RunState.RUNNING)
                    session.execute(update(table).where(*mine).values(**noted))
        except OperationalError as error:
            log.warning("Progress of the %s %s could not be noted: %s", self.table.__name__, self.id, error)

    def overall(self, fraction: float) -> float:
        """Of the whole, 0 to 1, while `fraction` of what is at hand is done."""
        return fraction

    def seconds_left(self, fraction: float) -> float | None:
        """None while too little was computed to tell."""
        if self.found_done is None:
            self.found_done, self.started_at = fraction, now()
        return _left((now() - self.started_at).total_seconds(), fraction - self.found_done, fraction)

    def _keep(self, session: Session, lines: list[str], points: Sequence[CurvePoint]) -> None:
        """Has nowhere to keep them: the worker's log has the lines."""
        for line in lines:
            log.info("%s %s: %s", self.table.__name__, self.id, line)


@dataclass
class RunProgress(JobProgress):
    """Of one stage. `weights` are those of all stages."""

    stage: str
    weights: Mapping[str, float]
    done: Mapping[str, float]  # stage: seconds it took, 0 where its output was reused

    def _keep(self, session: Session, lines: list[str], points: Sequence[CurvePoint]) -> None:
        if lines:
            rows = [{"run_id": self.id, "stage": self.stage, "text": line} for line in lines]
            session.execute(insert(LogLine), rows)
        if points:
            self._grow_curves(session, points)

    def _grow_curves(self, session: Session, points: Sequence[CurvePoint]) -> None:
        mine = (Stage.run_id == self.id, Stage.name == self.stage)
        stage = session.scalars(select(Stage).where(*mine)).one_or_none()
        if stage is not None:
            stage.curves = grown(stage.curves or {}, points)

    def overall(self, fraction: float) -> float:
        total = sum(self.weights.values())
        behind = sum(self.weights.get(name, 0.0) for name in self.done)
        return min(1.0, (behind + fraction * self.weights[self.stage]) / total)

    def seconds_left(self, fraction: float) -> float | None:
        """Stages whose output was reused say nothing about speed."""
        timed = {name: seconds for name, seconds in self.done.items() if seconds > 0}
        seconds = sum(timed.values()) + (now() - self.started_at).total_seconds()
        work = sum(self.weights.get(name, 0.0) for name in timed) + fraction * self.weights[self.stage]
        total = sum(self.weights.values())
        return _left(seconds, work / total, self.overall(fraction))


def _left(seconds: float, timed: float, behind: float) -> float | None:
    """Of work of which the share `timed` took these seconds and the share `behind` is done."""
    return max(0.0, seconds / timed * (1.0 - behind)) if timed >= ENOUGH else None


def seconds_taken(stages: list[Stage]) -> dict[str, float]:
    """The stages that are behind: {name: seconds}; 0 for those that say nothing about how fast stages are."""
    done = {}
    for stage in stages:
        if stage.state == StageState.SUCCEEDED and stage.started_at and stage.finished_at:
            done[stage.name] = (stage.finished_at - stage.started_at).total_seconds()
        elif stage.state in (StageState.SUCCEEDED, StageState.REUSED, StageState.FAILED, StageState.SKIPPED):
            done[stage.name] = 0.0
    return done

"""A deployment's requests over time: how many came and failed, and within what time they were answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp.serving.traffic import CLIENT_LEFT, added, percentile
from webapp.store.clock import now
from webapp.store.models import KEPT_MINUTES, Deployment, DeploymentMinute

Window = Literal["hour", "day"]
WINDOWS: dict[Window, tuple[int, int]] = {"hour": (60, 1), "day": (KEPT_MINUTES, 15)}  # minutes, and those of a step


@dataclass(frozen=True)
class TrafficStep:
    """Of some minutes from `at`: requests that came, and how many were not answered, by whose doing.

    `p50` and `p95` are milliseconds of the answered ones in the model's process, waiting for its turn included.
    """

    at: datetime
    requests: int
    refused: int  # with a status of 4xx
    failed: int  # 5xx
    left: int  # the client did not wait for the answer
    p50: float | None
    p95: float | None

    @property
    def answered(self) -> int:
        return self.requests - self.refused - self.failed - self.left

    @classmethod
    def of(cls, at: datetime, rows: Sequence[DeploymentMinute]) -> TrafficStep:
        errors, latencies = added(row.errors for row in rows), added(row.latencies for row in rows)
        left = errors.pop(CLIENT_LEFT, 0)
        refused = sum(count for status, count in errors.items() if status < 500)
        return cls(
            at=at,
            requests=sum(row.requests for row in rows),
            refused=refused,
            failed=sum(errors.values()) - refused,
            left=left,
            p50=percentile(latencies, 0.5),
            p95=percentile(latencies, 0.95),
        )


@dataclass(frozen=True)
class TrafficReport:
    """`steps` are those in which requests came, the oldest first, each of `step_minutes`; `whole` is all together."""

    window: Window
    step_minutes: int
    until: datetime
    whole: TrafficStep
    steps: list[TrafficStep]


def traffic_of(session: Session, row: Deployment, window: Window = "hour") -> TrafficReport:
    """The last hour or day, up to now."""
    minutes, step = WINDOWS[window]
    until = now()
    last = int(until.timestamp() // 60)
    first = (last // step + 1) * step - minutes
    wanted = (DeploymentMinute.deployment_id == row.id, DeploymentMinute.minute >= first)
    rows = session.scalars(select(DeploymentMinute).where(*wanted).order_by(DeploymentMinute.minute)).all()
    by_step: dict[int, list[DeploymentMinute]] = {}
    for each in rows:
        by_step.setdefault(each.minute // step * step, []).append(each)
    steps = [TrafficStep.of(_time_of(minute), own) for minute, own in by_step.items()]
    return TrafficReport(window, step, until, TrafficStep.of(_time_of(first), rows), steps)


def _time_of(minute: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(minutes=minute)

"""What is told of a run or a study that ends: the facts that its webhooks are sent, with the receipt's own figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .models import Checkpoint, Dataset, Run, Study

TEST = "test"
RUN_EVENTS = ("run.succeeded", "run.failed", "run.cancelled")
STUDY_EVENTS = ("study.succeeded", "study.failed", "study.cancelled")
EVENTS = (*RUN_EVENTS, *STUDY_EVENTS)
HEAVY = ("layers", "bytes")  # of what was measured: a row for each layer, or tensor


def event_body(event: str, data: Mapping[str, Any] | None, at: datetime) -> str:
    """JSON; `text` says it in a sentence."""
    told = {"type": event, "timestamp": at.isoformat(), "text": _sentence(event, data), "data": data}
    return json.dumps(told, ensure_ascii=False)


def _sentence(event: str, data: Mapping[str, Any] | None) -> str:
    if data is None:
        return "A test of this webhook. No run has succeeded yet."
    happened = {"succeeded": "has succeeded", "failed": "has failed", "cancelled": "was cancelled"}[data["state"]]
    why = (data["error"] or data.get("verdict") or data.get("conclusion") or {}) if data["state"] != "cancelled" else {}
    more = why.get("message") or why.get("sentence") or ""
    test = "A test of this webhook. " if event == TEST else ""
    name, more = (escape(each, quote=False) for each in (data["name"], more))  # chats read links and mentions in < >
    return f"{test}{name} {happened}{f': {more}' if more else '.'} {data['url']}"


def run_facts(run: Run, address: str) -> dict[str, Any]:
    """`address` is Pare's own, without a slash at its end."""
    url, receipt = f"{address}/runs/{run.id}", run.receipt or {}
    return {
        "kind": "run",
        "id": run.id,
        "name": run.name,
        "state": str(run.state),
        "attempt": run.attempt,
        "url": url,
        "checkpoint": _named(run.checkpoint),
        "dataset": _named(run.dataset),
        "study": {"id": run.study.id, "name": run.study.name} if run.study is not None else None,
        "tags": run.tags,
        **_times(run),
        "error": run.error,
        "baseline": _measured(run.baseline),
        "result": _measured(run.result),
        "verdict": receipt.get("verdict"),
        "artifacts": [
            {
                "name": artifact.name,
                "format": artifact.format,
                "size_bytes": artifact.size_bytes,
                "digest": artifact.digest,
                "url": f"{address}/api/v1/runs/{run.id}/artifacts/{artifact.name}",
            }
            for artifact in run.delivered
            if not artifact.private
        ],
        "undelivered": run.undelivered,
    }


def study_facts(study: Study, runs: Mapping[str, int], address: str) -> dict[str, Any]:
    """`runs`: how many of its runs are in which state; `address` as in `run_facts`."""
    return {
        "kind": "study",
        "id": study.id,
        "name": study.name,
        "state": str(study.state),
        "url": f"{address}/studies/{study.id}",
        "checkpoint": _named(study.checkpoint),
        "dataset": _named(study.dataset),
        **_times(study),
        "error": study.error,
        "conclusion": study.conclusion,
        "runs": dict(sorted(runs.items())),
    }


def _named(row: Checkpoint | Dataset | None) -> dict[str, Any] | None:
    return {"id": row.id, "name": row.name, "digest": row.digest} if row is not None else None


def _times(job: Run | Study) -> dict[str, str | None]:
    moments = {"created_at": job.created_at, "started_at": job.started_at, "finished_at": job.finished_at}
    return {name: at.isoformat() if at is not None else None for name, at in moments.items()}


def _measured(side: dict[str, Any] | None) -> dict[str, Any] | None:
    return {name: value for name, value in side.items() if name not in HEAVY} if side is not None else None

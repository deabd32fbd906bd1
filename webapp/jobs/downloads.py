"""Models that come from the hub by name: their commit is noted first, so that a restart fetches the rest of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from webapp.store.database import writing
from webapp.store.models import Checkpoint
from webapp.store.space import HUB, require_free

from .child import Tell
from .errors import HubOff, SourceChanged
from .workplace import Workplace

SHARE = 0.7  # of an inspection's progress


def fetched(place: Workplace, checkpoint: Checkpoint, tell: Tell, unwanted: Callable[[], bool]) -> dict[str, str]:
    """Has the files of the checkpoint's commit in `folder_of`; returns their SHA-256, as far as the hub tells them.

    Raises HubOff, the hub's own errors (ChildFailed), StoreFull, Stopped.
    """
    settings, source = place.settings, dict(checkpoint.source or {})
    if not settings.hub_url:
        raise HubOff("Models by name are switched off: the setting hub_url names no hub.")
    folder = folder_of(place, checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    job = {
        "endpoint": settings.hub_url.rstrip("/"),
        "token": settings.hub_token,
        "repo_id": source["repo_id"],
        "revision": source.get("revision") or source["asked"],
        "limit_bytes": settings.max_upload_bytes,
    }
    with place.folder_for(f"hub-{checkpoint.id}") as work:
        job["output"] = str(work / "output")
        if not source.get("revision"):
            tell(0.0, "Asking the hub", [])
            found = place.hub.run({"task": "resolve", **job}, work, tell, unwanted)
            job["revision"] = source["revision"] = found["revision"]
            require_free(folder, found["size_bytes"], settings.min_free_bytes)
            _note(place, checkpoint, source, found["size_bytes"])

        def share(fraction: float | None, message: str, lines: list[str], points: Any = ()) -> None:
            os.utime(folder)  # not idle
            tell(None if fraction is None else SHARE * fraction, message, lines)

        told = place.hub.run({"task": "download", "folder": str(folder), **job}, work, share, unwanted)
    digests: dict[str, str] = told["digests"]
    return digests


def folder_of(place: Workplace, checkpoint: Checkpoint) -> Path:
    """Outlives workers, until the checkpoint is ready, refused or deleted."""
    return place.settings.work / HUB / checkpoint.id


def forget(place: Workplace, checkpoint: Checkpoint) -> None:
    shutil.rmtree(folder_of(place, checkpoint), ignore_errors=True)


def require_as_told(digests: Mapping[str, str], facts: Mapping[str, Any]) -> None:
    """Raises SourceChanged where another file came than the hub says."""
    for source in facts.get("sources", ()):
        if digests.get(source["name"], source["digest"]) != source["digest"]:
            raise SourceChanged(
                f"{source['name']} is not what the hub says: its SHA-256 is {source['digest']}. Fetch the model again."
            )


def _note(place: Workplace, checkpoint: Checkpoint, source: dict[str, Any], size_bytes: int) -> None:
    checkpoint.source, checkpoint.size_bytes = source, size_bytes
    with writing(place.sessions) as session:
        row = session.get(Checkpoint, checkpoint.id, with_for_update=True)
        if row is not None:
            row.source, row.size_bytes = source, size_bytes

"""Which formats a checkpoint cannot be written in: tried in a child of its own, whose death says nothing about it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from webapp.engine.errors import PareError

from .child import ChildSupervisor, Tell

log = logging.getLogger(__name__)

SECONDS = 90
CERTAIN = ("sequential", "cnn", "resnet", "vgg", "mobilenet_v2", "efficientnet")  # families that every graph can hold


def try_formats(
    children: ChildSupervisor,
    facts: Mapping[str, Any],
    files: Path,
    folder: Path,
    tell: Tell,
    unwanted: Callable[[], bool],
    memory_limit_bytes: int | None = None,
) -> dict[str, Any]:
    """The facts of a checkpoint, whose normalised files are in `files`, with what was found; `folder` is for the child.

    Raises Stopped.
    """
    spec = facts.get("architecture")
    if spec is None or spec["family"] in CERTAIN:
        return {**facts}
    job = {"task": "try_formats", "folder": str(files), "facts": facts, "seconds": SECONDS}
    asked = {**job, "output": str(folder / "output"), "memory_limit_bytes": memory_limit_bytes}
    try:
        return {**facts, "unwritable": children.run(asked, folder, tell, unwanted)}
    except PareError as error:
        log.warning("Which formats %s can be written in could not be tried: %s", spec["title"], error)
        return {**facts}

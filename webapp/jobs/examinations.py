"""What is found out about a checkpoint after its inspection: each question in a child of its own.

The death of such a child, by time, memory or a crash, says nothing about the checkpoint.
"""

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
UNKNOWN = (
    "which of its channels can be cut could not be found out: the process that looked at it ended before it was done"
)


def try_formats(
    children: ChildSupervisor,
    facts: Mapping[str, Any],
    files: Path,
    folder: Path,
    tell: Tell,
    unwanted: Callable[[], bool],
    memory_limit_bytes: int | None = None,
) -> dict[str, Any]:
    """The facts of a checkpoint, whose normalised files are in `files`, with the formats it cannot be written in.

    And with what is known of the sizes of those it can be. `folder` is for the child. Raises Stopped.
    """
    spec = facts.get("architecture")
    if spec is None or spec["family"] in CERTAIN:
        return {**facts}
    job = {"task": "try_formats", "folder": str(files), "facts": facts, "memory_limit_bytes": memory_limit_bytes}
    found = _found_out(children, job, folder, tell, unwanted)
    return {**facts, **(found or {})}


def look_at_structure(
    children: ChildSupervisor,
    facts: Mapping[str, Any],
    folder: Path,
    tell: Tell,
    unwanted: Callable[[], bool],
    memory_limit_bytes: int | None = None,
) -> dict[str, Any]:
    """The facts of a checkpoint with what of it can be cut, or why that is not known, and what a pass takes.

    Raises Stopped.
    """
    if facts.get("architecture") is None:
        return {**facts}
    job = {"task": "look_at_structure", "facts": facts, "memory_limit_bytes": memory_limit_bytes}
    found = _found_out(children, job, folder, tell, unwanted)
    return {**facts, **(found or {"structure": {"unknown": UNKNOWN}, "pass_size": None})}


def _found_out(
    children: ChildSupervisor, job: dict[str, Any], folder: Path, tell: Tell, unwanted: Callable[[], bool]
) -> dict[str, Any] | None:
    """What the child found; None where it ended before."""
    try:
        return children.run({**job, "seconds": SECONDS, "output": str(folder / "output")}, folder, tell, unwanted)
    except PareError as error:
        log.warning("%s of %s was not done: %s", job["task"], job["facts"]["architecture"]["title"], error)
        return None

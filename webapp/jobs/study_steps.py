"""What can come of a look at a study: another run, or its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Begin:
    """Another run: its columns beside those that all runs of the study share."""

    run: dict[str, Any]


@dataclass(frozen=True)
class Conclude:
    conclusion: dict[str, Any]

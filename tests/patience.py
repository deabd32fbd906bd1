"""How long a test waits: much longer than it takes, for a busy machine may stand still for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

PATIENCE_SECONDS = 300.0  # for what must come by itself
CANCELLED_WITHIN_SECONDS = 3.0  # as is promised


def until(what: Callable[[], Found], seconds: float = PATIENCE_SECONDS, said: Callable[[], object] = str) -> Found:
    """Waits for a truth and returns it; fails with what `said` says by then."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain; {said()}"
        time.sleep(0.03)
    return found


def within(seconds: float, attempt: Callable[[], float], attempts: int = 3) -> None:
    """Fails unless one of the attempts, which return the seconds that they took, is as quick as was promised."""
    took = [attempt()]
    while took[-1] >= seconds and len(took) < attempts:
        took.append(attempt())
    assert took[-1] < seconds, f"took {took} s; {seconds} are promised"

"""How long a test waits: much longer than it takes, for a busy machine may stand still for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

PATIENCE_SECONDS = 120.0  # for what must come by itself


def until(what: Callable[[], Found], seconds: float = PATIENCE_SECONDS, said: Callable[[], object] = str) -> Found:
    """Waits for a truth and returns it; fails with what `said` says by then."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain; {said()}"
        time.sleep(0.03)
    return found


def quickest(attempt: Callable[[], float], enough: float, attempts: int = 3) -> float:
    """The least of the seconds that the attempts return, which end with the first that is quick `enough`."""
    least = attempt()
    for _ in range(attempts - 1):
        if least <= enough:
            break
        least = min(least, attempt())
    return least

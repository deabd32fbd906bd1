"""How long a served model takes for its requests and how many fail: a histogram of each minute, whatever comes in it.

What is read from a histogram is at most 2.5 % off. Its bins are numbers, so that minutes and processes add up.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

GROWTH = 1.05  # each bin ends at this many times the latency that the one before ends at
SHORTEST_MS = 0.01  # and what is shorter
MINUTES = 10  # that a process keeps for whoever collects them
CLIENT_LEFT = 499  # the status of an answer that nobody waited for
NO_ANSWER = 0  # in place of a status: the process did not answer at all


@dataclass
class Minute:
    """`minute` counts from 1970. `latencies` has the answered requests of each bin, `errors` those of each status."""

    minute: int
    requests: int = 0
    errors: dict[int, int] = field(default_factory=dict)
    latencies: dict[int, int] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        return {
            "minute": self.minute,
            "requests": self.requests,
            "errors": {str(status): count for status, count in self.errors.items()},
            "latencies": {str(bin): count for bin, count in self.latencies.items()},
        }


class Traffic:
    """Of one process; thread-safe. `clock` tells seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._minutes: OrderedDict[int, Minute] = OrderedDict()
        self._one_at_a_time = threading.Lock()

    def record(self, seconds: float, status: int) -> None:
        """A request that was answered, or failed, after so many seconds."""
        number = int(self._clock() // 60)
        with self._one_at_a_time:
            minute = self._minutes.setdefault(number, Minute(number))
            while len(self._minutes) > MINUTES:
                self._minutes.popitem(last=False)
            minute.requests += 1
            counts, key = (minute.errors, status) if status >= 400 else (minute.latencies, bin_of(1000 * seconds))
            counts[key] = counts.get(key, 0) + 1

    def minutes(self) -> list[dict[str, Any]]:
        """The latest that had requests, the oldest first."""
        with self._one_at_a_time:
            return [minute.told() for minute in self._minutes.values()]


def bin_of(milliseconds: float) -> int:
    return math.floor(math.log(max(milliseconds, SHORTEST_MS)) / math.log(GROWTH))


def added(histograms: Iterable[Mapping[str, int]]) -> dict[int, int]:
    """Histograms as JSON has them, as one."""
    found: dict[int, int] = {}
    for histogram in histograms:
        for bin, count in histogram.items():
            found[int(bin)] = found.get(int(bin), 0) + count
    return found


def percentile(latencies: Mapping[int, int], share: float) -> float | None:
    """Milliseconds within which this share of the answered requests was answered; None where none was."""
    total, seen = sum(latencies.values()), 0
    for bin in sorted(latencies):
        seen += latencies[bin]
        if seen >= share * total:
            return float(GROWTH ** (bin + 0.5))
    return None


def cumulative(latencies: Mapping[int, int]) -> list[tuple[float, float]]:
    """(milliseconds, the share that took no longer), from the shortest latency to the longest."""
    total, seen = sum(latencies.values()), 0
    found = []
    for bin in sorted(latencies):
        seen += latencies[bin]
        found.append((float(GROWTH ** (bin + 1)), seen / total))
    return found

"""How long an answer takes beside the original's: warmed up, in turns, so that a busy machine is busy for both.

What is compared is their ratio. A measurement that was disturbed is repeated, and says so if it stays disturbed.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from webapp.engine.lazy import torch

WARM_UP, LEAST, MOST = 3, 10, 200  # rounds
SECONDS = 3.0  # that one measurement takes, where nobody says how many
ATTEMPTS, REPEATED_FOR = 3, 4  # times those seconds
RESAMPLES = 2000
PRECISE = 1.1  # the ends of an interval that tells something lie within this factor of each other
CONTENDED = 0.1  # of the threads' time: more than this taken by others disturbs
SHORTEST_SECONDS = 0.03  # of processor time that /proc/stat, which counts in hundredths, can tell


@dataclass(frozen=True)
class Turns:
    """Milliseconds of original and result, turn by turn, their ratio, and the sentence on what disturbed them."""

    original: list[float]
    result: list[float]
    ratio: float  # how many times as fast the result is: median time of the original over the result's
    ci95: tuple[float, float]  # percentile bootstrap over the turns, which stay pairs
    disturbed: str | None
    attempts: int = 1

    def speed(self) -> dict[str, Any]:
        """As results and receipts have it."""
        told = {"ratio": self.ratio, "ci95": list(self.ci95), "turns": len(self.result), "attempts": self.attempts}
        return {**told, "disturbed": self.disturbed, "words": words(self.ratio, self.ci95)}


def words(ratio: float, ci95: tuple[float, float]) -> str:
    """ "1.83 times as fast as the original"; without a factor where the interval or the digits hold 1.

    A wide interval that holds 1 shows nothing, and is not said to be "as fast".
    """
    if ci95[0] <= 1.0 <= ci95[1] and ci95[1] > PRECISE * ci95[0]:
        return "not shown to be faster or slower than the original"
    if ci95[0] <= 1.0 <= ci95[1] or f"{ratio:.2f}" == "1.00":
        return "as fast as the original"
    return f"{ratio:.2f} times as fast as the original"


def in_turns(original: Callable[[], object], result: Callable[[], object], seconds: float = SECONDS) -> Turns:
    """Both timed in turns; again where that was disturbed, up to ATTEMPTS times. The narrowest interval is kept.

    `seconds` are for one attempt.
    """
    begun = time.perf_counter()
    best: Turns | None = None
    for attempt in range(1, ATTEMPTS + 1):
        before = _machine()
        taken = interleaved({"original": original, "result": result}, seconds)
        others = _others(before, _machine())
        ratio, ci95 = compare(taken["original"], taken["result"])
        disturbed = others or (None if ci95[1] <= PRECISE * ci95[0] else "The times of equal answers differed widely.")
        found = Turns(taken["original"], taken["result"], ratio, ci95, disturbed, attempt)
        if disturbed is None:
            return found
        if best is None or found.ci95[1] / found.ci95[0] < best.ci95[1] / best.ci95[0]:
            best = found
        if attempt > 1 and time.perf_counter() - begun > REPEATED_FOR * seconds:
            break
    assert best is not None
    return replace(best, attempts=attempt)


def compare(original: list[float], result: list[float]) -> tuple[float, tuple[float, float]]:
    """(ratio of the medians, its 95 % interval) of times that were taken in turns, original over result."""
    pairs = np.asarray([original, result])
    drawn = np.random.default_rng(0).integers(0, pairs.shape[1], (RESAMPLES, pairs.shape[1]))
    medians = np.median(pairs[:, drawn], axis=-1)  # (2, RESAMPLES)
    low, high = (float(x) for x in np.percentile(medians[0] / medians[1], [2.5, 97.5]))
    whole = np.median(pairs, axis=-1)
    return float(whole[0] / whole[1]), (low, high)


def _machine() -> tuple[float, float, float, float] | None:
    """Seconds: the clock, all processors at work, those that a hypervisor took, this process; None where unknown."""
    try:
        ticks = [int(n) for n in Path("/proc/stat").read_text(encoding="utf8").split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    user, nice, system, _, _, irq, softirq, steal = (n / os.sysconf("SC_CLK_TCK") for n in ticks)
    return time.perf_counter(), user + nice + system + irq + softirq, steal, time.process_time()


def _others(before: tuple[float, ...] | None, after: tuple[float, ...] | None) -> str | None:
    """The sentence where others took processor time that these threads needed."""
    if before is None or after is None:
        return None
    wall, busy, stolen, own = (b - a for a, b in zip(before, after, strict=True))
    threads = torch.get_num_threads()
    spare = max(0, (os.cpu_count() or 1) - threads) * wall
    allowed = max(CONTENDED * threads * wall, SHORTEST_SECONDS)
    if busy - own - spare > allowed:
        return "Other programs were using the processor."
    return "The machine was slowed from outside (CPU steal)." if stolen - spare > allowed else None


def interleaved(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each call, a list of rounds: MOST of them, or as many as the seconds allow, but LEAST."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for call in [*calls.values()] * WARM_UP:
            call()
        start = time.perf_counter()
        for turn in range(MOST):
            if turn >= LEAST and time.perf_counter() - start > seconds:
                break
            for name, call in [*calls.items()][:: -1 if turn % 2 else 1]:  # neither always has the other's warm caches
                before = time.perf_counter()
                call()
                taken[name].append(1000 * (time.perf_counter() - before))
    return taken


def percentiles(milliseconds: list[float], batch: str, runtime: str) -> dict[str, Any]:
    """p50 and p95 with what they depend on."""
    p50, p95 = (float(x) for x in np.percentile(milliseconds, [50, 95]))
    return {
        "p50": p50,
        "p95": p95,
        "rounds": len(milliseconds),
        "batch": batch,
        "threads": torch.get_num_threads(),
        "runtime": runtime,
        "hardware": hardware(),
    }


@cache
def hardware() -> str:
    """The processor by its name and the cores that may be used."""
    cores = torch.get_num_threads()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {cores} thread{'s' if cores > 1 else ''}"

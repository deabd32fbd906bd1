"""How long an answer takes: warmed up, original and result in turns, so that a busy machine is busy for both."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

WARM_UP, LEAST, MOST = 3, 10, 200  # rounds
BUDGET_SECONDS = 6.0


@torch.inference_mode()
def interleaved(calls: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Milliseconds of each call, a list of rounds: MOST of them, or as many as the budget allows, but LEAST."""
    for call in [*calls.values()] * WARM_UP:
        call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    start = time.perf_counter()
    for turn in range(MOST):
        if turn >= LEAST and time.perf_counter() - start > BUDGET_SECONDS:
            break
        for name, call in calls.items():
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

"""The figures of a run, by name: what a list of runs sorts by and shows, taken out of the JSON columns.

JSON of some hundred kilobytes per run cannot be sorted by; a narrow table with an index can. Names: `size_bytes`,
`metric.accuracy`, `change.accuracy` (against the original), `setting.gptq.bits`, `technique.gptq` (which step it is).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

TEXT_LENGTH = 120
NAME_LENGTH = 120
MEASURED = ("size_bytes", "params_total", "params_nonzero", "sparsity", "bits_per_weight")  # of a result
METRIC, CHANGE, SETTING, TECHNIQUE = "metric.", "change.", "setting.", "technique."


class Finished(Protocol):
    """What of a run its figures are taken from."""

    recipe: dict[str, Any]
    baseline: dict[str, Any] | None
    result: dict[str, Any] | None
    receipt: dict[str, Any] | None
    started_at: datetime | None
    finished_at: datetime | None


def figures_of(run: Finished) -> dict[str, tuple[float, str]]:
    """(value, text) by name: a number has no text, a word the value 0. What is not finite or not known is not there.

    Of several steps with one technique the first counts. Times are seconds since 1970.
    """
    found: dict[str, Any] = {}
    receipt, result, baseline = run.receipt or {}, run.result or {}, run.baseline or {}
    for place, step in enumerate(receipt.get("steps") or run.recipe.get("steps") or (), start=1):
        name = step.get("technique") if isinstance(step, Mapping) else None
        if name and f"{TECHNIQUE}{name}" not in found:
            found[f"{TECHNIQUE}{name}"] = place
            for setting, value in (step.get("settings") or {}).items():
                found[f"{SETTING}{name}.{setting}"] = value
    found["techniques"] = ", ".join(n.removeprefix(TECHNIQUE) for n in found if n.startswith(TECHNIQUE))
    found |= {name: result.get(name) for name in MEASURED}
    if result.get("size_bytes") and baseline.get("size_bytes"):
        found["times_smaller"] = baseline["size_bytes"] / result["size_bytes"]
    found |= _measured(result.get("metrics") or {}, baseline.get("metrics") or {})
    found["latency_p50_ms"] = (result.get("latency_ms") or {}).get("p50")
    found["speed"] = (result.get("speed") or {}).get("ratio")
    found["verdict"] = (receipt.get("verdict") or {}).get("verdict")
    found["hardware"] = ((receipt.get("speed") or {}).get("result") or {}).get("hardware")
    found["formats_failed"] = len(receipt.get("undelivered") or ()) or None
    if run.started_at:
        found["started_at"] = run.started_at.timestamp()
        if run.finished_at:
            found["finished_at"] = run.finished_at.timestamp()
            found["seconds"] = found["finished_at"] - found["started_at"]
    kept = {name[:NAME_LENGTH]: pair for name, value in found.items() if (pair := _pair(value)) is not None}
    if result.get("metrics") and (first := next(iter(result["metrics"]))) and f"{METRIC}{first}" in kept:
        kept["quality"] = (kept[f"{METRIC}{first}"][0], first[:TEXT_LENGTH])  # whichever a run is judged by
    return kept


def _measured(metrics: Mapping[str, Any], originals: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: metric.get("value") for name, metric in metrics.items()}
    before = {name: (originals.get(name) or {}).get("value") for name in metrics}
    changes = {
        f"{CHANGE}{name}": value - before[name]
        for name, value in values.items()
        if value is not None and before[name] is not None
    }
    return {f"{METRIC}{name}": value for name, value in values.items()} | changes


def _pair(value: Any) -> tuple[float, str] | None:
    """A number, a word, or None for what is neither."""
    if isinstance(value, bool):
        return float(value), "on" if value else "off"
    if isinstance(value, int | float):
        return (float(value), "") if math.isfinite(value) else None
    return (0.0, value[:TEXT_LENGTH]) if isinstance(value, str) and value else None

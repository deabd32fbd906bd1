"""What a budget expected of a run, beside what was measured; and what the profile learns of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from webapp.engine.exporters import exporters
from webapp.engine.profiles.facts import Measurement
from webapp.engine.profiles.fit import TINIEST
from webapp.units import FRACTIONS

from .metrics import METRICS
from .worsening import Worsening, lost, points_lost

Facts = Mapping[str, Any]


def beside(expected: Facts, result: Facts, verdict: Facts, files: Mapping[str, int] | None = None) -> dict[str, Any]:
    """For the receipt: {"profile_id", "rows"}, each row with what was expected (80 % interval) and measured (95 %).

    `files`: the bytes of the delivered files, by their formats.

    `inside` says whether the measured value lies in the interval, or of the file that it is no larger, and `says` the
    same in words; None where nothing was measured.
    """
    return {"profile_id": expected.get("profile_id"), "rows": list(_rows(expected, result, verdict, files or {}))}


def learned(expected: Facts, result: Facts, verdict: Facts, run_id: str) -> Measurement | None:
    """The run as the profile has it among its measurements; None where its loss was not measured."""
    found = lost(expected["loss"]["unit"], result["metrics"])
    if found is None or found.value is None or "predicted" not in expected:
        return None
    points = points_lost(verdict) if verdict["metric"] in {*FRACTIONS, "perplexity"} else None
    return Measurement(
        predicted=expected["predicted"],
        loss=found.value,
        points=points.value if points else None,
        size_bytes=result["size_bytes"],
        run_id=run_id,
    )


def _rows(expected: Facts, result: Facts, verdict: Facts, files: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    sizes = [("File", expected["size_bytes"], result["size_bytes"])]
    others = expected.get("files", {}).items()
    sizes += [(f"File, {exporters()[name].title}", wanted, files[name]) for name, wanted in others if name in files]
    for label, wanted, size in sizes:
        fits = {"inside": size <= wanted, "says": "not larger" if size <= wanted else "larger"}
        yield _row(label, "bytes", {"value": wanted}, Worsening(size)) | fits
    unit = expected["loss"]["unit"]
    yield _row("Loss", unit, expected["loss"], lost(unit, result["metrics"]))
    if points := expected.get("points"):
        metric = METRICS.get(verdict["metric"] or "")
        title = f"{metric.title if metric else 'Quality'} lost"
        yield _row(title, "points", points, points_lost(verdict))


def _row(label: str, unit: str, expected: Facts, measured: Worsening | None) -> dict[str, Any]:
    interval = [expected["low"], expected["high"]] if "low" in expected else None
    value = measured.value if measured else None
    says = "not measured"
    if value is not None and interval is not None:
        low, high = interval[0] if abs(interval[0]) > TINIEST else -TINIEST, max(interval[1], TINIEST)
        says = "below" if value < low else "above" if value > high else "inside"
    return {
        "label": label,
        "unit": unit,
        "expected": expected["value"],
        "interval": interval,
        "measured": value,
        "ci95": [measured.low, measured.high] if measured and measured.low is not None else None,
        "inside": None if says == "not measured" else says == "inside",
        "says": says,
    }

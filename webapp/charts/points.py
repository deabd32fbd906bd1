"""Runs as points of size and quality, and the front of those that no other beats in both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .drawing import label_of

AXES = {
    "size_bytes": "File size",
    "params_nonzero": "Nonzero parameters",
    "bits_per_weight": "Bits per weight",
    "time_ratio": "Time, ratio to the original",
}
ABSOLUTE_METRICS = (
    "accuracy",
    "accuracy_norm",
    "perplexity",
    "mse",
    "mae",
    "r2",
    "mean_iou",
)  # the others are measured against each run's own original
Run = Mapping[str, Any]
Group = tuple[str, str]  # checkpoint id, dataset id


@dataclass(frozen=True)
class Point:
    """One measured model. `x` in bytes, parameters, bits or a ratio; `low` and `high` end the 95 % interval, if any."""

    run_id: str
    name: str
    label: str  # short, for beside the point
    x: float
    y: float
    low: float | None
    high: float | None
    n: int | None
    size_bytes: int
    dataset: str


def metric_names(runs: Sequence[Run]) -> dict[str, str]:
    """Every metric that some run has, with its title; those that most runs have first."""
    count: dict[str, int] = {}
    titles: dict[str, str] = {}
    for run in runs:
        for name, metric in ((run.get("result") or {}).get("metrics") or {}).items():
            count[name] = count.get(name, 0) + 1
            titles[name] = metric.get("title") or name.replace("_", " ").capitalize()
    return {name: titles[name] for name in sorted(count, key=lambda n: (-count[n], n not in ABSOLUTE_METRICS, n))}


def pareto_front(points: Sequence[tuple[float, float]], higher_is_better: bool) -> list[tuple[float, float]]:
    """The points that no other beats: none is at most as large and strictly better, or smaller and as good.

    Ordered by size; the metric gets strictly better along it.
    """
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda p: (p[0], -p[1] if higher_is_better else p[1])):
        if not front or (y > front[-1][1] if higher_is_better else y < front[-1][1]):
            front.append((x, y))
    return front


def front_runs(runs: Sequence[Run], metric: str, x: str = "size_bytes") -> set[str]:
    """The ids of the runs that lie on the front of those they may be compared with, their original among them."""
    known = [m for run in runs if (m := metric_of(run.get("result"), metric))]
    if not known:
        return set()
    groups, originals = collected(runs, metric, x)
    on_front = set()
    for pool in pools(groups, originals, metric).values():
        front = set(pareto_front([(p.x, p.y) for p in pool], bool(known[0].get("higher_is_better", True))))
        on_front |= {p.run_id for p in pool if (p.x, p.y) in front}
    return on_front - {""}


def knee(front: Sequence[tuple[float, float]], higher_is_better: bool) -> int | None:
    """Where on a front, by its place, more size stops to pay: the point furthest above the line between both ends.

    Sizes count by their logarithm. None where the front has no such bend, or less than three points.
    Satopää et al., Finding a "Kneedle" in a Haystack, ICDCS Workshops 2011, section IV.
    """
    if len(front) < 3 or front[0][0] <= 0:
        return None
    sizes = [math.log(x) for x, _ in front]
    gained = [y if higher_is_better else -y for _, y in front]
    wide, high = sizes[-1] - sizes[0], gained[-1] - gained[0]
    if not (wide > 0 and high > 0 and math.isfinite(high)):
        return None
    above = [(y - gained[0]) / high - (x - sizes[0]) / wide for x, y in zip(sizes, gained, strict=True)]
    best = max(range(len(above)), key=above.__getitem__)
    return best if above[best] > 0 else None


def knee_run(runs: Sequence[Run], metric: str) -> str | None:
    """The id of the run at the knee of the front of sizes, the original being its end; of runs on one checkpoint."""
    known = [m for run in runs if (m := metric_of(run.get("result"), metric))]
    groups, originals = collected(runs, metric, "size_bytes")
    if len(groups) != 1 or not known:
        return None
    [(key, points)] = groups.items()
    higher = bool(known[0].get("higher_is_better", True))
    points = [*points, *([originals[key]] if key in originals else [])]
    front = pareto_front([(point.x, point.y) for point in points], higher)
    at = knee(front, higher)
    found = next((p.run_id for p in points if at is not None and (p.x, p.y) == front[at]), None)
    return found or None


def collected(runs: Sequence[Run], metric: str, x: str) -> tuple[dict[Group, list[Point]], dict[Group, Point]]:
    """The runs' points by (checkpoint, dataset), and the original of each; runs without the metric are left out."""
    groups: dict[Group, list[Point]] = {}
    originals: dict[Group, Point] = {}
    for run in runs:
        key = (run["checkpoint"]["id"], (run.get("dataset") or {}).get("id") or "")
        point = point_of(run, run.get("result"), run["name"], metric, x)
        if point is None:
            continue
        groups.setdefault(key, []).append(point)
        original = point_of(run, run.get("baseline"), f"{run['checkpoint']['name']} (original)", metric, x)
        if original is not None:
            originals.setdefault(key, replace(original, run_id=""))
    return groups, originals


def pools(
    groups: Mapping[Group, list[Point]], originals: Mapping[Group, Point], metric: str
) -> dict[tuple[str, ...], list[Point]]:
    """Which points may be compared: those on the same dataset, and for relative metrics of the same original."""
    found: dict[tuple[str, ...], list[Point]] = {}
    for key, points in groups.items():
        pool = found.setdefault(key[1:] if metric in ABSOLUTE_METRICS else key, [])
        pool += [*points, *([originals[key]] if key in originals else [])]
    return found


def metric_of(measured: Mapping[str, Any] | None, metric: str) -> Mapping[str, Any] | None:
    found = ((measured or {}).get("metrics") or {}).get(metric)
    return found if found and found.get("value") is not None else None


def point_of(run: Run, measured: Mapping[str, Any] | None, name: str, metric: str, x: str) -> Point | None:
    found = metric_of(measured, metric)
    position = axis_value(measured, x)
    if measured is None or found is None or position is None:
        return None
    low, high = found.get("ci95") or (None, None)
    dataset = (run.get("dataset") or {}).get("name") or ""
    return Point(
        run["id"],
        name,
        label_of(run, 24),
        position,
        found["value"],
        low,
        high,
        found.get("n"),
        measured["size_bytes"],
        dataset,
    )


def axis_value(measured: Mapping[str, Any] | None, x: str) -> float | None:
    if measured is None:
        return None
    if x == "time_ratio":
        speed = measured.get("speed")
        return 1 / speed["ratio"] if speed else None
    return measured.get(x)

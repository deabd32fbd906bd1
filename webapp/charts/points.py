"""Runs as points of size and quality, and the front of those that no other beats in both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

AXES = {
    "size_bytes": "File size",
    "params_nonzero": "Nonzero parameters",
    "bits_per_weight": "Bits per weight",
    "time_ratio": "Time, ratio to the original",
    "size_ratio": "Size, ratio to the original",
    "sparsity": "Sparsity",
    "params_total": "Parameters",
    "latency_p50_ms": "Latency p50 (ms)",
    "seconds": "Seconds that the run took",
}
SHARES = ("size_ratio", "sparsity")  # axes in per cent
UNDIRECTED = ("sparsity", "seconds")  # neither end of such an axis is better; the others' lower end is
METRIC, SETTING = "metric.", "setting."  # begin the axes that are there for what runs have
ABSOLUTE_METRICS = (
    "accuracy",
    "accuracy_norm",
    "perplexity",
    "mse",
    "mae",
    "r2",
    "mean_iou",
)  # the others are measured against each run's own original
BEND = 0.01  # above the line between the ends of a front, of its height: less is no knee
Run = Mapping[str, Any]
Group = tuple[str, str]  # checkpoint id, dataset id


@dataclass(frozen=True)
class Reading:
    """A figure of one measured model, with the ends of its 95 % interval and the samples behind it, if any."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclass(frozen=True)
class Point:
    """One measured model. `run_id` is "" of an original."""

    run: Run
    run_id: str
    name: str
    across: Reading
    up: Reading
    size_bytes: int

    @property
    def x(self) -> float:
        return self.across.value

    @property
    def y(self) -> float:
        return self.up.value

    @property
    def dataset(self) -> str:
        return (self.run.get("dataset") or {}).get("name") or ""


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


def axis_title(runs: Sequence[Run], axis: str) -> str:
    """Of one of AXES or a metric; a setting's is its name, for the title is with its technique."""
    if axis.startswith(METRIC):
        name = axis.removeprefix(METRIC)
        return metric_names(runs).get(name) or name.replace("_", " ").capitalize()
    return AXES.get(axis) or axis.removeprefix(SETTING)


def higher_is_better(runs: Sequence[Run], axis: str) -> bool | None:
    """None of an axis neither of whose ends is better."""
    if axis.startswith(METRIC):
        name = axis.removeprefix(METRIC)
        known = next((m for run in runs if (m := metric_of(run.get("result"), name))), None)
        return bool(known.get("higher_is_better", True)) if known else None
    return False if axis in AXES and axis not in UNDIRECTED else None


def front_of(points: Sequence[Point], higher_across: bool | None, higher_up: bool | None) -> list[tuple[float, float]]:
    """The front of points on any two axes, ordered by x; none where an axis has no better end."""
    if higher_across is None or higher_up is None:
        return []
    sign = -1 if higher_across else 1
    found = pareto_front([(sign * point.x, point.y) for point in points], higher_up)
    return sorted((sign * x, y) for x, y in found)


def front_runs(runs: Sequence[Run], metric: str, x: str = "size_bytes") -> set[str]:
    """The ids of the runs that lie on the front of those they may be compared with, their original among them."""
    return runs_on_front(runs, x, f"{METRIC}{metric}")


def runs_on_front(runs: Sequence[Run], x: str, y: str) -> set[str]:
    """The same for any two axes."""
    groups, originals = collected(runs, x, y)
    directions = higher_is_better(runs, x), higher_is_better(runs, y)
    on_front = set()
    for pool in pools(groups, originals, x, y).values():
        front = set(front_of(pool, *directions))
        on_front |= {point.run_id for point in pool if (point.x, point.y) in front}
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
    return best if above[best] > BEND else None


def knee_run(runs: Sequence[Run], metric: str) -> str | None:
    """The id of the run at the knee of the front of sizes, the original being its end; of runs on one checkpoint."""
    known = [m for run in runs if (m := metric_of(run.get("result"), metric))]
    groups, originals = collected(runs, "size_bytes", f"{METRIC}{metric}")
    if len(groups) != 1 or not known:
        return None
    [(key, points)] = groups.items()
    higher = bool(known[0].get("higher_is_better", True))
    points = [*points, *([originals[key]] if key in originals else [])]
    front = pareto_front([(point.x, point.y) for point in points], higher)
    at = knee(front, higher)
    found = next((p.run_id for p in points if at is not None and (p.x, p.y) == front[at]), None)
    return found or None


def collected(runs: Sequence[Run], x: str, y: str) -> tuple[dict[Group, list[Point]], dict[Group, Point]]:
    """The runs' points by (checkpoint, dataset), and the original of each; runs without a figure are left out."""
    groups: dict[Group, list[Point]] = {}
    originals: dict[Group, Point] = {}
    for run in runs:
        key = (run["checkpoint"]["id"], (run.get("dataset") or {}).get("id") or "")
        point = point_of(run, "result", run["name"], x, y)
        if point is None:
            continue
        groups.setdefault(key, []).append(point)
        original = point_of(run, "baseline", f"{run['checkpoint']['name']} (original)", x, y)
        if original is not None:
            originals.setdefault(key, replace(original, run_id=""))
    return groups, originals


def pools(
    groups: Mapping[Group, list[Point]], originals: Mapping[Group, Point], x: str, y: str
) -> dict[tuple[str, ...], list[Point]]:
    """Which points may be compared: those on the same dataset, and for relative figures of the same original."""
    metrics = [axis.removeprefix(METRIC) for axis in (x, y) if axis.startswith(METRIC)]
    absolute = bool(metrics) and all(metric in ABSOLUTE_METRICS for metric in metrics)
    found: dict[tuple[str, ...], list[Point]] = {}
    for key, points in groups.items():
        pool = found.setdefault(key[1:] if absolute else key, [])
        pool += [*points, *([originals[key]] if key in originals else [])]
    return found


def metric_of(measured: Mapping[str, Any] | None, metric: str) -> Mapping[str, Any] | None:
    found = ((measured or {}).get("metrics") or {}).get(metric)
    return found if found and found.get("value") is not None else None


def point_of(run: Run, side: str, name: str, x: str, y: str) -> Point | None:
    """Of a run's "result" or "baseline"; None where it lacks one of the figures."""
    across, up = reading(run, side, x), reading(run, side, y)
    if across is None or up is None:
        return None
    return Point(run, run["id"], name, across, up, run[side]["size_bytes"])


def reading(run: Run, side: str, axis: str) -> Reading | None:
    """A figure of a run's "result" or "baseline"; settings and seconds are the run's own, and no original has any."""
    measured = run.get(side)
    if not measured:
        return None
    if axis.startswith(METRIC):
        found = metric_of(measured, axis.removeprefix(METRIC))
        return Reading(found["value"], *(found.get("ci95") or (None, None)), found.get("n")) if found else None
    if axis.startswith(SETTING) or axis == "seconds":
        own = (run.get("settings") or {}).get(axis) if axis != "seconds" else run.get("seconds")
        known = side == "result" and isinstance(own, int | float) and not isinstance(own, bool)
        return Reading(own) if known else None
    if axis == "size_ratio":
        whole = (run.get("baseline") or {}).get("size_bytes")
        return Reading(measured["size_bytes"] / whole) if whole else None
    value = axis_value(measured, axis)
    if value is None:
        return None
    ends = (measured.get("speed") or {}).get("ci95") if axis == "time_ratio" else None
    return Reading(value, 1 / ends[1], 1 / ends[0]) if ends and min(ends) > 0 else Reading(value)


def axis_value(measured: Mapping[str, Any] | None, x: str) -> float | None:
    if measured is None:
        return None
    if x == "time_ratio":
        speed = measured.get("speed")
        return 1 / speed["ratio"] if speed else None
    if x == "latency_p50_ms":
        return (measured.get("latency_ms") or {}).get("p50")
    return measured.get(x)

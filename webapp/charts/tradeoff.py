"""Size against quality: one point per run, the originals, and the front of runs that no other beats in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import plotly.graph_objects as go

from ..units import byte_text
from .drawing import (
    BASELINE_COLOUR,
    COLOURS,
    SYMBOLS,
    axis_type,
    byte_axis,
    figure,
    label_of,
    nothing_to_show,
    short,
    whole,
)

AXES = {
    "size_bytes": "File size",
    "params_nonzero": "Nonzero parameters",
    "bits_per_weight": "Bits per weight",
    "latency_ms": "Latency, median (ms)",
}
ABSOLUTE_METRICS = ("accuracy", "perplexity")  # the others are measured against each run's own original
FRACTIONS = ("accuracy", "agreement")
LABELLED_RUNS = 12  # with more, names would lie on top of each other; the hover has them
Run = Mapping[str, Any]
Group = tuple[str, str]  # checkpoint id, dataset id


@dataclass(frozen=True)
class Point:
    """One measured model. `x` in bytes, parameters, bits or ms; `low` and `high` end the 95 % interval, if any."""

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


def size_vs_accuracy(runs: Sequence[Run], metric: str, x: str = "size_bytes", scale: str = "auto") -> go.Figure:
    """`metric` is a name in result.metrics, `x` one of AXES, `scale` "auto", "linear" or "log" for the x axis."""
    known = [m for run in runs if (m := metric_of(run.get("result"), metric))]
    metric_title = known[0].get("title") or metric.replace("_", " ").capitalize() if known else metric
    title = f"{AXES[x].split(' (')[0].split(',')[0]} against {metric_title.lower()}"
    groups, originals = collected(runs, metric, x)
    if not groups:
        why = next((m for r in runs if (m := (r.get("result") or {}).get("metrics_unavailable"))), "")
        return nothing_to_show(title, f"None of these runs has {metric_title.lower()} to draw. {why}".strip())

    higher = bool(known[0].get("higher_is_better", True))
    percent = metric in FRACTIONS
    names = {run["checkpoint"]["id"]: run["checkpoint"]["name"] for run in runs}
    several_checkpoints, several_datasets = (len({key[i] for key in groups}) > 1 for i in (0, 1))
    labelled = sum(map(len, groups.values())) <= LABELLED_RUNS
    traces = []
    for number, pool in enumerate(pools(groups, originals, metric).values()):
        front = pareto_front([(p.x, p.y) for p in pool], higher)
        if len(front) > 1:
            traces.append(
                go.Scatter(
                    x=[p[0] for p in front],
                    y=[p[1] for p in front],
                    mode="lines",
                    line={"shape": "hv", "dash": "dot", "width": 2, "color": BASELINE_COLOUR},
                    name="Pareto front",
                    legendgroup="front",
                    showlegend=number == 0,
                    hoverinfo="skip",
                )
            )
    for number, (key, points) in enumerate(groups.items()):
        label = "Runs"
        if several_checkpoints or several_datasets:
            on = f" on {points[0].dataset}" if several_datasets else ""
            label = f"Runs of {names[key[0]]}{on}"
        colour, symbol = COLOURS[number % len(COLOURS)], SYMBOLS[number % len(SYMBOLS)]
        traces.append(scatter(points, short(label, 48), colour, symbol, percent, metric_title, x, labelled))
        if key in originals:
            star = scatter(
                [originals[key]], short(originals[key].name, 48), colour, "star", percent, metric_title, x, False
            )
            star.marker.size, star.marker.line.width = 16, 1.5
            traces.append(star)
    everything = [p for points in groups.values() for p in points] + list(originals.values())
    divisor, unit = byte_axis(p.x for p in everything) if x == "size_bytes" else (1.0, "")
    if divisor != 1:
        for trace in traces:
            trace.x = [value / divisor for value in trace.x]
    x_type, y_type = axis_type([p.x for p in everything], scale), axis_type([p.y for p in everything])
    direction = "higher is better" if higher else "lower is better; the axis is turned, so up is better"
    return figure(
        traces,
        title,
        height=480,
        xaxis={
            "title": {"text": f"{AXES[x]} ({unit})" if unit else AXES[x]},
            "type": x_type,
            "dtick": "D2" if x_type == "log" else None,
            "automargin": True,
        },
        yaxis={
            "title": {"text": f"{whole(metric_title)} ({direction})"},
            "type": y_type,
            "autorange": True if higher else "reversed",
            "tickformat": ".1%" if percent else None,
            "automargin": True,
        },
    )


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


def scatter(
    points: list[Point], name: str, colour: str, symbol: str, percent: bool, metric_title: str, x: str, labelled: bool
) -> go.Scatter:
    with_interval = [p for p in points if p.low is not None and p.high is not None]
    form = ".2%" if percent else ".4g"
    return go.Scatter(
        x=[p.x for p in points],
        y=[p.y for p in points],
        mode="markers+text" if labelled else "markers",
        text=[p.label for p in points],
        textposition=text_positions(points),
        textfont={"size": 11},
        cliponaxis=False,
        name=name,
        marker={"size": 11, "color": colour, "symbol": symbol, "line": {"width": 1, "color": "#FFFFFF"}},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [p.high - p.y if p.high is not None else 0 for p in points],
            "arrayminus": [p.y - p.low if p.low is not None else 0 for p in points],
            "thickness": 1.2,
            "width": 4,
            "color": colour,
        }
        if with_interval
        else None,
        customdata=[
            [whole(p.name), byte_text(p.size_bytes), interval_text(p, form), whole(p.dataset) or "no dataset"]
            for p in points
        ],
        hovertemplate=f"<b>%{{customdata[0]}}</b><br>{whole(metric_title)}: %{{y:{form}}}%{{customdata[2]}}"
        + ("" if x == "size_bytes" else f"<br>{AXES[x]}: %{{x:.4g}}")
        + "<br>File: %{customdata[1]}<br>On: %{customdata[3]}<extra></extra>",
    )


def text_positions(points: list[Point]) -> list[str]:
    """Above and below in turn from left to right, so that neighbours lie on each other less often."""
    ranked = sorted(range(len(points)), key=lambda at: (points[at].x, points[at].y))
    return ["bottom center" if ranked.index(at) % 2 else "top center" for at in range(len(points))]


def interval_text(point: Point, form: str) -> str:
    interval = (
        f" (95 %: {point.low:{form}} to {point.high:{form}})"
        if point.low is not None and point.high is not None
        else ""
    )
    return interval + (f", n = {point.n:,}" if point.n else "")


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
    if x == "latency_ms":
        latency = measured.get("latency_ms")
        return latency["p50"] if latency else None
    return measured.get(x)

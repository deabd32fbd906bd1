"""Size against quality: one point per run, the originals, and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from webapp.units import FRACTIONS, byte_text, lowered

from .drawing import (
    BASELINE_COLOUR,
    COLOURS,
    SYMBOLS,
    axis,
    axis_type,
    byte_axis,
    figure,
    log_ticks,
    nothing_to_show,
    short,
    whole,
)
from .points import AXES, Point, Run, collected, metric_of, pareto_front, pools

LABELLED_RUNS = 12  # with more, names would lie on top of each other; the hover has them


def size_vs_accuracy(runs: Sequence[Run], metric: str, x: str = "size_bytes", scale: str = "auto") -> go.Figure:
    """`metric` is a name in result.metrics, `x` one of AXES, `scale` "auto", "linear" or "log" for the x axis."""
    known = [m for run in runs if (m := metric_of(run.get("result"), metric))]
    metric_title = known[0].get("title") or metric.replace("_", " ").capitalize() if known else metric
    title = f"{AXES[x].split(' (')[0].split(',')[0]} against {lowered(metric_title)}"
    groups, originals = collected(runs, metric, x)
    if not groups:
        why = next((m for r in runs if (m := (r.get("result") or {}).get("metrics_unavailable"))), "")
        return nothing_to_show(title, f"None of these runs has {lowered(metric_title)} to draw. {why}".strip())

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
    direction = "higher is better" if higher else "lower is better, so the axis is turned"
    across = axis(f"{AXES[x]} ({unit})" if unit else AXES[x], type=x_type)
    up = axis(
        f"{whole(metric_title)}<br>{direction}",
        type=y_type,
        autorange=True if higher else "reversed",
        tickformat=".2~%" if percent else None,  # 98.5 % beside 99 %
    )
    across |= log_ticks([p.x / divisor for p in everything]) if x_type == "log" else {}
    up |= log_ticks([p.y for p in everything]) if y_type == "log" else {}
    return figure(traces, title, height=480, xaxis=across, yaxis=up)


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
        f" (95 % CI: {point.low:{form}} to {point.high:{form}})"
        if point.low is not None and point.high is not None
        else ""
    )
    return interval + (f", n = {point.n:,}" if point.n else "")

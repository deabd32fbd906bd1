"""The curve of a sweep: a line for each technique, the front of what no other run beats, and its knee."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
from .points import AXES, axis_value, knee_run, metric_of, pareto_front

FAR = 4  # times as large: beyond it sizes are drawn by their logarithm, so that the original is no island
MOST_LINES = 12  # that can be told apart; of more series the points alone are drawn


@dataclass(frozen=True)
class Swept:
    """A run of a sweep as the curve draws it. `run` is as charts are fed."""

    run: Mapping[str, Any]
    title: str
    series: str  # which line it is on
    along: float | None  # where on the line: its value of the setting that the line goes along
    settings: Mapping[str, Any]  # by the names that `x` may have beside AXES


def sweep_curve(
    swept: Sequence[Swept],
    metric: str,
    x: str = "size_bytes",
    x_title: str = "",
    taken: str | None = None,
    links: bool = True,
) -> go.Figure:
    """`metric` with its interval against `x`: one of AXES, or a setting of the runs, titled `x_title`.

    `taken`: the run that a person chose. `links`: a click on a point opens its run.
    """
    runs = [one.run for one in swept]
    known = [m for run in runs if (m := metric_of(run["result"], metric))]
    title = lowered(known[0].get("title") or metric.replace("_", " ")) if known else "quality"
    across_title = AXES.get(x) or x_title or x
    heading = f"{across_title} against {title}"
    points = [(one, *place) for one in swept if (place := _place(one, metric, x)) is not None]
    if not points:
        return nothing_to_show(heading, "The curve begins with the first run that ends with a result.")
    higher, percent = bool(known[0].get("higher_is_better", True)), metric in FRACTIONS
    bytes_across = x == "size_bytes"
    original = next((o for run in runs if (o := _original(run, metric, x)) is not None), None)
    everything = [(at, up) for _, at, up, _ in points] + ([original] if original else [])
    divisor, unit = byte_axis(at for at, _ in everything) if bytes_across else (1.0, "")
    traces = []
    if x in AXES:
        front = pareto_front([*((at, up) for _, at, up, _ in points), *([original] if original else [])], higher)
        if len(front) > 1:
            traces.append(
                go.Scatter(
                    x=[at / divisor for at, _ in front],
                    y=[up for _, up in front],
                    mode="lines",
                    line={"shape": "hv", "dash": "dot", "width": 2, "color": BASELINE_COLOUR},
                    name="Pareto front",
                    hoverinfo="skip",
                )
            )
    lines = list(dict.fromkeys(one.series for one, *_ in points))
    for number, series in enumerate(lines):
        own = [point for point in points if point[0].series == series]
        own.sort(key=lambda point: (point[0].along is None, point[0].along, point[1]))
        colour, symbol = COLOURS[number % len(COLOURS)], SYMBOLS[number // len(COLOURS) % len(SYMBOLS)]
        joined = len(lines) <= MOST_LINES and len(own) > 1 and all(point[0].along is not None for point in own)
        traces.append(_line(own, series, colour, symbol, divisor, joined, title, percent))
        if links:
            traces[-1].meta = {"runs": [point[0].run["id"] for point in own]}
    for run_id, name, symbol in ((knee_run(runs, metric), "Knee", "circle-open"), (taken, "Taken", "star-open")):
        if found := [point for point in points if point[0].run["id"] == run_id]:
            traces.append(_mark(found[0], name, symbol, divisor))
    if original:
        traces.append(
            go.Scatter(
                x=[original[0] / divisor],
                y=[original[1]],
                mode="markers",
                name="Original",
                marker={"size": 15, "symbol": "star", "color": BASELINE_COLOUR, "line": {"width": 1}},
                hovertemplate=f"<b>Original</b><br>{whole(title)}: %{{y:{'.2%' if percent else '.4g'}}}<extra></extra>",
            )
        )
    sizes = [at for at, _ in everything]
    spread = max(sizes) / min(sizes) if min(sizes) > 0 else 0.0
    across_type = axis_type(sizes, "log" if bytes_across and spread > FAR else "auto")
    up_type = axis_type([up for _, up in everything])
    across = axis(f"{across_title} ({unit})" if unit else across_title, type=across_type)
    direction = "higher is better" if higher else "lower is better, so the axis is turned"
    up = axis(
        f"{whole(title[:1].upper() + title[1:])}<br>{direction}",
        type=up_type,
        autorange=True if higher else "reversed",
        tickformat=".2~%" if percent else None,
    )
    across |= log_ticks([at / divisor for at, _ in everything]) if across_type == "log" else {}
    up |= log_ticks([value for _, value in everything]) if up_type == "log" else {}
    return figure(traces, heading, height=480, xaxis=across, yaxis=up)


Placed = tuple[Swept, float, float, Mapping[str, Any]]  # (run, x, y, its metric)


def _place(one: Swept, metric: str, x: str) -> tuple[float, float, Mapping[str, Any]] | None:
    found = metric_of(one.run["result"], metric)
    at = axis_value(one.run["result"], x) if x in AXES else one.settings.get(x)
    if found is None or not isinstance(at, int | float) or isinstance(at, bool):
        return None
    return float(at), found["value"], found


def _original(run: Mapping[str, Any], metric: str, x: str) -> tuple[float, float] | None:
    found, at = metric_of(run["baseline"], metric), axis_value(run["baseline"], x) if x in AXES else None
    return (at, found["value"]) if found is not None and at is not None else None


def _line(
    own: Sequence[Placed],
    series: str,
    colour: str,
    symbol: str,
    divisor: float,
    joined: bool,
    title: str,
    percent: bool,
) -> go.Scatter:
    ends = [found.get("ci95") or (up, up) for _, _, up, found in own]
    form = ".2%" if percent else ".4g"
    told = [
        [whole(one.title), byte_text(one.run["result"]["size_bytes"]), _interval(found, form)]
        for one, _, _, found in own
    ]
    return go.Scatter(
        x=[at / divisor for _, at, _, _ in own],
        y=[up for _, _, up, _ in own],
        mode="lines+markers" if joined else "markers",
        name=short(series, 40),
        line={"width": 1.5, "color": colour},
        marker={"size": 10, "color": colour, "symbol": symbol, "line": {"width": 1, "color": "#FFFFFF"}},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [high - up for (_, _, up, _), (_, high) in zip(own, ends, strict=True)],
            "arrayminus": [up - low for (_, _, up, _), (low, _) in zip(own, ends, strict=True)],
            "thickness": 1,
            "width": 3,
            "color": colour,
        },
        customdata=told,
        hovertemplate=f"<b>%{{customdata[0]}}</b><br>{whole(title)}: %{{y:{form}}}%{{customdata[2]}}"
        "<br>File: %{customdata[1]}<extra></extra>",
    )


def _interval(found: Mapping[str, Any], form: str) -> str:
    ends = found.get("ci95")
    told = f" (95 % CI: {ends[0]:{form}} to {ends[1]:{form}})" if ends else ""
    return told + (f", n = {found['n']:,}" if found.get("n") else "")


def _mark(point: Placed, name: str, symbol: str, divisor: float) -> go.Scatter:
    one, at, up, _ = point
    return go.Scatter(
        x=[at / divisor],
        y=[up],
        mode="markers",
        name=name,
        marker={"size": 20, "symbol": symbol, "color": COLOURS[1], "line": {"width": 2.5, "color": COLOURS[1]}},
        hovertemplate=f"<b>{name}</b>: {whole(one.title)}<extra></extra>",
    )

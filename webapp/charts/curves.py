"""What a stage drew while it went on, such as the losses of a training: lines over its steps, and the same as rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from .drawing import COLOURS, SYMBOLS, axis, axis_type, figure, log_ticks, nothing_to_show, whole

DASHES = ("solid", "dot", "dash", "dashdot")
FEW = 60  # points; with more a line carries no markers
Curves = Mapping[str, Mapping[str, Any]]  # {series: {"x": [...], "values": {quantity: [...]}}}


def quantities(curves: Curves) -> list[str]:
    """What was measured along the way, each with its unit: one chart for each."""
    return list(dict.fromkeys(name for curve in curves.values() for name in curve["values"]))


def stage_curve(curves: Curves, quantity: str, title: str) -> go.Figure:
    """`quantity` of every series that has it, over the steps of the stage called `title`."""
    drawn = {series: known for series, curve in sorted(curves.items()) if (known := points_of(curve, quantity))}
    if not drawn:
        return nothing_to_show(title, "Nothing was measured yet.")
    traces = []
    for number, (series, points) in enumerate(drawn.items()):
        marked = len(points) <= FEW
        told = f"<b>{whole(series)}</b><br>Step %{{x:,}}<br>{whole(quantity)}: %{{y:.4g}}<extra></extra>"
        traces.append(
            go.Scatter(
                x=[x for x, _ in points],
                y=[y for _, y in points],
                mode="lines+markers" if marked else "lines",
                name=whole(series),
                line={"color": COLOURS[number % len(COLOURS)], "dash": DASHES[number % len(DASHES)], "width": 2},
                marker={"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 7},
                hovertemplate=told,
            )
        )
    values = [y for points in drawn.values() for _, y in points]
    up = axis(whole(quantity), type=axis_type(values))
    up |= log_ticks(values) if up["type"] == "log" else {"rangemode": "tozero"}
    return figure(traces, title, height=380, xaxis=axis("Step", rangemode="tozero"), yaxis=up)


def curve_rows(curves: Curves, quantity: str) -> tuple[list[str], list[tuple[float, list[float | None]]]]:
    """(the series, rows of a step and the value of each series at it); None where it was not measured."""
    columns = {series: dict(known) for series, curve in sorted(curves.items()) if (known := points_of(curve, quantity))}
    steps = sorted({x for points in columns.values() for x in points})
    return list(columns), [(x, [points.get(x) for points in columns.values()]) for x in steps]


def points_of(curve: Mapping[str, Any], quantity: str) -> list[tuple[float, float]]:
    values = curve["values"].get(quantity, [])
    return [(x, y) for x, y in zip(curve["x"], values, strict=False) if y is not None]

"""What a budget may expect: loss over bytes, and how well earlier predictions held.

A "forecast" here is `{"size_bytes", "loss", "low", "high"}`, where `low` and `high` end the 80 % interval; a "point" is
what was measured: `{"name", "size_bytes", "loss"}`, and for the second chart what had been predicted of it: `expected`,
`low`, `high`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from webapp.units import byte_text, lowered, significant

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

Forecast = Mapping[str, Any]
Point = Mapping[str, Any]
LOSS_TITLES = {"nats": "KL divergence", "cosine distance": "Cosine distance", "squared error": "Squared error"}
LOSS_UNITS = {"nats": "nats", "cosine distance": "1 − cosine", "squared error": "of the squared answer"}
DECADES = 5  # that the loss spans at most in a chart; what is below is as good as none
BAND = "rgba(0, 114, 178, 0.22)"  # of the colour of the line in it


def budget_front(front: Sequence[Forecast], chosen: Forecast, unit: str, runs: Sequence[Point] = ()) -> go.Figure:
    """The least loss expected for each size, with its interval; `chosen` on it, and what runs measured.

    The traces' `meta` name them, so that a page can move them: band, front, chosen. The layout's `meta` has the bytes
    of a unit of the x axis, and the `floor` of the y axis where that is logarithmic.
    """
    title = "Expected loss for each size"
    if not front:
        return nothing_to_show(title, "No option of any layer is left to choose from.")
    losses = [row["loss"] for row in (*front, *runs) if row["loss"] > 0]
    kind = axis_type(losses)
    floor = max(min(losses), max(losses) / 10**DECADES) / 2 if kind == "log" else None
    rows = sorted((row for row in front if row["loss"] >= (floor or 0)), key=lambda row: row["size_bytes"])
    divisor, size_unit = byte_axis(row["size_bytes"] for row in rows)
    x = [row["size_bytes"] / divisor for row in rows]
    across = axis(f"Size of the file ({size_unit})", type=axis_type(x))
    across |= log_ticks(x) if across["type"] == "log" else {}
    traces = [
        _band(x, [row["low"] for row in rows], [row["high"] for row in rows], floor or 0),
        go.Scatter(
            x=x,
            y=[row["loss"] for row in rows],
            mode="lines",
            line={"width": 2.5, "color": COLOURS[0]},
            name="Expected",
            meta="front",
            customdata=[[row["low"], row["high"]] for row in rows],
            hovertemplate=f"<b>%{{x:.4~r}} {size_unit[:2]}</b><br>Expected loss: %{{y:.3g}}<br>"
            "80 % interval: %{customdata[0]:.3g} to %{customdata[1]:.3g}<extra></extra>",
        ),
        measured(runs, divisor),
        go.Scatter(
            x=[chosen["size_bytes"] / divisor],
            y=[chosen["loss"]],
            mode="markers",
            marker={"size": 15, "color": COLOURS[0], "symbol": "circle", "line": {"width": 2, "color": "#FFFFFF"}},
            error_y=interval(chosen),
            name="This budget",
            meta="chosen",
            hovertemplate=f"<b>This budget: %{{x:.4~r}} {size_unit[:2]}</b><br>Expected loss: %{{y:.3g}}"
            "<extra></extra>",
        ),
    ]
    up = axis(f"{LOSS_TITLES[unit]} ({LOSS_UNITS[unit]})<br>lower is better", type=kind)
    up |= log_ticks([floor, *losses]) if floor else {"rangemode": "tozero"}
    return figure(
        [trace for trace in traces if len(trace.x)],
        title,
        height=360,
        meta={"bytes": divisor, "floor": floor},
        xaxis=across,
        yaxis=up,
    )


def measured(runs: Sequence[Point], divisor: float) -> go.Scatter:
    return go.Scatter(
        x=[run["size_bytes"] / divisor for run in runs],
        y=[run["loss"] for run in runs],
        mode="markers",
        marker={"size": 9, "color": COLOURS[1], "symbol": SYMBOLS[1], "line": {"width": 1, "color": "#FFFFFF"}},
        name="Measured by runs",
        customdata=[[whole(run["name"]), byte_text(run["size_bytes"])] for run in runs],
        hovertemplate="<b>%{customdata[0]}</b><br>Measured loss: %{y:.3g}<br>File: %{customdata[1]}<extra></extra>",
    )


def interval(forecast: Forecast) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [forecast["high"] - forecast["loss"]],
        "arrayminus": [forecast["loss"] - forecast["low"]],
        "thickness": 2,
        "width": 7,
        "color": COLOURS[0],
    }


def predicted_against_measured(points: Sequence[Point], unit: str) -> go.Figure:
    """What each measured recipe was expected to lose against what it lost; on the line a prediction held."""
    title = "Predicted against measured"
    known = sorted((p for p in points if p["expected"] > 0 and p["loss"] > 0), key=lambda p: p["expected"])
    if not known:
        return nothing_to_show(title, "Nothing was measured yet.")
    ends = [f(p[key] for p in known for key in ("expected", "loss")) for f in (min, max)]
    kind = axis_type(ends)
    x = [p["expected"] for p in known]
    traces = [
        _band(x, [p["low"] for p in known], [p["high"] for p in known]),
        go.Scatter(
            x=ends,
            y=ends,
            mode="lines",
            line={"dash": "dot", "width": 2, "color": BASELINE_COLOUR},
            hoverinfo="skip",
            name="As predicted",
        ),
        against([p for p in known if not p["run"]], "Measured by the profile", 2),
        against([p for p in known if p["run"]], "Measured by runs", 1),
    ]
    loss = f"{lowered(LOSS_TITLES[unit])} ({LOSS_UNITS[unit]})"
    ticks = log_ticks(ends) if kind == "log" else {"rangemode": "tozero"}
    return figure(
        [trace for trace in traces if len(trace.x)],
        title,
        height=360,
        xaxis=axis(f"Predicted {loss}", type=kind) | ticks,
        yaxis=axis(f"Measured {loss}", type=kind) | ticks,
    )


def against(points: Sequence[Point], name: str, look: int) -> go.Scatter:
    return go.Scatter(
        x=[p["expected"] for p in points],
        y=[p["loss"] for p in points],
        mode="markers",
        marker={"size": 10, "color": COLOURS[look], "symbol": SYMBOLS[look], "line": {"width": 1, "color": "#FFFFFF"}},
        name=name,
        cliponaxis=False,
        customdata=[
            [
                short(p["name"], 48),
                byte_text(p["size_bytes"]),
                f"{significant(p['low'])} to {significant(p['high'])}",
            ]
            for p in points
        ],
        hovertemplate="<b>%{customdata[0]}</b>, %{customdata[1]}<br>Predicted: %{x:.3g} (80 %: %{customdata[2]})"
        "<br>Measured: %{y:.3g}<extra></extra>",
    )


def _band(x: Sequence[float], low: Sequence[float], high: Sequence[float], floor: float = 0.0) -> go.Scatter:
    """The 80 % interval along x, cut at a floor that a logarithmic axis can show."""
    return go.Scatter(
        x=[*x, *x[::-1]],
        y=[*high, *(max(end, floor) for end in low[::-1])],
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=BAND,
        hoverinfo="skip",
        name="80 % interval",
        meta="band",
    )

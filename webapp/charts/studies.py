"""The runs of a study: the size of each file against what was measured, and what was expected of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from webapp.units import byte_text

from .drawing import (
    BASELINE_COLOUR,
    COLOURS,
    axis,
    axis_type,
    byte_axis,
    figure,
    log_ticks,
    nothing_to_show,
    short,
    whole,
)

TITLES = {  # of a quantity, by its unit
    "points": "Points lost",
    "nats": "KL divergence (nats)",
    "cosine distance": "Cosine distance",
    "squared error": "Squared error",
}
Row = Mapping[str, Any]  # {"name", "size_bytes", "measured", "expected_bytes", "expected", "wins"}


def study_runs(rows: Sequence[Row], unit: str, tolerance: float | None = None) -> go.Figure:
    """Measured with its 95 % interval, expected with its 80 % interval; `tolerance` is a line across."""
    title = f"Size against {TITLES.get(unit, 'loss').lower() if unit != 'nats' else TITLES[unit]}"
    done = [row for row in rows if row["measured"] and row["measured"]["value"] is not None]
    hoped = [row for row in rows if row["expected"]]
    if not done and not hoped:
        return nothing_to_show(title, "Nothing is known of its runs yet.")
    sizes = [row["size_bytes"] or row["expected_bytes"] for row in (*done, *hoped)]
    divisor, name = byte_axis(sizes)
    place = divisor, (min(sizes) + max(sizes)) / 2 / divisor
    traces = []
    if hoped:
        traces.append(_points(hoped, "expected", "expected_bytes", *place, "Expected, 80 % interval", BASELINE_COLOUR))
    for chosen, label, colour in ((False, "Measured, 95 % interval", COLOURS[0]), (True, "The answer", COLOURS[2])):
        if own := [row for row in done if bool(row["wins"]) == chosen]:
            traces.append(_points(own, "measured", "size_bytes", *place, label, colour))
    values = [row["measured"]["value"] for row in done] + [row["expected"]["value"] for row in hoped]
    up = axis(TITLES.get(unit, "Loss"), type=axis_type(values))
    up |= log_ticks(values) if up["type"] == "log" else {}
    lines = [] if tolerance is None else [_line(tolerance, up["type"])]
    return figure(traces, title, height=420, xaxis=axis(f"File size ({name})"), yaxis=up, **_marked(lines))


def _points(
    rows: Sequence[Row], what: str, size: str, divisor: float, middle: float, label: str, colour: str
) -> go.Scatter:
    """`middle` of the x axis: beyond it names stand on the left, where there is room for them."""

    def end(row: Row, side: str) -> float:
        value, other = row[what]["value"], row[what].get(side)
        return 0.0 if other is None else abs(other - value)

    measured, x = what == "measured", [row[size] / divisor for row in rows]
    return go.Scatter(
        x=x,
        y=[row[what]["value"] for row in rows],
        mode="markers+text" if measured else "markers",
        text=[short(row["name"]) for row in rows],
        textposition=["middle left" if at > middle else "middle right" for at in x],
        textfont={"size": 11},
        cliponaxis=False,
        name=label,
        marker={"size": 11, "color": colour, "symbol": "circle" if measured else "circle-open", "line": {"width": 1.5}},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [end(row, "high") for row in rows],
            "arrayminus": [end(row, "low") for row in rows],
            "thickness": 1.2,
            "width": 4,
            "color": colour,
        },
        customdata=[[whole(row["name"]), byte_text(row[size])] for row in rows],
        hovertemplate=f"<b>%{{customdata[0]}}</b><br>{label}: %{{y:.4g}}<br>File: %{{customdata[1]}}<extra></extra>",
    )


def _line(tolerance: float, kind: str) -> dict[str, Any] | None:
    if kind == "log" and tolerance <= 0:
        return None
    ends = {"x0": 0, "x1": 1, "xref": "paper", "y0": tolerance, "y1": tolerance}
    return {"type": "line", **ends, "line": {"dash": "dash", "width": 1.5, "color": COLOURS[1]}, "name": "Tolerance"}


def _marked(lines: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    shapes = [line for line in lines if line]
    return {"shapes": shapes} if shapes else {}

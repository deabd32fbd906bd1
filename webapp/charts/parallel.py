"""Parallel coordinates: settings and results as axes beside each other, each run a line across them.

Drawn as lines of a plain chart: Plotly's own kind needs WebGL, which not every browser has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from .drawing import figure, nothing_to_show, short, whole

TITLE = "Settings and results"
PARALLEL_RUNS = 150  # that a chart has room for; who calls leaves the others out
# Viridis from a quarter to nine tenths, which is seen on light and on dark paper; many runs are few traces
SCALE = (
    "rgb(59, 81, 138)",
    "rgb(50, 101, 142)",
    "rgb(43, 118, 142)",
    "rgb(37, 136, 141)",
    "rgb(32, 154, 138)",
    "rgb(42, 171, 129)",
    "rgb(62, 186, 116)",
    "rgb(99, 201, 95)",
    "rgb(142, 213, 68)",
    "rgb(188, 223, 42)",
)
SHADES = len(SCALE)
TICKS = 6  # at most, on one axis of numbers
APART = 0.07  # of its length, between two of them


@dataclass(frozen=True)
class Dimension:
    """One axis: a value for each run, a number or a word; None where a run has none."""

    title: str
    values: Sequence[float | str | bool | None]


@dataclass(frozen=True)
class _Scale:
    title: str
    places: Sequence[float | None]  # of each run's value, 0 at the bottom and 1 at the top
    words: Sequence[str]  # the value of each run
    ticks: Sequence[tuple[float, str]]


def parallel_coordinates(names: Sequence[str], dimensions: Sequence[Dimension], colour: Dimension) -> go.Figure:
    """One line for each run that has a value of `colour`, which is a number; `names` of the runs."""
    kept = [at for at, value in enumerate(colour.values) if _is_number(value)]
    if len(kept) < 2:
        return nothing_to_show(TITLE, "Two runs with a result are needed to draw them side by side.")
    axes = [axis for one in (*dimensions, colour) if (axis := _axis(one, kept)) is not None]
    if not axes:
        return nothing_to_show(TITLE, "All of the runs have the same settings and results.")
    values = [float(colour.values[at]) for at in kept]  # type: ignore[arg-type]
    low, high = min(values), max(values)
    shades = [round((value - low) / (high - low) * (SHADES - 1)) if high > low else SHADES // 2 for value in values]
    traces = [
        _lines([row for row, shade in enumerate(shades) if shade == each], axes, [names[at] for at in kept], each)
        for each in sorted(set(shades))
    ]
    traces.append(_key(colour.title, low, high))
    across = {
        "tickvals": list(range(len(axes))),
        "ticktext": [short(axis.title, 22) for axis in axes],
        "side": "top",
        "range": [-0.15, len(axes) - 0.6],
        "fixedrange": True,
        "automargin": True,
    }
    up = {"visible": False, "range": [-0.06, 1.06], "fixedrange": True}
    notes = [_tick(number, place, word) for number, axis in enumerate(axes) for place, word in axis.ticks]
    drawn = figure(traces, TITLE, height=420, xaxis=across, yaxis=up, annotations=notes)
    drawn.update_layout(showlegend=False, hovermode="closest")
    return drawn


def _lines(rows: Sequence[int], axes: Sequence[_Scale], names: Sequence[str], shade: int) -> go.Scatter:
    """Those of one colour, as one trace with gaps between its lines."""

    x: list[float | None] = []
    y: list[float | None] = []
    told: list[list[str]] = []
    for row in rows:
        for number, axis in enumerate(axes):
            x.append(number)
            y.append(axis.places[row])
            told.append([whole(names[row]), whole(axis.title), whole(axis.words[row])])
        x.append(None)
        y.append(None)
        told.append(["", "", ""])
    colour = SCALE[shade]
    return go.Scatter(
        x=x,
        y=y,
        mode="lines+markers",
        line={"color": colour, "width": 2},
        marker={"color": colour, "size": 7, "line": {"width": 0}},
        connectgaps=False,
        customdata=told,
        hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}: %{customdata[2]}<extra></extra>",
    )


def _key(title: str, low: float, high: float) -> go.Scatter:
    """The scale of colours, beside no point."""
    bar = {"title": {"text": short(title, 24), "side": "right"}, "thickness": 12, "outlinewidth": 0}
    marker: dict[str, Any] = {"color": [low, high], "colorscale": SCALE, "showscale": True, "colorbar": bar}
    return go.Scatter(x=[None, None], y=[None, None], mode="markers", marker=marker, hoverinfo="skip")


def _tick(number: int, place: float, word: str) -> dict[str, Any]:
    shown = {
        "name": "tick",
        "text": short(word, 18),
        "font": {"size": 11},
        "showarrow": False,
        "xanchor": "left",
        "xshift": 8,
    }
    return {"x": number, "y": place, "yanchor": "bottom", **shown}


def _axis(dimension: Dimension, kept: Sequence[int]) -> _Scale | None:
    """None where all of the runs have the same, which says nothing."""
    values = [dimension.values[at] for at in kept]
    if len(set(values)) < 2:
        return None
    words = [_word(value) for value in values]
    if all(value is None or _is_number(value) for value in values):
        known = sorted({float(value) for value in values if value is not None})
        low, high = known[0], known[-1]
        places = [None if value is None else (value - low) / (high - low or 1.0) for value in values]
        marks = [((mark - low) / (high - low or 1.0), _word(mark)) for mark in known]
        return _Scale(dimension.title, places, words, _apart(marks) if len(known) <= TICKS else [marks[0], marks[-1]])
    order = list(dict.fromkeys(words))
    at = {word: place / (len(order) - 1) for place, word in enumerate(order)}
    return _Scale(dimension.title, [at[word] for word in words], words, [(at[word], word) for word in order])


def _apart(marks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Both ends, and those between that are far enough from their neighbours to be read."""
    found = [marks[0]]
    for mark in marks[1:-1]:
        if mark[0] - found[-1][0] >= APART and marks[-1][0] - mark[0] >= APART:
            found.append(mark)
    return [*found, marks[-1]]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _word(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:,.4g}" if isinstance(value, int | float) else str(value)

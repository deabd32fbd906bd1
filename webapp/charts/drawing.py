"""What all charts share: the palette, names that fit, the axis that suits a range, the chart with nothing to show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from webapp.units import significant

# Okabe and Ito's palette, told apart by people with any colour vision; its yellow and black are left out because one
# vanishes on white and the other on dark paper. Marker symbols differ too, so no chart relies on colour alone.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
BASELINE_COLOUR = "#8A8F98"
LEGEND_ABOVE = {"orientation": "h", "yanchor": "bottom", "y": 1, "xanchor": "right", "x": 1}
LOG_FROM = 20  # a range whose ends differ by more than this factor gets a logarithmic axis


def figure(traces: Iterable[Any], title: str, **layout: Any) -> go.Figure:
    """A figure with no template of its own: the page applies its theme."""
    settings: dict[str, Any] = {
        "template": {},
        "title": {"text": title, "x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 16}},
        "colorway": list(COLOURS),
        "margin": {"l": 64, "r": 24, "t": 56, "b": 56},
        "hoverlabel": {"align": "left", "namelength": -1},
        "legend": {"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0, "x": 0},
    }
    for axis in (layout.get("xaxis"), layout.get("yaxis")):
        if axis and "title" in axis:
            axis["title"]["standoff"] = 10  # pixels; without it the margin leaves no room for the title
    return go.Figure(data=list(traces), layout=settings | layout)


def nothing_to_show(title: str, sentence: str) -> go.Figure:
    """A chart of the same title that says in its middle why it is empty."""
    return figure(
        [],
        title,
        height=220,
        xaxis={"visible": False},
        yaxis={"visible": False},
        annotations=[
            {
                "text": whole(wrapped(sentence)).replace("\n", "<br>"),
                "showarrow": False,
                "xref": "paper",
                "yref": "paper",
                "x": 0.5,
                "y": 0.5,
                "font": {"size": 14},
            }
        ],
    )


def wrapped(sentence: str, width: int = 44) -> str:
    """Broken at spaces, so that it fits a telephone."""
    lines = [""]
    for word in sentence.split():
        if len(lines[-1]) + len(word) + 1 > width and lines[-1]:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return "\n".join(lines)


def whole(text: str) -> str:
    """The text as Plotly shows it unchanged: Plotly reads a little HTML, so a name with `<b>` has to be escaped."""
    return escape(text, quote=False)


def short(text: str, length: int = 28) -> str:
    """At most `length` characters, the middle left out, since names differ at their ends; then as `whole`."""
    if len(text) > length:
        head = (length - 1) // 2
        text = f"{text[:head]}…{text[-(length - 1 - head) :]}"
    return whole(text)


def label_of(run: Mapping[str, Any], length: int = 28) -> str:
    """The run's name for a tight place: without the checkpoint's, which many names begin with and share."""
    return short(run["name"].removeprefix(f"{run['checkpoint']['name']}: ") or run["name"], length)


def near(value: float) -> float:
    """With six digits, more than can be seen: a chart of many points is half digits."""
    return float(f"{value:.6g}")


def axis_type(values: Iterable[float | None], scale: str = "auto") -> str:
    """ "log" or "linear". A logarithmic axis needs positive values; without them it stays linear even when asked."""
    known = [v for v in values if v is not None]
    if not known or min(known) <= 0 or scale == "linear":
        return "linear"
    return "log" if scale == "log" or max(known) / min(known) > LOG_FROM else "linear"


def axis(title: str, **settings: Any) -> dict[str, Any]:
    """An axis with room for its labels."""
    return {"automargin": True, **settings} | ({"title": {"text": title}} if title else {})


def shares(title: str) -> dict[str, Any]:
    """An axis from 0 to 100 %."""
    return axis(title, tickformat=".0%", range=[0, 1])


def categories(title: str, keys: Sequence[str], labels: Sequence[str], **settings: Any) -> dict[str, Any]:
    """An axis by key, so that two of one label stay two."""
    return axis(title, type="category", tickvals=keys, ticktext=labels, **settings)


def rows_by(keys: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """Categories as rows, the first on top."""
    return categories("", keys, labels, categoryorder="array", categoryarray=keys, autorange="reversed")


def byte_axis(sizes: Iterable[float]) -> tuple[float, str]:
    """(bytes per unit, the unit as an axis' title says it) in which the largest of the sizes is easy to read."""
    largest = max(sizes, default=0)
    for divisor, unit in ((1e9, "GB, 10⁹ bytes"), (1e6, "MB, 10⁶ bytes"), (1e3, "kB, 10³ bytes")):
        if largest >= divisor / 2:
            return divisor, unit
    return 1.0, "bytes"


def log_ticks(values: Sequence[float]) -> dict[str, Any]:
    """Labels 1, 2, 5, 10, … where at most three decades are shown; beyond that powers of ten, 10⁻⁶ rather than 1µ."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    if high - low > 3:
        return {"exponentformat": "power", "dtick": math.ceil((high - low) / 8)}
    at = [step * 10.0**power for power in range(low, high + 1) for step in (1, 2, 5)]
    return {"tickvals": at, "ticktext": [significant(value, ",.6g") for value in at]}


def row_height(rows: int, each: int = 26, rest: int = 150, least: int = 260, most: int = 4000) -> int:
    """Pixels of a chart whose rows have to stay readable."""
    return max(least, min(most, rest + each * rows))

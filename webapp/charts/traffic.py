"""A served model's requests over time: how long they took, and how many were answered and not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

import plotly.graph_objects as go

from .drawing import (
    BASELINE_COLOUR,
    COLOURS,
    LEGEND_ABOVE,
    SYMBOLS,
    axis,
    axis_type,
    figure,
    log_ticks,
    nothing_to_show,
    shares,
    short,
    whole,
)

ENDS = {  # of a request: its title, its colour and the pattern of its bar
    "answered": ("Answered", COLOURS[0], ""),
    "refused": ("Refused: the request was wrong (4xx)", COLOURS[5], "/"),
    "failed": ("Failed (5xx)", COLOURS[1], "x"),
    "left": ("The client went away", BASELINE_COLOUR, "."),
}
TIME = "%{x|%H:%M} UTC"


class DrawnStep(Protocol):
    """Some minutes, from `at`; milliseconds are None where nothing was answered."""

    @property
    def at(self) -> datetime: ...
    @property
    def p50(self) -> float | None: ...
    @property
    def p95(self) -> float | None: ...
    @property
    def answered(self) -> int: ...


def latency_over_time(steps: Sequence[DrawnStep], step_minutes: int, since: datetime, until: datetime) -> go.Figure:
    """p50 and p95 of the requests answered in each step; the line is broken where a step had none."""
    title = "Latency"
    known = [step for step in steps if step.p50 is not None]
    if not known:
        return nothing_to_show(title, "No request was answered in this time.")
    traces = []
    told = "%{customdata:,} answered"
    for number, (share, name) in enumerate(
        (("p50", "p50: half of the requests"), ("p95", "p95: 95 % of the requests"))
    ):
        x: list[datetime] = []
        y: list[float | None] = []
        counts: list[int] = []
        for step in known:
            if x and step.at - x[-1] > timedelta(minutes=step_minutes):
                x.append(x[-1] + timedelta(minutes=step_minutes))
                y.append(None)
                counts.append(0)
            x.append(step.at)
            y.append(getattr(step, share))
            counts.append(step.answered)
        traces.append(
            go.Scatter(
                x=x,
                y=y,
                customdata=counts,
                mode="lines+markers",
                name=name,
                line={"color": COLOURS[number], "dash": ("solid", "dot")[number], "width": 2},
                marker={"symbol": SYMBOLS[number], "size": 7},
                hovertemplate=f"<b>{share}</b> from {TIME}<br>%{{y:.3g}} ms, {told}<extra></extra>",
            )
        )
    values = [value for step in known for value in (step.p50, step.p95) if value is not None]
    up = axis("Latency (ms)", type=axis_type(values))
    up |= log_ticks(values) if up["type"] == "log" else {"rangemode": "tozero"}
    return figure(traces, title, height=320, xaxis=_times(since, until), yaxis=up, legend=LEGEND_ABOVE)


def requests_over_time(steps: Sequence[DrawnStep], step_minutes: int, since: datetime, until: datetime) -> go.Figure:
    """Bars of the requests of each step, by how they ended."""
    title = "Requests"
    if not steps:
        return nothing_to_show(title, "No request came in this time.")
    traces = []
    for name, (told, colour, pattern) in ENDS.items():
        counts = [getattr(step, name) for step in steps]
        if name != "answered" and not any(counts):
            continue
        traces.append(
            go.Bar(
                x=[step.at for step in steps],
                y=counts,
                name=told,
                width=60_000 * step_minutes * 0.9,
                offset=0,
                marker={"color": colour, "pattern": {"shape": pattern}},
                hovertemplate=f"<b>{told}</b><br>from {TIME}, {step_minutes} min<br>%{{y:,}} requests<extra></extra>",
            )
        )
    up: dict[str, Any] = axis(f"Requests in {step_minutes} min", rangemode="tozero", tickformat=",d")
    along = _times(since, until)
    return figure(
        traces, title, height=280, barmode="stack", xaxis=along, yaxis=up, showlegend=True, legend=LEGEND_ABOVE
    )


def latency_shares(sides: Mapping[str, Sequence[tuple[float, float]]]) -> go.Figure:
    """Of each model the share of its answers that came within a time, from (milliseconds, share) that rise."""
    title = "Latency of the replayed requests"
    known = {name: points for name, points in sides.items() if points}
    if not known:
        return nothing_to_show(title, "No request was answered.")
    traces = []
    for number, (name, points) in enumerate(known.items()):
        traces.append(
            go.Scatter(
                x=[points[0][0], *(x for x, _ in points)],
                y=[0.0, *(share for _, share in points)],
                mode="lines",
                name=short(name),
                line={"color": COLOURS[number], "dash": ("solid", "dot")[number % 2], "width": 2, "shape": "hv"},
                hovertemplate=f"<b>{whole(name)}</b><br>%{{y:.1%}} within %{{x:.3g}} ms<extra></extra>",
            )
        )
    values = [x for points in known.values() for x, _ in points]
    along = axis("Latency in the model's process (ms)", type=axis_type(values))
    along |= log_ticks(values) if along["type"] == "log" else {"rangemode": "tozero"}
    up = shares("Share of the answers")
    return figure(traces, title, height=320, xaxis=along, yaxis=up, showlegend=True, legend=LEGEND_ABOVE)


def _times(since: datetime, until: datetime) -> dict[str, Any]:
    minutes = 10 if until - since < timedelta(hours=2) else 240
    return axis("Time (UTC)", type="date", tickformat="%H:%M", range=[since, until], dtick=60_000 * minutes)

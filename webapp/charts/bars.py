"""Bars per run: the file's size beside the original's, and the share of zeros."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from webapp.units import byte_text, percent

from .drawing import (
    BASELINE_COLOUR,
    COLOURS,
    LEGEND_ABOVE,
    axis,
    axis_type,
    byte_axis,
    figure,
    label_of,
    nothing_to_show,
    row_height,
    rows_by,
    shares,
    short,
    whole,
)
from .points import reading

Run = Mapping[str, Any]
LONG_LIST = 40  # runs; beyond it bars carry no text


def size_bars(runs: Sequence[Run]) -> go.Figure:
    """One bar per original, then one per run, in the order given."""
    title = "File size"
    done = [run for run in runs if run.get("result")]
    if not done:
        return nothing_to_show(title, "None of these runs has finished, so there is no size to draw yet.")
    originals: dict[str, Run] = {}
    for run in done:
        if run.get("baseline"):
            originals.setdefault(run["checkpoint"]["id"], run)
    sizes = [run["baseline"]["size_bytes"] for run in originals.values()] + [
        run["result"]["size_bytes"] for run in done
    ]
    kind = axis_type(sizes)
    divisor, unit = byte_axis(sizes)
    traces = []
    if originals:
        traces.append(
            bars(
                [f"original {key}" for key in originals],
                [run["baseline"]["size_bytes"] for run in originals.values()],
                [f"{run['checkpoint']['name']} (original)" for run in originals.values()],
                [""] * len(originals),
                "Original",
                BASELINE_COLOUR,
                len(done),
                divisor,
            )
        )
    against = [
        f" ({percent(run['result']['size_bytes'] / run['baseline']['size_bytes'])} of the original)"
        if run.get("baseline") and run["baseline"]["size_bytes"]
        else ""
        for run in done
    ]
    traces.append(
        bars(
            [run["id"] for run in done],
            [run["result"]["size_bytes"] for run in done],
            [run["name"] for run in done],
            against,
            "Compressed",
            COLOURS[0],
            len(done),
            divisor,
        )
    )
    keys = [f"original {key}" for key in originals] + [run["id"] for run in done]
    labels = [label_of(run) for run in done]
    return figure(
        traces,
        title,
        height=row_height(len(keys)),
        barmode="overlay",
        xaxis=axis(f"File size ({unit})" + (", logarithmic" if kind == "log" else ""), type=kind),
        yaxis=rows_by(keys, [short(f"{run['checkpoint']['name']} (original)") for run in originals.values()] + labels),
        legend=LEGEND_ABOVE,
    )


def bars(
    keys: list[str],
    sizes: list[int],
    names: list[str],
    against: list[str],
    legend: str,
    colour: str,
    runs: int,
    divisor: float,
) -> go.Bar:
    return go.Bar(
        orientation="h",
        y=keys,
        x=[size / divisor for size in sizes],
        name=legend,
        marker={"color": colour},
        text=[byte_text(size) for size in sizes] if runs <= LONG_LIST else None,
        textposition="auto",
        customdata=[[whole(n), byte_text(s), f"{s:,}", a] for n, s, a in zip(names, sizes, against, strict=True)],
        hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}%{customdata[3]}<br>%{customdata[2]} bytes"
        "<extra></extra>",
    )


def time_ratios(runs: Sequence[Run]) -> go.Figure:
    """Latency as a ratio to the original's in the same runtime, with its 95 % interval; left of the line is faster."""
    title = "Time, ratio to the original"
    timed = [(run, found) for run in runs if (found := reading(run, "result", "time_ratio")) is not None]
    if not timed:
        return nothing_to_show(title, "None of these runs was timed beside its original.")
    values = [found.value for _, found in timed]
    told = []
    for run, found in timed:
        ends = "" if found.low is None or found.high is None else f" (95 % CI: {found.low:.3f} to {found.high:.3f})"
        disturbed = run["result"]["speed"].get("disturbed")
        told.append(
            f"<b>{whole(run['name'])}</b><br>{found.value:.3f} of the original's time{ends}"
            + (f"<br>disturbed: {whole(str(disturbed))}" if disturbed else "")
        )
    points = go.Scatter(
        x=values,
        y=[run["id"] for run, _ in timed],
        mode="markers",
        marker={
            "size": 10,
            "color": COLOURS[0],
            "symbol": ["circle-open" if run["result"]["speed"].get("disturbed") else "circle" for run, _ in timed],
        },
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [0 if found.high is None else found.high - found.value for _, found in timed],
            "arrayminus": [0 if found.low is None else found.value - found.low for _, found in timed],
            "thickness": 1.5,
            "width": 4,
            "color": COLOURS[0],
        },
        hovertext=told,
        hovertemplate="%{hovertext}<extra></extra>",
    )
    kind = axis_type([*values, 1.0])
    line = {"type": "line", "x0": 1, "x1": 1, "y0": 0, "y1": 1, "yref": "paper"}
    return figure(
        [points],
        title,
        height=row_height(len(timed)),
        xaxis=axis("Time, ratio to the original (less is faster)", type=kind, rangemode="tozero"),
        yaxis=rows_by([run["id"] for run, _ in timed], [label_of(run) for run, _ in timed]),
        shapes=[line | {"line": {"dash": "dash", "width": 1.5, "color": BASELINE_COLOUR}}],
        showlegend=False,
    )


def sparsity_bars(runs: Sequence[Run]) -> go.Figure:
    """Zeros over all parameters, and over those that pruning may touch where the run knows it."""
    title = "Sparsity"
    done = [run for run in runs if run.get("result")]
    if not done:
        return nothing_to_show(title, "None of these runs has finished, so there is no sparsity to draw yet.")
    keys, names = [run["id"] for run in done], [run["name"] for run in done]
    traces = [
        share_bars(keys, names, [run["result"]["sparsity"] for run in done], "Of all parameters", COLOURS[0], len(done))
    ]
    if any(run.get("prunable_sparsity") is not None for run in done):
        prunable = [run.get("prunable_sparsity") for run in done]
        traces.append(share_bars(keys, names, prunable, "Of prunable parameters", COLOURS[5], len(done)))
    return figure(
        traces,
        title,
        height=row_height(len(keys), each=26 * len(traces)),
        barmode="group",
        xaxis=shares("Zeros (% of parameters)"),
        yaxis=rows_by(keys, [label_of(run) for run in done]),
        legend=LEGEND_ABOVE | {"traceorder": "normal"},
    )


def share_bars(
    keys: list[str], names: list[str], found: Sequence[float | None], legend: str, colour: str, runs: int
) -> go.Bar:
    return go.Bar(
        orientation="h",
        y=keys,
        x=list(found),
        name=legend,
        marker={"color": colour},
        text=["" if s is None else percent(s) for s in found] if runs <= LONG_LIST else None,
        textposition="auto",
        customdata=[whole(n) for n in names],
        hovertemplate=f"<b>%{{customdata}}</b><br>%{{x:.2%}} zeros {legend.lower()}<extra></extra>",
    )

"""Sparsity per layer: grouped bars while they can be read, a heat map beyond that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from webapp.units import byte_text, percent

from .drawing import (
    COLOURS,
    LEGEND_ABOVE,
    categories,
    figure,
    label_of,
    nothing_to_show,
    row_height,
    shares,
    short,
    whole,
)

Run = Mapping[str, Any]
FEW_LAYERS, FEW_RUNS = 12, 4
TITLE = "Sparsity per layer"


def per_layer_sparsity(runs: Sequence[Run]) -> go.Figure:
    """Layers in the order of the model; a layer that a run does not have stays empty."""
    done = [run for run in runs if (run.get("result") or {}).get("layers")]
    if not done:
        return nothing_to_show(TITLE, "None of these runs has measured layers yet.")
    layers = list(dict.fromkeys(layer["name"] for run in done for layer in run["result"]["layers"]))
    found = [{layer["name"]: layer for layer in run["result"]["layers"]} for run in done]
    if len(layers) <= FEW_LAYERS and len(done) <= FEW_RUNS:
        return grouped(done, layers, found)
    return heatmap(done, layers, found)


def grouped(runs: list[Run], layers: list[str], found: list[dict[str, Any]]) -> go.Figure:
    traces = [
        go.Bar(
            x=layers,
            y=[of[name]["sparsity"] if name in of else None for name in layers],
            name=label_of(run, 40),
            marker={"color": COLOURS[number % len(COLOURS)]},
            customdata=[described(run, name, of) for name in layers],
            hovertemplate="%{customdata}<extra></extra>",
        )
        for number, (run, of) in enumerate(zip(runs, found, strict=True))
    ]
    return figure(
        traces,
        TITLE,
        height=420,
        barmode="group",
        xaxis=categories("Layer", layers, [short(name, 24) for name in layers]),
        yaxis=shares("Zeros (% of the layer's weights)"),
        legend=LEGEND_ABOVE,
        showlegend=True,
    )


def heatmap(runs: list[Run], layers: list[str], found: list[dict[str, Any]]) -> go.Figure:
    keys = [run["id"] for run in runs]
    trace = go.Heatmap(
        x=keys,
        y=layers,
        z=[[of[name]["sparsity"] if name in of else None for of in found] for name in layers],
        customdata=[[described(run, name, of) for run, of in zip(runs, found, strict=True)] for name in layers],
        hovertemplate="%{customdata}<extra></extra>",
        hoverongaps=False,
        colorscale="Cividis",
        zmin=0,
        zmax=1,
        xgap=1,
        ygap=1,
        colorbar={"title": {"text": "Zeros"}, "tickformat": ".0%", "thickness": 12},
    )
    height = row_height(len(layers), each=16, rest=220, most=1600)
    every = -(-len(layers) * 14 // (height - 220)) if height > 220 else 1  # as many labels as have room
    return figure(
        [trace],
        TITLE,
        height=height,
        xaxis=categories("Run", keys, [label_of(run, 24) for run in runs]),
        yaxis=categories("Layer", layers[::every], [short(name, 30) for name in layers[::every]], autorange="reversed"),
    )


def described(run: Run, name: str, of: Mapping[str, Any]) -> str:
    if name not in of:
        return f"<b>{whole(name)}</b><br>{whole(run['name'])}<br>has no such layer"
    layer = of[name]
    return (
        f"<b>{whole(name)}</b><br>{whole(run['name'])}<br>{percent(layer['sparsity'], 2)} zeros<br>"
        f"{whole(str(layer.get('storage', '')))}, {byte_text(layer.get('stored_bytes', 0))}, "
        f"{layer.get('bits_per_weight', 0):.2f} bits per weight"
    )

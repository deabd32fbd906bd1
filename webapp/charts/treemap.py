"""Where a checkpoint's bytes are, by module path."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from webapp.units import byte_text, percent

from .drawing import COLOURS, figure, nothing_to_show, whole

DTYPE_BYTES = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2}
MANY_TENSORS = 150  # above it the map opens three levels deep; a click goes deeper


def weights_treemap(facts: Mapping[str, Any], name: str = "checkpoint") -> go.Figure:
    """`facts` is a dumped CheckpointFacts: {"tensors": [{"name", "shape", "dtype"}], ...}. Area is bytes."""
    title = "Where the bytes are"
    tensors = [t | {"bytes": tensor_bytes(t)} for t in facts["tensors"]]
    total = sum(t["bytes"] for t in tensors)
    if not total:
        return nothing_to_show(title, "This checkpoint has no bytes in its tensors.")
    sums: dict[str, int] = {}
    inside: dict[str, int] = {}
    for tensor in tensors:
        parts = tensor["name"].split(".")
        for depth in range(1, len(parts)):
            path = ".".join(parts[:depth]) + "."
            sums[path] = sums.get(path, 0) + tensor["bytes"]
            inside[path] = inside.get(path, 0) + 1

    ids, labels, parents, values = ["/"], [whole(name)], [""], [total]
    shown = [[whole(name), f"{len(tensors)} tensors"]]
    for path, size in sums.items():
        if not size:
            continue
        ids.append(path)
        labels.append(whole(path[:-1].rsplit(".", 1)[-1]))
        parents.append(parent_of(path[:-1]))
        values.append(size)
        shown.append([whole(path[:-1]), f"{inside[path]} tensors"])
    for tensor in tensors:
        if not tensor["bytes"]:
            continue
        ids.append("=" + tensor["name"])
        labels.append(whole(tensor["name"].rsplit(".", 1)[-1]))
        parents.append(parent_of(tensor["name"]))
        values.append(tensor["bytes"])
        shown.append([whole(tensor["name"]), f"{shape_text(tensor['shape'])} {form(tensor)}"])
    customdata = [[*row, byte_text(size), percent(size / total, 2)] for row, size in zip(shown, values, strict=True)]
    trace = go.Treemap(
        ids=ids,
        labels=labels,
        parents=parents,
        values=values,
        branchvalues="total",
        customdata=customdata,
        texttemplate="%{label}<br>%{customdata[2]}",
        hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{customdata[2]}, %{customdata[3]} of all bytes"
        "<extra></extra>",
        maxdepth=4 if len(tensors) > MANY_TENSORS else -1,
        tiling={"pad": 2},
        root={"color": "rgba(128,128,128,0.15)"},
    )
    return figure([trace], title, height=460, margin={"l": 8, "r": 8, "t": 48, "b": 8}, treemapcolorway=list(COLOURS))


def parent_of(path: str) -> str:
    return path.rsplit(".", 1)[0] + "." if "." in path else "/"


def tensor_bytes(tensor: Mapping[str, Any]) -> int:
    """Of blocks of llama.cpp's, and of a stored form of Pare's, what these take."""
    if tensor.get("stored") or tensor.get("block_type"):
        return int(tensor["stored"]["bytes"] if tensor.get("stored") else tensor["block_bytes"])
    return math.prod(tensor["shape"]) * DTYPE_BYTES.get(tensor["dtype"], 1)


def form(tensor: Mapping[str, Any]) -> str:
    """How it is stored."""
    stored = tensor.get("stored")
    return str(stored["label"] if stored else tensor.get("block_type") or tensor["dtype"])


def shape_text(shape: list[int] | tuple[int, ...]) -> str:
    return " × ".join(str(side) for side in shape) or "scalar"

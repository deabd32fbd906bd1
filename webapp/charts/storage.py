"""What the bytes of a compressed file are: by the form in which its tensors are stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from webapp.units import byte_text, percent

from .drawing import COLOURS, axis, byte_axis, figure, nothing_to_show, row_height, rows_by, short, whole


def bytes_by_storage(receipt: Mapping[str, Any]) -> go.Figure:
    """`receipt["bytes"]` has `total` and `tensors`: [{"storage", "bytes"}]. The bars add up to `total`."""
    title = "Bytes of the compressed file"
    account = receipt["bytes"]
    total = account["total"]
    if not total:
        return nothing_to_show(title, "The file has no bytes.")
    sums: dict[str, int] = {}
    count: dict[str, int] = {}
    for tensor in account["tensors"]:
        form = tensor["storage"]
        sums[form] = sums.get(form, 0) + tensor["bytes"]
        count[form] = count.get(form, 0) + 1
    rest = total - sum(sums.values())
    if rest:
        sums["header and manifest"] = rest
    forms = sorted(sums, key=lambda form: -sums[form])
    divisor, unit = byte_axis(sums.values())
    trace = go.Bar(
        orientation="h",
        y=forms,
        x=[sums[form] / divisor for form in forms],
        marker={"color": COLOURS[0]},
        text=[f"{byte_text(sums[form])}, {percent(sums[form] / total)}" for form in forms],
        textposition="auto",
        customdata=[
            [whole(form), f"{sums[form]:,}", f"{count[form]} tensors" if form in count else "no tensor"]
            for form in forms
        ],
        hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]} bytes, %{customdata[2]}<extra></extra>",
    )
    return figure(
        [trace],
        title,
        height=row_height(len(forms), each=34),
        xaxis=axis(f"Bytes in the file ({unit})"),
        yaxis=rows_by(forms, [short(form, 30) for form in forms]),
    )

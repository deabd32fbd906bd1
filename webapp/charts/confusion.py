"""Which class is taken for which: a heat map."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from .drawing import categories, figure, nothing_to_show, row_height, short, whole


def confusion_matrix(
    matrix: Sequence[Sequence[int]], names: Sequence[str], rows_are: str, columns_are: str, title: str
) -> go.Figure:
    """`matrix[i][j]` samples of class i were taken for class j; the colour of a cell is its share of the row."""
    if not matrix:
        return nothing_to_show(title, "No sample is of a class.")
    keys = [str(number) for number in range(len(names))]
    shares = [[count / max(sum(row), 1) for count in row] for row in matrix]
    told = [
        [
            f"{rows_are} <b>{whole(names[i])}</b><br>{columns_are} <b>{whole(names[j])}</b><br>"
            f"{count:,} of {sum(row):,}"
            for j, count in enumerate(row)
        ]
        for i, row in enumerate(matrix)
    ]
    few = len(names) <= 12
    trace = go.Heatmap(
        x=keys,
        y=keys,
        z=shares,
        text=[[f"{count:,}" if count else "" for count in row] for row in matrix] if few else None,
        texttemplate="%{text}" if few else None,
        customdata=told,
        hovertemplate="%{customdata}<extra></extra>",
        colorscale="Cividis",
        zmin=0,
        zmax=1,
        xgap=1,
        ygap=1,
        colorbar={"title": {"text": "Share of the row", "side": "right"}, "tickformat": ".0%", "thickness": 12},
    )
    labels = [short(name, 16) for name in names]
    return figure(
        [trace],
        title,
        height=row_height(len(names), each=20, rest=170, most=1100),
        xaxis=categories(columns_are, keys, labels),
        yaxis=categories(rows_are, keys, labels, autorange="reversed"),
    )

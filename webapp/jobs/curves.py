"""The curves of a stage as its row keeps them: at most so many points of each, however long the work goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .child import CurvePoint

MOST = 500  # points of a series


def grown(curves: Mapping[str, Any], points: Iterable[CurvePoint]) -> dict[str, Any]:
    """{series: {"x": [...], "values": {name: [...]}}} with these points at the end.

    What lies at a point or beyond it is replaced: the work was begun again from there. A series of more than MOST
    points loses every second one. A value that a point does not have is None.
    """
    found = {name: _rows(curve) for name, curve in curves.items()}
    for series, x, values in points:
        kept = [row for row in found.get(series, []) if row[0] < x]
        kept.append((x, values))
        found[series] = kept[::2] if len(kept) > MOST else kept
    return {name: _columns(rows) for name, rows in found.items()}


def _rows(curve: Mapping[str, Any]) -> list[tuple[float, dict[str, float]]]:
    names = list(curve["values"])
    each = zip(*curve["values"].values(), strict=True)
    return [
        (x, {name: value for name, value in zip(names, values, strict=True) if value is not None})
        for x, values in zip(curve["x"], each, strict=True)
    ]


def _columns(rows: list[tuple[float, dict[str, float]]]) -> dict[str, Any]:
    names = list(dict.fromkeys(name for _, values in rows for name in values))
    columns = {name: [values.get(name) for _, values in rows] for name in names}
    return {"x": [x for x, _ in rows], "values": columns}

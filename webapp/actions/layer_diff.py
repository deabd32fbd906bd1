"""What differs between the layers of a few runs: bits, zeros, rank, bytes, and what each is expected and measured to
cost, side by side."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_LAYERS = 300  # in one table; the order and the sorting say which
FIGURES = {  # of a layer: how the table calls them
    "bits": "Bits per weight",
    "sparsity": "Sparsity",
    "rank": "Rank",
    "shape": "Shape",
    "bytes": "Stored",
    "storage": "Stored as",
    "expected": "Expected loss",
    "measured": "Measured loss",
}
SORT = re.compile(rf"(?:(?P<figure>{'|'.join(FIGURES)})\.)?(?P<run>[1-9]\d{{0,2}})")  # "bits.2", "2": sparsity of run 2
RANK = re.compile(r"rank (\d+)")


@dataclass(frozen=True)
class LayerRow:
    """`values`: by figure, of each run; None where it has no such layer, or the figure is not known."""

    name: str
    values: Mapping[str, list[Any]]

    @property
    def differs(self) -> bool:
        return any(_differ(values) for values in self.values.values())


@dataclass(frozen=True)
class LayerDiff:
    """`figures` are those in which some of the rows differ (all, where all layers are asked); `total` of all layers."""

    rows: list[LayerRow]
    figures: list[str]
    total: int
    differing: int
    units: Mapping[str, str]  # of "expected" and "measured"
    left_out: int  # layers that belong into the table, and are too many


def layer_diff(runs: Sequence[Mapping[str, Any]], sort: str, descending: bool, everything: bool) -> LayerDiff:
    """`runs` as a comparison is fed them. Layers that are the same in all are left out unless `everything` is asked."""
    found = [{layer["name"]: layer for layer in (run["result"] or {}).get("layers") or ()} for run in runs]
    names = dict.fromkeys(name for of in found for name in of)
    table = [LayerRow(name, _values(name, runs, found)) for name in names]
    differing = [row for row in table if row.differs]
    wanted = table if everything or len(runs) < 2 else differing
    known = [
        figure
        for figure in FIGURES
        if any(
            _differ(row.values[figure]) or (wanted is table and any(v is not None for v in row.values[figure]))
            for row in wanted
        )
    ]
    units = {
        kind: next((unit for run in runs if (unit := (run.get("losses") or {}).get(f"{kind}_unit"))), "")
        for kind in ("expected", "measured")
    }
    wanted = _sorted(wanted, sort, descending, len(runs))
    return LayerDiff(wanted[:MOST_LAYERS], known, len(table), len(differing), units, max(0, len(wanted) - MOST_LAYERS))


def _differ(values: Sequence[Any]) -> bool:
    return len({None if value is None else str(value) for value in values}) > 1


def _values(
    name: str, runs: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Mapping[str, Any]]]
) -> dict[str, list[Any]]:
    layers = [of.get(name) or {} for of in found]
    losses = [((run.get("losses") or {}).get("layers") or {}).get(name) or {} for run in runs]
    ranks = [RANK.search(layer.get("storage") or "") for layer in layers]
    return {
        "bits": [layer.get("bits_per_weight") for layer in layers],
        "sparsity": [layer.get("sparsity") for layer in layers],
        "rank": [int(rank[1]) if rank else None for rank in ranks],
        "shape": [" × ".join(map(str, layer["shape"])) if layer.get("shape") else None for layer in layers],
        "bytes": [layer.get("stored_bytes") for layer in layers],
        "storage": [layer.get("storage") for layer in layers],
        "expected": [loss.get("expected") for loss in losses],
        "measured": [loss.get("measured") for loss in losses],
    }


def _sorted(rows: list[LayerRow], sort: str, descending: bool, runs: int) -> list[LayerRow]:
    """What has no value comes last either way."""
    if sort == "layer":
        return sorted(rows, key=lambda row: row.name, reverse=descending)
    match = SORT.fullmatch(sort)
    if match is None or int(match["run"]) > runs:
        return rows
    figure, at = match["figure"] or "sparsity", int(match["run"]) - 1
    known = [row for row in rows if row.values[figure][at] is not None]
    known.sort(key=lambda row: row.values[figure][at], reverse=descending)
    return known + [row for row in rows if row.values[figure][at] is None]

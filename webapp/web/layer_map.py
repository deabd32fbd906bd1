"""The layers of a model as a map: blocks as rows, the matrices that repeat in them as columns; found in their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_FILLED = 0.25  # share of the places; below it the layers are a list


@dataclass(frozen=True)
class MapRow:
    """A block, with the place of a layer (or None) for each column; or a layer of no block, which is one wide place."""

    name: str
    short: str
    places: tuple[int | None, ...]
    block: bool


@dataclass(frozen=True)
class LayerMap:
    """`places` number the names that were given. Without columns every row is one layer."""

    columns: tuple[str, ...]  # short, each another
    rows: tuple[MapRow, ...]


def layer_map(names: Sequence[str]) -> LayerMap:
    """Rows and columns in the order of the names: "h.0.mlp.up" is the column "up" of the row "h.0"."""
    splits = {name: list(blocks(name)) for name in names}
    places = {name: max(found, key=lambda split: len(split[0])) for name, found in settled(splits).items() if found}
    columns = list(dict.fromkeys(column for _, column in places.values()))
    rows: dict[tuple[str, bool], dict[str, int]] = {}
    for number, name in enumerate(names):
        block, column = places.get(name, (name, ""))
        rows.setdefault((block, name in places), {})[column] = number
    blocks_found = sum(block for _, block in rows)
    if blocks_found < 2 or len(places) < LEAST_FILLED * blocks_found * len(columns):
        return LayerMap((), tuple(MapRow(name, name, (number,), False) for number, name in enumerate(names)))
    lone = [row for row, block in rows if not block]
    short = dict(zip(lone, shortened(lone), strict=True)) | without_prefix([row for row, block in rows if block])
    return LayerMap(
        tuple(shortened(columns)),
        tuple(
            MapRow(row, short[row], tuple(held.get(column) for column in columns) if block else (held[""],), block)
            for (row, block), held in rows.items()
        ),
    )


def blocks(name: str) -> list[tuple[str, str]]:
    """The ways to read a name as (block, matrix in it): after each number that something follows."""
    parts = name.split(".")
    return [
        (".".join(parts[: at + 1]), ".".join(parts[at + 1 :])) for at, part in enumerate(parts[:-1]) if part.isdecimal()
    ]


def settled(splits: dict[str, list[tuple[str, str]]]) -> dict[str, list[tuple[str, str]]]:
    """Those whose block has several matrices, and whose matrix is in several blocks."""
    every = [split for found in splits.values() for split in found]
    matrices, in_blocks = Counter(block for block, _ in every), Counter(column for _, column in every)
    return {
        name: [(block, column) for block, column in found if matrices[block] > 1 and in_blocks[column] > 1]
        for name, found in splits.items()
    }


def without_prefix(blocks: Sequence[str]) -> dict[str, str]:
    """By name, what is left without the modules that all have in common."""
    parts = [block.split(".") for block in blocks]
    common = next((at for at, same in enumerate(zip(*parts, strict=False)) if len(set(same)) > 1), 0)
    return {block: ".".join(own[common:]) for block, own in zip(blocks, parts, strict=True)}


def shortened(columns: Sequence[str]) -> list[str]:
    """As many of the last parts as tell a column from the others."""
    ends = Counter(end for column in columns for end in endings(column))
    return [next((end for end in endings(column) if ends[end] == 1), column) for column in columns]


def endings(column: str) -> list[str]:
    """Of its parts, the shortest first, none of which begins with a number."""
    parts = column.split(".")
    return [".".join(parts[at:]) for at in range(len(parts) - 1, -1, -1) if not parts[at].isdecimal()]

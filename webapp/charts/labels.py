"""Names beside points, so that none lies on another: who gets one, and on which side of its point."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from .drawing import short

ALL_NAMED = 12  # runs; of more only the front and the ends get their names, and the others their numbers
ALL_NUMBERED = 80  # runs; of more, those without a name have none
WIDTH, HEIGHT = 780, 330  # pixels of the points on a page that is not wide; on a wider one there is more room
LETTER, LINE, MARK, BAR = 6.2, 14, 7, 3  # pixels: a letter's width, a line's height, half a point, half a bar
LENGTH = 24  # letters of a name
OVER = 24  # pixels that a name may reach beyond the outermost points
LEAST = 1e-300  # of which there is a logarithm
PLACES = {  # (how far to the right, how far up) the label's middle is, in half its size
    "top center": (0, 1),
    "bottom center": (0, -1),
    "middle right": (1, 0),
    "middle left": (-1, 0),
    "top right": (1, 1),
    "bottom right": (1, -1),
    "top left": (-1, 1),
    "bottom left": (-1, -1),
}
Box = tuple[float, float, float, float]  # left, bottom, right, top


@dataclass(frozen=True)
class Spot:
    """A point that may get a label; with the id "" it gets none, but is in the way of others'."""

    id: str
    x: float
    y: float
    name: str
    number: int
    on_front: bool
    low: float | None = None  # of its interval along y
    high: float | None = None
    left: float | None = None  # likewise along x
    right: float | None = None


def labels(
    spots: Sequence[Spot], types: tuple[str, str], turned: bool, fronts: Sequence[Sequence[int]] = ()
) -> dict[str, tuple[str, str]]:
    """The label and its place by the id; what finds no room is left to hover and table.

    `types` of the axes, "linear" or "log"; `turned`: the y axis has its low end on top. `fronts`: the places of those
    that a front goes through, in its order; labels keep off it, and off the intervals, where there is room elsewhere.
    """
    wide = [spot.x if end is None else end for spot in spots for end in (spot.x, spot.left, spot.right)]
    ends = [spot.y if end is None else end for spot in spots for end in (spot.y, spot.low, spot.high)]
    widths, heights = _pixels(wide, types[0], WIDTH), _pixels(ends, types[1], HEIGHT)
    heights = [HEIGHT - at for at in heights] if turned else heights
    across, up = widths[::3], heights[::3]
    bars: list[Box] = []
    for at, (x, y) in enumerate(zip(across, up, strict=True)):
        bars.append((x - BAR, min(heights[3 * at + 1 : 3 * at + 3]), x + BAR, max(heights[3 * at + 1 : 3 * at + 3])))
        bars.append((widths[3 * at + 1], y - BAR, widths[3 * at + 2], y + BAR))
    for front in fronts:
        for one, other in itertools.pairwise(front):
            left, right = sorted((across[one], across[other]))
            bars.append((left, up[one] - BAR, right, up[one] + BAR))
    taken: list[Box] = [(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in zip(across, up, strict=True)]
    own = [at for at, spot in enumerate(spots) if spot.id]
    named = set(own) if len(own) <= ALL_NAMED else {at for at in own if spots[at].on_front} | _ends(own, across, up)
    wanted = [(at, short(spots[at].name, LENGTH)) for at in sorted(named, key=lambda at: (not spots[at].on_front, at))]
    rest = [at for at in own if at not in named] if len(own) <= ALL_NUMBERED else []
    wanted += [(at, str(spots[at].number)) for at in rest]
    found: dict[str, tuple[str, str]] = {}
    for at, text in wanted:
        number = str(spots[at].number)
        for written in dict.fromkeys((text, number)) if len(own) <= ALL_NUMBERED else (text,):
            at_point = across[at], up[at], written, taken
            if place := _free(*at_point, bars) or _free(*at_point, ()):
                found[spots[at].id] = written, place
                break
    return found


def _ends(own: Sequence[int], across: Sequence[float], up: Sequence[float]) -> set[int]:
    return {end(own, key=along.__getitem__) for end in (min, max) for along in (across, up)}


def _pixels(values: Sequence[float], kind: str, length: float) -> list[float]:
    along = [math.log10(max(value, LEAST)) if kind == "log" else value for value in values]
    low, high = min(along), max(along)
    return [(value - low) / (high - low) * length if high > low else length / 2 for value in along]


def _free(x: float, y: float, text: str, taken: list[Box], bars: Sequence[Box]) -> str | None:
    """A place where the text lies on nothing, nor on `bars`; then it is taken."""
    wide, high = (len(text) * LETTER + 4) / 2, LINE / 2
    for place, (right, above) in PLACES.items():
        middle, level = x + right * (wide + MARK), y + above * (high + MARK)
        box = middle - wide, level - high, middle + wide, level + high
        inside = box[0] >= -OVER and box[2] <= WIDTH + OVER
        if inside and not any(_overlap(box, other) for other in (*taken, *bars)):
            taken.append(box)
            return place
    return None


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and one[2] > other[0] and one[1] < other[3] and one[3] > other[1]

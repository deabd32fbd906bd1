"""The cuts that are worth a look at some size: every combination is priced by the hulls of its layers, none is solved.

What a layer can be after cuts depends on the units that reach it, and on no others. So layers that the same units reach
are one part of the model, which has a path of its own for each of the few ways to cut them, and a combination of cuts
is a merger of such paths. What a merger is off by are some tens of bytes of the file's header.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf, prod

import numpy as np

from .cut_rows import CutRow, CutRows
from .cuts import by_unit
from .facts import KEPT, Cut, LayerOptions, Option
from .knapsack import Floats, HullPath, Whole, merged, path

UNITS = 6  # of which cuts are looked at, those with most bytes
MOST = 256  # combinations that are looked at: all that there are, or those that descent finds
NEAR = 2  # steps of a unit's cuts, at a time
DESCENTS = 6  # over the whole range of sizes, at which descent looks for the best cuts
SIZES, BEST = 64, 3  # over the whole range: what is never among the best of a size is forgotten

Taken = tuple[Cut | None, ...]  # of each unit
Holds = Callable[[LayerOptions, Option], bool]


@dataclass(frozen=True)
class Combination:
    """`along` has the option -1 of layers that have left; its costs are those of the cuts too.

    `beside`: the bytes of the file that are none of the path's weights.
    """

    cuts: tuple[Cut, ...]
    along: HullPath
    beside: float

    @property
    def least_bytes(self) -> float:
        return float(self.along.weights[-1]) + self.beside

    def losses_within(self, sizes: Floats) -> Floats:
        """About the least scaled loss within each size; infinite where nothing is as small."""
        bytes_ = self.along.weights[::-1] + self.beside
        return np.interp(sizes, bytes_, self.along.costs[::-1], left=inf)

    def loss_within(self, size: float) -> float:
        return float(self.losses_within(np.array([size]))[0])

    def bytes_within(self, scaled: float) -> float:
        """About the least bytes within a scaled loss; infinite where nothing loses as little."""
        steps = int(np.searchsorted(self.along.costs, scaled, "right")) - 1
        return float(self.along.weights[steps]) + self.beside if steps >= 0 else inf


class CutSearch:
    """Under one set of limits: `costs` (layers, options) are those of the whole profile, scaled, and infinite where an
    option may not be chosen; `scales` those of families; `holds` whether a format does.

    `whole` is the model without cuts.
    """

    def __init__(
        self,
        rows: CutRows,
        units: Sequence[Sequence[Cut]],
        whole: Combination,
        costs: Floats,
        scales: Callable[[str], float],
        holds: Holds | None,
    ) -> None:
        self.rows, self.costs, self.scales, self.holds, self.whole = rows, costs, scales, holds, whole
        self.units = units
        self._parts = self._apart()
        self._paths: dict[tuple[object, ...], tuple[Whole, HullPath]] = {}
        self._looked: dict[tuple[str | None, ...], Combination] = {}

    def worth(self) -> tuple[Combination, ...]:
        """Those that are among the best at some size, the smallest first at the end of the range."""
        every: Iterable[Taken] = product(*((None, *cuts) for cuts in self.units))
        if prod(1 + len(cuts) for cuts in self.units) <= MOST:
            for taken in every:
                self._of(taken)
        else:
            self._descend()
        found = list(self._looked.values())
        least = min(each.least_bytes for each in found)
        sizes = np.geomspace(least, max(self.whole.along.weights[0] + self.whole.beside, least), SIZES)
        table = np.array([each.losses_within(sizes) for each in found])
        best = {int(number) for column in table.T for number in np.argsort(column, kind="stable")[:BEST]}
        best |= {int(number) for number in np.argsort([each.least_bytes for each in found], kind="stable")[:BEST]}
        return tuple(found[number] for number in sorted(best))

    def _apart(self) -> list[tuple[Whole, tuple[int, ...]]]:
        """The layers that the same units reach, and the numbers of those units."""
        reaching: list[list[int]] = [[] for _ in self.rows.profile.layers]
        for number, cuts in enumerate(self.units):
            for row in frozenset[int]().union(*map(self.rows.touched, cuts)):
                reaching[row].append(number)
        found: dict[tuple[int, ...], list[int]] = {}
        for row, units in enumerate(reaching):
            found.setdefault(tuple(units), []).append(row)
        return [(np.array(rows), units) for units, rows in found.items()]

    def _of(self, taken: Taken) -> Combination | None:
        """None where it has not been looked at, and enough others have."""
        key = tuple(None if cut is None else cut.label for cut in taken)
        if key not in self._looked:
            if len(self._looked) >= MOST:
                return None
            parts = [self._part(rows, [taken[unit] for unit in units]) for rows, units in self._parts]
            along = merged([part for part in parts if len(part[0])], len(self.costs))
            cuts = tuple(cut for cut in taken if cut is not None)
            lost = sum(self.scales(cut.family) * cut.loss for cut in cuts)
            moved = HullPath(along.start, along.rows, along.options, along.slopes, along.weights, along.costs + lost)
            self._looked[key] = Combination(cuts, moved, self.whole.beside)
        return self._looked[key]

    def _part(self, rows: Whole, taken: Sequence[Cut | None]) -> tuple[Whole, HullPath]:
        """The numbers of those of the rows that are left after these cuts, and their path."""
        cuts = [cut for cut in taken if cut is not None]
        key = (int(rows[0]), *((cut.unit, cut.label) for cut in cuts))
        if key not in self._paths:
            numbers, weights, costs = [], [], []
            for number in rows.tolist():
                if (left := self.rows.row(number, cuts)) is not None:
                    numbers.append(number)
                    weights.append(left.menu.bytes)
                    costs.append([*self._costs(number, left)])
            widest = self.costs.shape[1]
            padded = [np.array([[*row, *[inf] * (widest - len(row))] for row in each]) for each in (weights, costs)]
            given = np.array(numbers, dtype=np.int64)
            empty = np.zeros((0, widest))
            self._paths[key] = given, path(*(padded if numbers else (empty, empty)))
        return self._paths[key]

    def _costs(self, number: int, row: CutRow) -> Iterator[float]:
        costs = self.costs[number, : len(row.menu.bytes)].tolist()
        if row.menu.allowed is None:
            yield from costs
            return
        layer = self.rows.layer(number, row)
        for option, able, cost in zip(layer.options, row.menu.allowed, costs, strict=True):
            held = self.holds is None or option.family == KEPT or not able or self.holds(layer, option)
            yield cost if able and held else inf

    def _descend(self) -> None:
        """Coordinate descent at some sizes, from the largest to the smallest."""
        most = self._of(tuple(max(cuts, key=lambda cut: cut.loss) for cuts in self.units)) or self.whole
        taken: Taken = (None,) * len(self.units)
        start = self.whole.along.weights[0] + self.whole.beside
        ends = min(self.whole.least_bytes, most.least_bytes)
        for size in np.geomspace(start, ends, DESCENTS).tolist():
            taken = self._descended(taken, lambda each, size=size: each.loss_within(size))  # type: ignore[misc]
        self._descended(taken, lambda each: each.least_bytes)

    def _descended(self, taken: Taken, cost: Callable[[Combination], float]) -> Taken:
        at = self._of(taken)
        least = inf if at is None else cost(at)
        better = True
        while better:
            better = False
            for place, cuts in enumerate(self.units):
                every = (None, *cuts)
                now_at = next(number for number, cut in enumerate(every) if cut is taken[place])
                for cut in every[max(0, now_at - NEAR) : now_at + NEAR + 1]:
                    other = (*taken[:place], cut, *taken[place + 1 :])
                    if (there := self._of(other)) is not None and (now := cost(there)) < least:
                        taken, least, better = other, now, True
        return taken


def units_to_cut(rows: CutRows, families: Iterable[str] | None, locked: Iterable[str]) -> list[list[Cut]]:
    """The cuts that may be taken, by unit: at most UNITS of them, those that most layers' bytes hang on first.

    `families`: None for all; layers that are `locked` keep their shapes.
    """
    layers, able, kept = rows.profile.layers, None if families is None else {*families}, {*locked}
    found: list[tuple[int, list[Cut]]] = []
    for cuts in by_unit(rows.profile).values():
        reached = {cut.label: rows.touched(cut) for cut in cuts if able is None or cut.family in able}
        free = [cut for cut in cuts if reached.get(cut.label)]
        free = [cut for cut in free if not any(layers[row].name in kept for row in reached[cut.label])]
        if free:
            every = frozenset[int]().union(*(reached[cut.label] for cut in free))
            found.append((sum(layers[row].options[0].bytes for row in every), free))
    return [cuts for _, cuts in sorted(found, key=lambda one: -one[0])[:UNITS]]

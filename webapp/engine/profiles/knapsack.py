"""The multiple-choice knapsack: of each row exactly one option, least cost in all, total weight within a limit.

Weights and costs are (rows, options) float64; a cost of infinity is an option that may not be chosen. The lower convex
hulls of all rows, merged by slope, are every optimum of the Lagrangian (Sinha and Zoltners, The Multiple-Choice
Knapsack Problem, 1979). What is left between two of them is closed by dynamic programming over the few options whose
reduced costs do not rule them out: within milliseconds, and always to the same choice, which a solver that looks at a
clock does not promise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]

MOST = 2000  # partial choices that are followed
WORK = 100_000  # of those and one more option together, over all rows
STARTS = 8  # choices on the path from which what is left is filled
CLOSE = 1e-3  # of the cost: a gap that is not worth closing, far below what a prediction knows


@dataclass(frozen=True)
class HullPath:
    """Choices from the cheapest to the lightest: `start` (rows,), then one row's option changes at each step."""

    start: Whole
    rows: Whole  # (steps,)
    options: Whole  # (steps,)
    slopes: Floats  # (steps,) ascending: cost for each unit of weight that the step takes away
    weights: Floats  # (steps + 1,) of the choice after so many steps
    costs: Floats  # (steps + 1,)

    def choice(self, steps: int) -> Whole:
        """(rows,) the option of each row after so many steps."""
        found = self.start.copy()
        found[self.rows[:steps]] = self.options[:steps]  # of several values for a row the last one stays
        return found

    def within(self, limit: float) -> int | None:
        """The least number of steps after which the weight is within the limit; None where no choice is."""
        fitting = np.flatnonzero(self.weights <= limit)
        return int(fitting[0]) if len(fitting) else None


def path(weights: Floats, costs: Floats) -> HullPath:
    """Every optimum of the Lagrangian. Each row has an option that may be chosen."""
    start, rows, options, lighter, dearer = [], [], [], [], []
    order = np.lexsort((costs, np.where(costs < np.inf, weights, np.inf)))
    ordered = np.take_along_axis(costs, order, 1)
    cheaper = ordered < np.minimum.accumulate(np.pad(ordered, ((0, 0), (1, 0)), constant_values=np.inf), 1)[:, :-1]
    for row, (weight, cost) in enumerate(zip(weights.tolist(), costs.tolist(), strict=True)):
        hull = _hull(weight, cost, order[row, cheaper[row]].tolist())
        start.append(hull[0])
        for before, after in pairwise(hull):
            rows.append(row)
            options.append(after)
            lighter.append(weight[before] - weight[after])
            dearer.append(cost[after] - cost[before])
    slopes = np.array(dearer) / np.array(lighter)
    order = np.argsort(slopes, kind="stable")
    first = np.array(start, dtype=np.int64)
    here = np.arange(len(first)), first
    return HullPath(
        first,
        np.array(rows, dtype=np.int64)[order],
        np.array(options, dtype=np.int64)[order],
        slopes[order],
        np.where(costs < np.inf, weights, np.inf).min(1).sum() + _still(np.array(lighter)[order]),
        costs[here].sum() + np.concatenate([[0.0], np.cumsum(np.array(dearer)[order])]),
    )


def merged(parts: Iterable[tuple[Whole, HullPath]], rows: int) -> HullPath:
    """One path of parts that have no row in common: the numbers of their rows among all `rows`, and their paths.

    Rows of no part have the option -1.
    """
    start = np.full(rows, -1, dtype=np.int64)
    given = list(parts)
    for numbers, own in given:
        start[numbers] = own.start
    slopes = np.concatenate([own.slopes for _, own in given])
    order = np.argsort(slopes, kind="stable")
    lighter = np.concatenate([own.weights[:-1] - own.weights[1:] for _, own in given])[order]
    dearer = np.concatenate([own.costs[1:] - own.costs[:-1] for _, own in given])[order]
    return HullPath(
        start,
        np.concatenate([numbers[own.rows] for numbers, own in given])[order],
        np.concatenate([own.options for _, own in given])[order],
        slopes[order],
        sum(own.weights[-1] for _, own in given) + _still(lighter),
        sum(own.costs[0] for _, own in given) + np.concatenate([[0.0], np.cumsum(dearer)]),
    )


def _still(each: Floats) -> Floats:
    """(n + 1,) the sum of those that are still to come; from the end on, so that small ones keep their digits."""
    return np.concatenate([np.cumsum(each[::-1])[::-1], [0.0]])


def _hull(weight: list[float], cost: list[float], worth: list[int]) -> list[int]:
    """Of the options that are `worth` it (each heavier than the last, and cheaper) those on the lower convex hull.

    From the cheapest to the lightest.
    """
    found: list[int] = []
    for new in worth:
        while len(found) > 1:
            last, before = found[-1], found[-2]
            gained = (cost[before] - cost[last]) * (weight[new] - weight[last])
            if gained > (cost[last] - cost[new]) * (weight[last] - weight[before]):
                break
            found.pop()
        found.append(new)
    return found[::-1]


def cheapest(weights: Floats, costs: Floats, limit: float, known: HullPath | None = None) -> Whole | None:
    """(rows,) the options; None where no choice is within the limit. `known`: the path of these weights and costs."""
    along = known or path(weights, costs)
    steps = along.within(limit)
    if steps is None:
        return None
    last = min(steps + STARTS, len(along.rows) + 1)
    starts = (_filled(weights, costs, limit, along.choice(number)) for number in range(steps, last))
    found = min(starts, key=lambda choice: total(costs, choice))
    if not steps:
        return found
    found, least_possible = _branched(weights, costs, limit, found)
    if total(costs, found) - least_possible <= CLOSE * abs(least_possible):
        return found
    price = float(along.slopes[steps - 1])
    reduced = costs + price * weights
    least = reduced.min(1)
    bound = float(least.sum()) - price * limit
    gap = total(costs, found) - bound
    if gap <= CLOSE * abs(bound):
        return found
    return _closed(weights, costs, limit, reduced - least[:, None], gap, found)


def _branched(weights: Floats, costs: Floats, limit: float, choice: Whole) -> tuple[Whole, float]:
    """The best of what is found with each option of the row with the largest steps, or the `choice` where none is
    better; and what no choice is below.

    That row is most of what is left open: a table of all words weighs as much as all blocks of a small model.
    """
    row = int(np.where(costs < np.inf, weights, 0.0).max(1).argmax())
    rest = path(np.delete(weights, row, 0), np.delete(costs, row, 0))
    spare = limit - weights[row]
    bounds = costs[row] + np.interp(spare, rest.weights[::-1], rest.costs[::-1], left=np.inf)
    for option in np.argsort(bounds, kind="stable"):
        if bounds[option] >= total(costs, choice):
            break
        steps = rest.within(float(spare[option]))
        if steps is not None:
            start = np.insert(rest.choice(steps), row, option)
            choice = min(choice, _filled(weights, costs, limit, start), key=lambda each: total(costs, each))
    return choice, float(bounds.min())


def _filled(weights: Floats, costs: Floats, limit: float, choice: Whole) -> Whole:
    """The choice after the changes of one row at a time that gain most and still fit."""
    every = np.arange(len(choice))
    while True:
        heavier = weights - weights[every, choice][:, None]
        gained = np.where(heavier <= limit - total(weights, choice), costs[every, choice][:, None] - costs, -np.inf)
        row, option = np.unravel_index(int(gained.argmax()), gained.shape)
        if gained[row, option] <= 0:
            return choice
        choice[row] = option


def total(table: Floats, choice: Whole) -> float:
    """Of the choice's options in a table (rows, options)."""
    return float(table[np.arange(len(choice)), choice].sum())


def _closed(weights: Floats, costs: Floats, limit: float, reduced: Floats, gap: float, choice: Whole) -> Whole:
    """The optimum, or the `choice` where none is better: every sum of reduced costs below the gap is looked at.

    Row by row, of the partial choices that are neither heavier nor dearer than another; at most MOST of them, and of
    many rows fewer.
    """
    worth = reduced <= gap
    taken = worth.argmax(1)  # of most rows nothing else is possible
    open_ = np.flatnonzero(worth.sum(1) > 1)
    most = min(MOST, 1 + WORK // max(1, int(worth[open_].sum())))
    fixed = np.setdiff1d(np.arange(len(taken)), open_)
    lightest = np.where(worth, weights, np.inf).min(1)
    left = limit - weights[fixed, taken[fixed]].sum() - lightest[open_].sum()  # spare, if the lightest are taken
    heavy, dear, above = np.zeros(1), np.zeros(1), np.zeros(1)
    steps: list[tuple[Whole, Whole]] = []  # (partial choice before, option) of each partial choice
    for row in open_:
        options = np.flatnonzero(worth[row])
        heavier = np.add.outer(heavy, weights[row, options] - lightest[row]).ravel()
        dearer = np.add.outer(dear, costs[row, options]).ravel()
        higher = np.add.outer(above, reduced[row, options]).ravel()
        kept = np.flatnonzero((heavier <= left) & (higher <= gap))
        kept = kept[np.lexsort((dearer[kept], heavier[kept]))]
        least = np.minimum.accumulate(dearer[kept])
        kept = kept[np.append(True, dearer[kept][1:] < least[:-1])] if len(kept) else kept
        if len(kept) > most:
            kept = np.sort(kept[np.argsort(higher[kept], kind="stable")[:most]])
        if not len(kept):
            return choice
        heavy, dear, above = heavier[kept], dearer[kept], higher[kept]
        steps.append((kept // len(options), options[kept % len(options)]))
    at = int(dear.argmin())
    for row, (before, option) in zip(open_[::-1], steps[::-1], strict=True):
        taken[row], at = option[at], before[at]
    return taken if total(costs, taken) < total(costs, choice) else choice

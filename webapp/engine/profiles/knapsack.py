"""The multiple-choice knapsack: of each row exactly one option, least cost in all, total weight within a limit.

Weights and costs are (rows, options) float64; a cost of infinity is an option that may not be chosen. The lower convex
hulls of all rows, merged by slope, are every optimum of the Lagrangian (Sinha and Zoltners, The Multiple-Choice
Knapsack Problem, 1979); `scipy.optimize.milp` closes what is left between two of them, among the options whose reduced
costs do not rule them out.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]

SECONDS = 0.02  # for the last per cent
MOST = 50  # options beside one for each row: with more it would look at its clock too seldom
STARTS = 8  # choices on the path from which what is left is filled
CLOSE = 5e-3  # of the cost: a gap that is not worth closing, far below what a prediction knows


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
    price = float(along.slopes[steps - 1])
    reduced = costs + price * weights
    least = reduced.min(1)
    bound = float(least.sum()) - price * limit
    gap = total(costs, found) - bound
    worth = reduced - least[:, None] <= gap
    if gap <= CLOSE * abs(bound) or int((worth.sum(1) - 1).sum()) > MOST:
        return found
    better = _closed(weights, costs, limit, worth, gap)
    return found if better is None or total(costs, better) >= total(costs, found) else better


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


def _closed(weights: Floats, costs: Floats, limit: float, worth: npt.NDArray[np.bool_], gap: float) -> Whole | None:
    """The optimum among the options that are `worth` a look; None where none was found in time."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    open_ = worth.sum(1) > 1
    taken = worth.argmax(1)  # of the others nothing else is possible
    here = np.arange(len(taken))
    light = np.where(open_, np.where(worth, weights, np.inf).min(1), weights[here, taken])
    spare = limit - light.sum()
    scale = max(abs(spare), 1e-300)
    rows, options = np.nonzero(worth & open_[:, None])
    _, row = np.unique(rows, return_inverse=True)
    weight, cost = (weights[rows, options] - light[rows]) / scale, costs[rows, options] / gap
    each = csr_array((np.ones(len(row)), (row, np.arange(len(row)))))
    solved = milp(
        cost,
        integrality=np.ones(len(cost)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(each, 1, 1), LinearConstraint(weight[None, :], -np.inf, spare / scale)],
        options={"time_limit": SECONDS, "mip_rel_gap": CLOSE / 5},
    )
    if solved.x is None:
        return None
    chosen = solved.x > 0.5
    taken[rows[chosen]] = options[chosen]
    return taken if total(weights, taken) <= limit else None

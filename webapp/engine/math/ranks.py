"""How many values a rank costs, and which rank each layer gets of one budget."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise


def factor_values(rows: int, columns: int, rank: int) -> int:
    """Values of two factors, (m, r) and (r, n)."""
    return rank * (rows + columns)


def pivoted_values(rows: int, columns: int, rank: int) -> int:
    """Values of r rows and of the others' (m - r, r) shares of them."""
    return rank * (rows + columns - rank)


def within(costs: Sequence[int], budget: float) -> int:
    """The last of these ascending costs that is within the budget; the first where none is."""
    return max(0, bisect_right(costs, budget) - 1)


def allocate(costs: Sequence[Sequence[int]], losses: Sequence[Sequence[float]], budget: float) -> list[int]:
    """Which option each layer takes, so that the sum of losses is least while that of the costs is within the budget.

    costs[i] (options,) strictly ascend and losses[i] never do. Lagrangian: every layer walks along the lower convex
    hull of its options, and the step that saves the most for each value that it costs is taken first; of a step that
    is more than what is left, the part that fits. The first options are taken even where they are above the budget.
    """
    taken = [0] * len(costs)
    left = budget - sum(cost[0] for cost in costs)
    steps = [
        (slope, layer, start, end)
        for layer, (cost, loss) in enumerate(zip(costs, losses, strict=True))
        for slope, start, end in _hull(cost, loss)
    ]
    for _, layer, start, end in sorted(steps, key=lambda step: -step[0]):
        if taken[layer] == start:  # else an earlier step did not fit
            cost = costs[layer]
            taken[layer] = min(end, max(start, bisect_right(cost, cost[start] + left) - 1))
            left -= cost[taken[layer]] - cost[start]
    return taken


def _hull(cost: Sequence[int], loss: Sequence[float]) -> list[tuple[float, int, int]]:
    """(loss saved for each value, start, end) of the steps along the lower convex hull of the options."""

    def slope(start: int, end: int) -> float:
        return (loss[start] - loss[end]) / (cost[end] - cost[start])

    corners = [0]
    for option in range(1, len(cost)):
        while len(corners) > 1 and slope(corners[-2], corners[-1]) <= slope(corners[-1], option):
            corners.pop()
        corners.append(option)
    return [(slope(start, end), start, end) for start, end in pairwise(corners)]

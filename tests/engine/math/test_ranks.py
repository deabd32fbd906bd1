"""One budget over all layers: as good as trying every way to spend it, but for the last step."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.engine.math import ranks


@st.composite
def layers(draw):
    """(costs, losses): costs ascend, losses fall to 0."""
    count = draw(st.integers(1, 4))
    costs = sorted(draw(st.sets(st.integers(1, 40), min_size=count, max_size=count)))
    falls = sorted(draw(st.lists(st.floats(0, 1), min_size=count - 1, max_size=count - 1)), reverse=True)
    return costs, [*falls, 0.0]


@settings(deadline=None, max_examples=80)
@given(st.lists(layers(), min_size=1, max_size=4), st.floats(0, 1))
def test_allocation_keeps_the_budget_and_is_near_the_best(given_layers, share):
    costs, losses = [c for c, _ in given_layers], [loss for _, loss in given_layers]
    budget = share * sum(cost[-1] for cost in costs)
    taken = ranks.allocate(costs, losses, budget)
    spent = sum(cost[option] for cost, option in zip(costs, taken, strict=True))
    least = sum(cost[0] for cost in costs)
    assert spent <= max(budget, least)
    if budget < least:
        return
    ways = itertools.product(*(range(len(cost)) for cost in costs))
    affordable = (w for w in ways if sum(c[o] for c, o in zip(costs, w, strict=True)) <= budget)
    best = min(sum(loss[o] for loss, o in zip(losses, way, strict=True)) for way in affordable)
    found = sum(loss[option] for loss, option in zip(losses, taken, strict=True))
    largest = max(max(loss[0] - loss[-1] for loss in losses), 0)
    assert best - 1e-9 <= found <= best + largest + 1e-9


def test_what_matters_more_gets_more():
    costs, losses = [[1, 2, 3]] * 2, [[0.9, 0.4, 0.0], [0.3, 0.1, 0.0]]
    assert ranks.allocate(costs, losses, 4) == [2, 0]


@pytest.mark.parametrize(("rows", "columns"), [(64, 48), (1, 1), (3, 200), (200, 3), (17, 17)])
def test_two_factors_never_cost_more_than_the_matrix(rows, columns):
    rank = (rows * columns - 1) // (rows + columns)  # the largest below break-even
    assert ranks.factor_values(rows, columns, rank) < rows * columns
    assert ranks.factor_values(rows, columns, rank + 1) >= rows * columns


def test_pivots_cost_less_than_the_matrix_at_every_rank_below_full():
    assert all(ranks.pivoted_values(20, 30, rank) < 600 for rank in range(1, 20))
    assert ranks.pivoted_values(20, 30, 20) == 600


def test_within():
    assert [ranks.within([3, 5, 9], budget) for budget in (1, 3, 5.5, 100)] == [0, 0, 1, 2]

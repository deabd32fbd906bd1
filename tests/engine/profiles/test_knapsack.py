"""The multiple-choice knapsack against brute force, and along the whole path."""

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from webapp.engine.profiles.knapsack import CLOSE, cheapest, path, total

NUMBERS = st.integers(0, 40).map(float)


@st.composite
def tables(draw):
    """(weights, costs) of up to five rows with up to five options; some may not be chosen, the first always may."""
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    weights, costs = draw(arrays(float, shape, elements=NUMBERS)), draw(arrays(float, shape, elements=NUMBERS))
    barred = draw(arrays(bool, shape))
    barred[:, 0] = False
    return weights, np.where(barred, np.inf, costs)


def best(weights, costs, limit):
    """The least cost of all choices within the limit."""
    every = product(*(range(weights.shape[1]) for _ in weights))
    fitting = (choice for choice in every if total(weights, np.array(choice)) <= limit)
    return min((total(costs, np.array(choice)) for choice in fitting), default=np.inf)


@settings(max_examples=150, deadline=None)
@given(tables(), st.floats(0, 1.1))
def test_no_choice_is_cheaper_by_more_than_the_stated_share(table, part):
    weights, costs = table
    limit = part * weights.sum()
    found, least = cheapest(weights, costs, limit), best(weights, costs, limit)
    if found is None:
        assert least == np.inf
    else:
        assert total(weights, found) <= limit
        assert least - 1e-9 <= total(costs, found) <= least * (1 + CLOSE) + 1e-9


@settings(max_examples=100, deadline=None)
@given(tables())
def test_each_step_of_the_path_is_lighter_and_gains_less_for_what_it_costs(table):
    weights, costs = table
    along = path(weights, costs)
    assert (np.diff(along.weights) < 0).all()
    assert (np.diff(along.costs) > 0).all()
    assert (np.diff(along.slopes) >= 0).all()
    for steps in range(len(along.rows) + 1):
        choice = along.choice(steps)
        assert np.isclose(total(weights, choice), along.weights[steps])
        assert np.isclose(total(costs, choice), along.costs[steps])


def test_zero_is_zero_however_large_the_others_are():
    weights = np.array([[0.0, 1e-9, 1e6], [0.0, 1e-12, 3e5]])
    assert cheapest(weights, np.array([[9.0, 5.0, 1.0]] * 2), 0.0).tolist() == [0, 0]


def test_a_model_of_many_layers_comes_close_to_its_bound():
    rng = np.random.default_rng(0)
    weights = rng.choice([3e5, 1e6], (210, 1)) * np.linspace(1.5, 32, 24) * rng.uniform(0.95, 1.05, (210, 24))
    costs = (
        rng.lognormal(0, 1.5, (210, 1)) * 2.0 ** (-1.6 * np.linspace(1.5, 32, 24)) * rng.lognormal(0, 0.3, (210, 24))
    )
    for part in (0.08, 0.2, 0.5):
        limit = part * weights.max(1).sum()
        found = cheapest(weights, costs, limit)
        along = path(weights, costs)
        price = along.slopes[along.within(limit) - 1]
        bound = (costs + price * weights).min(1).sum() - price * limit
        assert total(weights, found) <= limit
        assert total(costs, found) <= bound * (1 + CLOSE)

"""What never falls and is nearest: as scipy has it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from webapp.engine.math.isotonic import isotonic

DRAWN = st.lists(st.tuples(st.floats(-100, 100), st.floats(0.01, 100)), min_size=1, max_size=30)


@given(DRAWN)
def test_it_is_what_scipy_finds(drawn):
    values, weight = np.array(drawn).T
    found = isotonic(values, weight)
    assert found == pytest.approx(isotonic_regression(values, weights=weight).x, abs=1e-9)
    assert (np.diff(found) >= 0).all()


def test_neighbours_that_fall_have_their_weighted_mean():
    assert isotonic(np.array([1.0, 4.0, 2.0, 5.0]), np.array([1.0, 1.0, 3.0, 1.0])).tolist() == [1.0, 2.5, 2.5, 5.0]

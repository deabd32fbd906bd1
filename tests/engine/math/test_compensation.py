"""The factors of a rounding error against the decomposition that the papers write down, and their promise."""

import pytest
import torch

from tests.engine.math.test_gptq import posed
from webapp.engine.math import compensation, gptq
from webapp.engine.math.grids import QuantizationScheme, fit_grid
from webapp.engine.math.quantizers import dequantize, quantize

SCHEME = QuantizationScheme(2, 16, search=True)


def nearest(matrix):
    grid = fit_grid(matrix, SCHEME)
    return quantize(matrix, grid), grid


def size(change, given):
    """The squared error of the outputs; of the weights without a metric."""
    change = change.double()
    return float(((change if given is None else change @ given.hessian.double()) * change).sum())


@pytest.mark.parametrize("metric", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [(10, 12), (12, 9)])
def test_what_is_left_is_the_tail_of_the_whitened_singular_values(rows, columns, metric):
    given = posed(rows, columns) if metric else None
    error = posed(rows, columns, seed=3).matrix
    root = torch.linalg.cholesky(given.hessian.double()) if metric else torch.eye(columns, dtype=torch.float64)
    singular = torch.linalg.svdvals(error.double() @ root)
    for rank in (1, 3, 7):
        up, down = compensation.best_factors(error, rank, given)
        assert size(error - up @ down, given) == pytest.approx(float(singular[rank:].square().sum()), rel=1e-3)
        products = down.double() @ (root @ root.t()) @ down.double().t()
        assert torch.allclose(products, torch.eye(rank, dtype=torch.float64), atol=1e-3)


def test_a_search_for_the_largest_directions_finds_nearly_all_of_them():
    error = posed(80, 120, seed=2).matrix
    left = compensation.largest_directions(error, 6)
    assert torch.allclose(left.t() @ left, torch.eye(6), atol=1e-5)
    best = torch.linalg.svdvals(error)[:6].square().sum()
    assert 0.95 * best < (left.t() @ error).square().sum() <= best * (1 + 1e-5)


@pytest.mark.parametrize("metric", [True, False])
@pytest.mark.parametrize("rank", [1, 4])
def test_the_error_falls_and_no_row_gains_any_by_what_was_fitted(metric, rank):
    for seed in range(4):
        given = posed(48, 64, seed=seed)
        matrix, metric_of = given.matrix, given if metric else None
        base = nearest(matrix)
        fitted = compensation._fitted(matrix, base, rank, metric_of)
        away = matrix - dequantize(*base)
        left = away - fitted.correction
        weighed = given.hessian if metric else torch.eye(64)
        assert bool(((left @ weighed * left).sum(1) <= (away @ weighed * away).sum(1) * (1 + 1e-5)).all())
        found = compensation.compensated(matrix, base, rank, nearest, metric_of)
        last = size(matrix - dequantize(*found.base) - found.correction, metric_of)
        assert last <= size(left, metric_of) * (1 + 1e-6) < size(away, metric_of)


def test_in_the_same_bytes_it_leaves_less_than_smaller_groups():
    """2 bits on inputs that are alike in few directions, as those of language models: rank 7 against half the group."""
    given = posed(96, 256, seed=5)

    def rounded(group):
        def again(matrix):
            scheme = QuantizationScheme(2, group, search=True)
            own = gptq.RoundingProblem(matrix, given.hessian, given.order, given.factor)
            grid = fit_grid(matrix, scheme, own.weights)
            return gptq.rounded(own, grid), grid

        return again

    base = rounded(32)(given.matrix)
    found = compensation.compensated(given.matrix, base, 7, rounded(32), given)
    finer = rounded(16)(given.matrix)
    factors = (7 * (96 + 256) * 4 + 16 * (96 + 7)) / 8
    assert factors < 2 * 96 * 256 / 32  # bytes of the scales that groups of 16 have more than groups of 32
    assert size(given.matrix - dequantize(*found.base) - found.correction, given) < size(
        given.matrix - dequantize(*finer), given
    )


def test_an_error_of_nothing_is_compensated_by_nothing():
    matrix = torch.zeros(5, 7)
    found = compensation.compensated(matrix, nearest(matrix), 2, nearest, None)
    assert torch.equal(found.correction, matrix)

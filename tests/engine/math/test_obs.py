"""SparseGPT's arithmetic against the paper's formulas, written out plainly on small matrices."""

import pytest
import torch

from webapp.engine.math import admm, masks, obs


def problem(rows=6, columns=8, seed=0, samples=64):
    """A matrix and the covariance of its inputs."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator)
    x = torch.randn(samples, columns, generator=generator) @ mix
    return torch.randn(rows, columns, generator=generator), x.t() @ x


def error(weights, matrix, hessian):
    """The squared output error, summed."""
    change = weights - matrix
    return float(((change @ hessian) * change).sum())


def by_the_paper(matrix, hessian, share):
    """Algorithm 1 with one block of columns, as it is printed: the inverse is eliminated column by column."""
    work, inverse = matrix.double().clone(), torch.linalg.inv(hessian.double())
    factor = torch.linalg.cholesky(inverse, upper=True)
    keep = masks.keep_largest((work / factor.diagonal()).square().t().contiguous(), share).t()
    for column in range(matrix.shape[1]):
        kept = work[:, column] * keep[:, column]
        gone = (work[:, column] - kept) / factor[column, column]
        work[:, column:] -= gone[:, None] * factor[column, column:]
        work[:, column] = kept
    return work.float()


def test_a_pass_over_the_columns_is_that_of_the_paper():
    matrix, hessian = problem()
    curve = obs.curvature(hessian, 0.01)
    found = obs.prune(matrix, curve, obs.Pattern(0.5, 8))
    assert torch.allclose(found, by_the_paper(matrix, curve.hessian, 0.5), atol=1e-3)


def test_lazy_updates_are_the_immediate_ones(monkeypatch):
    matrix, hessian = problem(5, 40)
    curve, pattern = obs.curvature(hessian, 0.01), obs.Pattern(0.5, 40)
    whole = obs.prune(matrix, curve, pattern)
    monkeypatch.setattr(obs, "STRIP", 1)
    assert torch.allclose(obs.prune(matrix, curve, pattern), whole, atol=1e-3)


def test_the_factor_is_that_of_the_inverse():
    _, hessian = problem()
    curve = obs.curvature(hessian, 0.01)
    assert torch.equal(curve.factor, curve.factor.triu())
    assert torch.allclose(curve.factor.t() @ curve.factor @ curve.hessian, torch.eye(8), atol=1e-3)


@pytest.mark.parametrize("n_of_m", [(0, 0), (2, 4), (4, 8)])
def test_outputs_change_less_than_with_the_mask_of_magnitude(n_of_m):
    matrix, hessian = problem(24, 32, samples=200)
    curve, pattern = obs.curvature(hessian, 0.01), obs.Pattern(0.5, 32, *n_of_m)
    plain = matrix * pattern.largest(matrix.abs())
    once = obs.prune(matrix, curve, pattern)
    rounds = admm.exchanged(matrix, curve.hessian, once, lambda v: pattern.largest(v.abs()), 10)
    last = admm.descended(matrix, curve.hessian, rounds, 5)
    assert error(last, matrix, hessian) < error(once, matrix, hessian) < error(plain, matrix, hessian)
    for found in (once, last):
        assert int((found == 0).sum()) == 24 * 16


def test_descent_ends_at_the_least_squares_of_the_mask():
    matrix, hessian = problem(3, 8)
    hessian = obs.curvature(hessian, 0.01).hessian
    start = matrix * masks.largest_by_row(matrix.abs(), 0.5)
    found = admm.descended(matrix, hessian, start, 30)
    for row, weights, begun in zip(matrix, found, start, strict=True):
        on = begun != 0
        best = torch.linalg.solve(hessian[on][:, on], hessian[on] @ row)
        assert torch.allclose(weights[on], best, atol=1e-2)
        assert not bool(weights[~on].any())


def test_zeros_of_before_count_and_stay():
    matrix, hessian = problem()
    matrix[:, 3] = 0
    found = obs.prune(matrix, obs.curvature(hessian, 0.01), obs.Pattern(0.25, 8))
    assert int((found == 0).sum()) == 12
    assert not bool(found[:, 3].any())


@pytest.mark.parametrize("broken", [torch.zeros(4, 4), torch.full((4, 4), torch.nan), torch.full((4, 4), torch.inf)])
def test_a_hessian_that_tells_nothing_counts_as_the_identity(broken):
    curve = obs.curvature(broken, 0.01)
    assert curve.damping is None
    matrix = torch.arange(1.0, 9.0).view(2, 4)
    found = obs.prune(matrix, curve, obs.Pattern(0.5, 4))
    assert torch.equal(found, matrix * (matrix > 4))


def test_a_singular_hessian_is_damped_until_it_is_not():
    ones = torch.ones(6, 6)
    curve = obs.curvature(ones, 0.0)
    assert curve.damping is not None
    assert curve.damping > 0
    assert bool(torch.isfinite(curve.factor).all())

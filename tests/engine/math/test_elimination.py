"""Removing inputs, against least squares on the very data."""

import pytest
import torch

from webapp.engine.math.elimination import Elimination, damped_inverse

torch.manual_seed(0)
X = torch.randn(200, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64)  # correlated inputs
W = torch.randn(4, 6, dtype=torch.float64)


def exact() -> Elimination:
    """Without damping, so that least squares is the very same thing."""
    found = Elimination(W, X.t() @ X)
    found.inverse = torch.linalg.inv(X.t() @ X)
    return found


def best_without(columns: list[int]) -> torch.Tensor:
    left = [c for c in range(6) if c not in columns]
    weight = torch.zeros(4, 6, dtype=torch.float64)
    weight[:, left] = torch.linalg.lstsq(X[:, left], X @ W.t()).solution.t()
    return weight


def error(weight: torch.Tensor) -> float:
    return (X @ (W - weight).t()).square().sum().item()


@pytest.mark.parametrize("columns", [[2], [0, 5], [1, 2, 3]])
def test_what_stays_is_the_least_squares_answer(columns):
    found = exact()
    found.remove(torch.tensor(columns))
    assert torch.allclose(found.weight, best_without(columns), atol=1e-8)


def test_removals_one_by_one_are_those_at_once():
    found = exact()
    for column in (4, 1):
        found.remove(torch.tensor([column]))
    assert torch.allclose(found.weight, best_without([1, 4]), atol=1e-8)


def test_costs_are_the_errors_that_removal_leaves():
    alone = exact().costs(torch.arange(6)[:, None])
    assert alone.tolist() == pytest.approx([error(best_without([c])) for c in range(6)], rel=1e-6)
    pairs = exact().costs(torch.arange(6).view(3, 2))
    assert pairs.tolist() == pytest.approx([error(best_without([2 * p, 2 * p + 1])) for p in range(3)], rel=1e-6)


@pytest.mark.parametrize("covariance", [torch.zeros(3, 3), torch.ones(3, 3), torch.diag(torch.tensor([1.0, 0.0, 2.0]))])
def test_a_singular_covariance_has_a_damped_inverse(covariance):
    found, damping = damped_inverse(covariance)
    assert damping > 0
    assert found.isfinite().all()
    assert torch.allclose(found, found.t())


def test_inputs_with_nan_leave_the_other_columns_as_they_are():
    covariance = X.t() @ X
    covariance[1] = covariance[:, 1] = torch.nan
    found = Elimination(W, covariance)
    found.remove(torch.tensor([0, 2]))
    kept = [column for column in range(W.shape[1]) if column not in (0, 2)]
    assert torch.equal(found.weight[:, kept], W.double()[:, kept])
    assert not found.weight[:, [0, 2]].any()

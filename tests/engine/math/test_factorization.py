"""The best matrix of a rank, and the form that holds it in the fewest values, against brute force."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.engine.math import factorization


def matrix(rows, columns, seed=0, rank=None):
    generator = torch.Generator().manual_seed(seed)
    if rank is None:
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return matrix(rows, rank, seed) @ matrix(rank, columns, seed + 1)


@pytest.mark.parametrize(("rows", "columns"), [(6, 8), (8, 6), (5, 5), (1, 7), (7, 1), (1, 1)])
def test_directions_are_those_of_an_svd(rows, columns):
    weight = matrix(rows, columns)
    u, singular = factorization.directions(weight)
    assert torch.allclose(singular, torch.linalg.svdvals(weight), atol=1e-7)
    for rank in range(1, min(rows, columns) + 1):  # Eckart and Young
        error = (weight - u[:, :rank] @ u[:, :rank].t() @ weight).square().sum()
        assert error.item() == pytest.approx(torch.linalg.svdvals(weight)[rank:].square().sum().item(), abs=1e-9)


def test_losses_are_the_shares_that_are_cut():
    lost = factorization.losses(torch.tensor([2.0, 1.0, 1.0]))
    assert lost.tolist() == pytest.approx([1, 2 / 6, 1 / 6, 0])
    assert factorization.losses(torch.zeros(2)).tolist() == [0, 0, 0]


def test_balanced_factors_have_the_same_product_and_equal_norms():
    left, right = matrix(6, 3), 1000 * matrix(3, 8, 1)
    a, b = factorization.balanced(left, right)
    assert torch.allclose(a @ b, left @ right)
    assert torch.allclose(a.norm(dim=0), b.norm(dim=1))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000))
def test_pivots_and_mix_make_the_matrix_again(rows, rank, columns, seed):
    rank = min(rank, rows)
    left, right = matrix(rows, rank, seed), matrix(rank, columns, seed + 1)
    pivots, mix = factorization.pivoted(left)
    assert int(pivots.sum()) == rank
    assert mix.shape == (rows - rank, rank)
    whole = left @ right
    assert torch.allclose(mix @ whole[pivots], whole[~pivots], atol=1e-6)


@pytest.mark.parametrize("left", [torch.zeros(5, 2), matrix(5, 4, rank=2), torch.eye(4)[:, :2], torch.ones(3, 3)])
def test_pivots_of_less_than_full_rank_still_make_the_matrix(left):
    left = left.double()
    pivots, mix = factorization.pivoted(left)
    assert mix.isfinite().all()
    assert torch.allclose(mix @ left[pivots], left[~pivots], atol=1e-9)


def test_mix_stays_small():
    u, _ = factorization.directions(matrix(200, 150))
    _, mix = factorization.pivoted(u[:, :100])
    assert mix.abs().max() < 30

"""Which values stay: held against a plain sort, on small matrices."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.engine.math import masks


def scores(rows, columns, seed, ties):
    made = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed))
    return (made * 4).round() if ties else made


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9), st.integers(1, 20), st.integers(0, 99), st.sampled_from([0.0, 0.3, 0.5, 0.99]), st.booleans())
def test_every_row_loses_its_smallest_and_the_total_is_exact(rows, columns, seed, share, ties):
    given_scores = scores(rows, columns, seed, ties)
    keep = masks.largest_by_row(given_scores, share)
    assert int((~keep).sum()) == round(share * (rows * columns))
    gone = (~keep).sum(1)
    assert int(gone.max() - gone.min()) <= 1
    for row, stays in zip(given_scores, keep, strict=True):
        expected = torch.ones(columns, dtype=torch.bool)
        expected[row.argsort(stable=True)[: int((~stays).sum())]] = False
        assert torch.equal(stays, expected)


def test_groups_keep_the_largest_as_the_paper_draws_them():
    row = torch.tensor([[0.1, 0.9, 0.3, 0.2, 5.0, 4.0, 3.0, 2.0]])
    assert masks.largest_of_groups(row, 2, 4).tolist() == [[False, True, True, False, True, True, False, False]]
    assert masks.largest_of_groups(row, 4, 8).tolist() == [[False, False, False, False, True, True, True, True]]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6), st.integers(1, 19), st.integers(0, 99), st.sampled_from([(2, 4), (4, 8)]), st.booleans())
def test_groups_lose_exactly_what_is_planned(rows, columns, seed, n_of_m, ties):
    n, m = n_of_m
    given_scores = scores(rows, columns, seed, ties)
    keep = masks.largest_of_groups(given_scores, n, m)
    assert (~keep).sum(1).tolist() == [masks.removed_of_groups(columns, n, m)] * rows
    for start in range(0, columns, m):
        group, stays = given_scores[:, start : start + m], keep[:, start : start + m]
        for values, kept in zip(group, stays, strict=True):
            assert int(kept.sum()) == min(n, len(values))
            if not bool(kept.all()):
                assert values[kept].min() >= values[~kept].max()


def test_zeros_go_before_anything_else():
    weights = torch.tensor([[0.0, 3.0, 0.0, 1.0]])
    keep = masks.keep_largest(masks.zeros_first(torch.zeros(1, 4), weights), 0.5)
    assert keep.tolist() == [[False, True, False, True]]


@pytest.mark.parametrize(("total", "rows"), [(0, 3), (7, 3), (9, 3), (2, 5), (1, 1)])
def test_shares_are_even_and_exact(total, rows):
    found = masks.shared_out(total, rows)
    assert int(found.sum()) == total
    assert int(found.max() - found.min()) <= 1

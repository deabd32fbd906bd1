"""Which values to remove. Exact counts, ties broken by position, and no copy of the whole model.

Magnitude pruning: Han et al. 2015, https://arxiv.org/abs/1506.02626. Comparison within each output row, and scores of
magnitude times the norm of the input: Wanda, Sun et al. 2023, https://arxiv.org/abs/2306.11695. N:M patterns: Mishra
et al. 2021, https://arxiv.org/abs/2104.08378.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from webapp.engine.lazy import Tensor, torch

HALF = 1 << 16


def magnitude_keys(weights: Tensor) -> Tensor:
    """abs(w) as int32 with the same order: the bits of a non-negative float32, read as an integer."""
    return weights.detach().float().abs().contiguous().view(torch.int32)


def smallest_threshold(matrices: Callable[[], Iterable[Tensor]], count: int) -> tuple[int, int]:
    """The key of the `count`-th smallest magnitude over all tensors, and how many equal to it are among those.

    A radix selection over the upper, then the lower 16 bits: two passes, 512 KiB of counters, exact.
    """
    if count <= 0:
        return -1, 0
    upper = _histogram(magnitude_keys(m) >> 16 for m in matrices())
    top, below = _place(upper, count)
    lower = _histogram(_low_bits(magnitude_keys(m), top) for m in matrices())
    bottom, below_in_top = _place(lower, count - below)
    return (top << 16) | bottom, count - below - below_in_top


def keep_mask(weights: Tensor, threshold: int, ties: int) -> tuple[Tensor, int]:
    """True where a value stays: above the threshold, or equal to it after the first `ties`. Also the ties used."""
    keys = magnitude_keys(weights)
    keep = keys > threshold
    equal = (keys == threshold).reshape(-1).nonzero().reshape(-1)
    used = min(ties, len(equal))
    keep.view(-1)[equal[used:]] = True
    return keep, used


def shared_out(total: int, rows: int) -> Tensor:
    """`total` values over `rows`, int64 (rows,): as even as whole numbers can be, and exact in sum."""
    edges = torch.arange(rows + 1) * total // max(rows, 1)
    return edges.diff()


def keep_all_but(scores: Tensor, count: int) -> Tensor:
    """True where a value stays: of the whole matrix (rows, columns) all but the `count` smallest."""
    return largest_in_rows(scores.reshape(1, -1), torch.tensor([count])).view_as(scores)


def keep_largest(scores: Tensor, share: float) -> Tensor:
    """True where a value stays: of the whole matrix (rows, columns) all but the smallest `share`."""
    return keep_all_but(scores, round(share * scores.numel()))


def largest_by_row(scores: Tensor, share: float) -> Tensor:
    """True where a value stays: of every row all but the smallest `share`, the matrix's total being exact."""
    return largest_in_rows(scores, shared_out(round(share * scores.numel()), len(scores)))


def largest_in_rows(scores: Tensor, removed: Tensor) -> Tensor:
    """True where a value stays: of row i of scores (rows, columns) all but the `removed[i]` smallest."""
    keep = torch.ones_like(scores, dtype=torch.bool)
    for count in sorted(set(removed.tolist())):
        mine = (removed == count).nonzero().reshape(-1)
        if count and len(mine) == len(keep):
            return _all_but_smallest(scores, count)
        if count:
            keep[mine] = _all_but_smallest(scores[mine], count)
    return keep


def largest_of_groups(scores: Tensor, n: int, m: int) -> Tensor:
    """True where a value stays: of every m neighbours in a row of scores (rows, columns) the n largest.

    Columns that are left over at the end count as a group that zeros fill up.
    """
    rows, columns = scores.shape
    whole = columns // m * m
    keep = torch.ones_like(scores, dtype=torch.bool)
    if whole:
        groups = scores[:, :whole].reshape(-1, m).t().contiguous()  # (m, groups): each comparison is one long row
        rank = torch.zeros(groups.shape, dtype=torch.uint8)  # of the group's values, how many stay before this one
        for i in range(m):
            for j in range(m):
                if i != j:
                    rank[i] += (groups[j] > groups[i]) | ((groups[j] == groups[i]) & (j > i))
        keep[:, :whole] = (rank < n).t().reshape(rows, whole)
    if columns - whole > n:
        rest = scores[:, whole:]
        keep[:, whole:] = _all_but_smallest(rest, rest.shape[1] - n)
    return keep


def removed_of_groups(columns: int, n: int, m: int) -> int:
    """How many of a row's values `largest_of_groups` removes."""
    return columns // m * (m - n) + max(0, columns % m - n)


def zeros_first(scores: Tensor, weights: Tensor) -> Tensor:
    """Scores (not negative) in which values that are zero already come below all others."""
    return torch.where(weights == 0, -1.0, scores)


def _all_but_smallest(scores: Tensor, count: int) -> Tensor:
    """Per row; of equal ones the first go first."""
    threshold = torch.from_numpy(np.partition(scores.numpy(), count - 1, axis=1)[:, count - 1 : count].copy())
    keep = scores > threshold
    short = scores.shape[1] - count - keep.sum(1, keepdim=True)  # of those equal to the threshold, how many stay
    if bool(short.any()):
        equal = scores == threshold
        keep |= equal & (equal.cumsum(1) > equal.sum(1, keepdim=True) - short)
    return keep


def _histogram(keys: Iterable[Tensor]) -> Tensor:
    total = torch.zeros(HALF, dtype=torch.int64)
    for k in keys:
        total += torch.bincount(k.reshape(-1), minlength=HALF)
    return total


def _low_bits(keys: Tensor, top: int) -> Tensor:
    return keys[(keys >> 16) == top] & (HALF - 1)


def _place(histogram: Tensor, count: int) -> tuple[int, int]:
    """The bin in which the `count`-th value lies, and how many lie in the bins before it."""
    running = histogram.cumsum(0)
    index = int(torch.searchsorted(running, count))
    return index, int(running[index - 1]) if index else 0

"""Which values to remove. Exact counts, ties broken by position, and no copy of the whole model.

Magnitude pruning: Han et al. 2015, https://arxiv.org/abs/1506.02626.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

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

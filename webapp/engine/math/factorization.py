"""Truncated singular value decomposition of a matrix: Eckart and Young 1936, https://doi.org/10.1007/BF02288367."""

from __future__ import annotations

import torch
from torch import Tensor


def break_even_rank(rows: int, columns: int) -> int:
    """The largest rank r with r (m + n) < m n: above it factors hold more values than the matrix."""
    return (rows * columns - 1) // (rows + columns)


def rank_for_ratio(rows: int, columns: int, kept: float) -> int:
    """The largest rank whose factors hold at most `kept` of the matrix's values; at least 1."""
    return max(1, int(kept * rows * columns / (rows + columns)))


def rank_for_energy(singular: Tensor, energy: float) -> int:
    """The smallest rank that holds `energy` of the sum of squared singular values (descending, (k,))."""
    squares = singular.double().square()
    total = squares.sum()
    if total == 0:
        return 1
    reached = squares.cumsum(0) / total
    return min(int(torch.searchsorted(reached, energy - 1e-12)) + 1, len(singular))


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """float32 (m, n) -> U (m, k), s (k,), Vh (k, n) with k = min(m, n)."""
    u, s, vh = torch.linalg.svd(matrix.float(), full_matrices=False)
    return u, s, vh


def factors(u: Tensor, s: Tensor, vh: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """left (m, r), right (r, n): the singular values split evenly, so that both factors quantize alike."""
    root = s[:rank].sqrt()
    return (u[:, :rank] * root).contiguous(), (root[:, None] * vh[:rank]).contiguous()

"""Codebooks: levels between -1 and 1 that are denser where weights are. One level is exactly zero.

NormalFloat: Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, section 3 (its 4-bit constants are those of
bitsandbytes). Levels fitted to the data: Lloyd 1982, https://doi.org/10.1109/TIT.1982.1056489.
"""

from __future__ import annotations

from statistics import NormalDist

from webapp.engine.lazy import Tensor, torch


def normal_levels(bits: int) -> Tensor:
    """(2**bits,) quantiles of the normal distribution: half of them below zero, and one more above it."""
    half = 2 ** (bits - 1)
    outermost = 1 - (1 / (4 * half) + 1 / (4 * half - 2)) / 2  # 0.9677 at 4 bits: the mean of 1 - 1/32 and 1 - 1/30
    quantile = NormalDist().inv_cdf

    def side(count: int) -> list[float]:
        return [quantile(outermost + (0.5 - outermost) * index / count) for index in range(count)]

    levels = torch.tensor([-q for q in side(half - 1)] + [0.0] + side(half)[::-1])
    return levels / levels.abs().max()


def moved_levels(levels: Tensor, codes: Tensor, values: Tensor, scale: Tensor, weights: Tensor) -> Tensor:
    """One step of Lloyd's: each level to the weighted mean of the values that have its code; zero stays zero.

    codes int64 (n,), values and their scale (n,), weights (n,). The largest level is 1 in size, and they ascend.
    """
    share = weights * scale
    above = torch.zeros_like(levels).index_add_(0, codes, share * values)
    below = torch.zeros_like(levels).index_add_(0, codes, share * scale)
    moved = torch.where((below > 0) & (levels != 0), above / below.clamp(min=1e-30), levels)
    largest = moved.abs().max()
    return (moved / largest).sort().values if largest > 0 else levels

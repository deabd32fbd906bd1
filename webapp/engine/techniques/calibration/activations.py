"""Which values pass through a place while the samples go by, and the 8-bit range that suits them.

`percentile` and `entropy` as in Wu et al. 2020, https://arxiv.org/abs/2004.09602, section 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from webapp.engine.lazy import Tensor, torch
from webapp.engine.math.activations import TOP, grid_of
from webapp.engine.weights.activations import Range

Method = Literal["error", "minmax", "percentile", "entropy"]

SAMPLE = 1 << 18  # values of a batch that are counted
BINS = 8192  # of the histogram, evenly over [-reach, reach]
CANDIDATES = 64  # ranges that a search tries, from SMALLEST_SHARE of the whole one up to all of it
SMALLEST_SHARE = 0.01


class Histogram:
    """The least and largest value and, where it is `counting`, how often each was seen among SAMPLE of each batch.

    The bins lie over [-reach, reach]; `reach` doubles when a value lies outside.
    """

    def __init__(self, counting: bool = True) -> None:
        self.counting = counting
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        self.reach, self.low, self.high, self.seen = 0.0, 0.0, 0.0, 0

    def add(self, x: Tensor) -> None:
        """Any shape. What is not a finite number is left out."""
        values = x.detach().reshape(-1)
        if not len(values):
            return
        low, high = (float(end) for end in torch.aminmax(values))
        if not math.isfinite(low) or not math.isfinite(high):
            self.add(values[torch.isfinite(values)])
            return
        self.seen += len(values)
        self.low, self.high = min(self.low, low), max(self.high, high)
        if not self.counting:
            return
        self.reach = self.reach or max(-low, high) or 1.0
        while max(-low, high) > self.reach:
            middle = self.counts.view(-1, 2).sum(1)
            self.counts = torch.nn.functional.pad(middle, (BINS // 4, BINS // 4))
            self.reach *= 2
        some = values[:: max(1, len(values) // SAMPLE)].float()
        self.counts += torch.histc(some, BINS, -self.reach, self.reach).double()

    @property
    def centres(self) -> Tensor:
        width = 2 * self.reach / BINS
        return (torch.arange(BINS, dtype=torch.float64) + 0.5) * width - self.reach

    def range(self, method: Method, percentile: float = 99.999, unsigned: bool = False) -> Range:
        """The grid that the method finds; zero is always among its values, and the least where it is `unsigned`."""
        if method == "percentile":
            ends = self._percentiles(percentile)
        elif method == "minmax" or not self.seen:
            ends = (self.low, self.high)
        else:
            ends = self._searched(self._squared_error if method == "error" else self._divergence)
        scale, zero = grid_of(0.0 if unsigned else ends[0], ends[1])
        return Range(scale=scale, zero=zero)

    def _percentiles(self, share: float) -> tuple[float, float]:
        """Between which `share` per cent of the values lie, with as many below as above."""
        passed = self.counts.cumsum(0) / self.counts.sum().clamp(min=1)
        tail = (1 - share / 100) / 2
        low = int(torch.searchsorted(passed, tail)) * 2 * self.reach / BINS - self.reach
        high = (int(torch.searchsorted(passed, 1 - tail)) + 1) * 2 * self.reach / BINS - self.reach
        return max(self.low, low), min(self.high, high)

    def _searched(self, cost: Callable[[float, float], Tensor]) -> tuple[float, float]:
        """The cut at the same distance from zero on both sides that costs least."""
        farthest = max(-self.low, self.high)
        cuts = (farthest * torch.logspace(math.log10(SMALLEST_SHARE), 0, CANDIDATES).flip(0)).tolist()
        ranges = [(max(self.low, -cut), min(self.high, cut)) for cut in cuts]
        return min(ranges, key=lambda ends: float(cost(*ends)))

    def _squared_error(self, low: float, high: float) -> Tensor:
        """What rounding to the grid and cutting at its ends costs, summed over all values."""
        scale, zero = grid_of(low, high)
        centres = self.centres
        codes = ((centres / scale).round() + zero).clamp(0, TOP)
        error = (codes - zero) * scale - centres
        if scale > 2 * self.reach / BINS:
            return (self.counts * error.square()).sum()
        within = (centres >= low) & (centres <= high)  # in bins as wide as steps values are taken for evenly spread
        return (self.counts * torch.where(within, torch.full_like(error, scale**2 / 12), error.square())).sum()

    def _divergence(self, low: float, high: float) -> Tensor:
        """KL divergence of what the grid can tell apart from what was seen, cut values counted at the ends."""
        scale, zero = grid_of(low, high)
        codes = ((self.centres / scale).round() + zero).clamp(0, TOP).long()
        inside = (self.centres >= low) & (self.centres <= high) & (self.counts > 0)
        if not bool(inside.any()):
            return torch.tensor(torch.inf)
        seen = torch.where(inside, self.counts, 0.0)
        per_code = torch.zeros(TOP + 1, dtype=torch.float64).index_add_(0, codes, seen)
        bins_of_code = torch.zeros(TOP + 1, dtype=torch.float64).index_add_(0, codes, inside.double())
        told = torch.where(inside, per_code[codes] / bins_of_code[codes].clamp(min=1), 0.0)
        reference = seen.clone()
        places = inside.nonzero()[:, 0]
        reference[places[0]] += self.counts[: places[0]].sum()
        reference[places[-1]] += self.counts[places[-1] + 1 :].sum()
        p, q = reference[inside] / reference.sum(), told[inside] / told.sum()
        return (p * (p / q).log()).sum()

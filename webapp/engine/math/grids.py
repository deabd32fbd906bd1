"""Which grid a matrix is rounded to: the one that spans each group, or the one that leaves the least error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

from webapp.engine.lazy import Tensor, torch

from . import quantizers
from .quantizers import LARGEST_HALF, SMALLEST_HALF, Grid, grouped, nearest_units, stored_scale
from .threads import for_rows

NumberFormat = Literal["int", "normal", "fitted"]

CHUNK = 1 << 15  # values searched at a time: they stay in the cache of one core
SHRINKS = (1.0, 0.875, 0.75, 0.625, 0.5)  # of the scale that spans a group: the candidates of a search
POLISHING = 2  # times that the best candidate's scale is fitted to its codes, and they to it
SAMPLE = 1 << 16  # values that levels are fitted to
LLOYD_ROUNDS = 3
BINS = 1024  # of the table in which a search looks up the nearest level


def normal_levels(bits: int) -> Tensor:
    """(2**bits,) quantiles of the normal distribution, -1 to 1: half of them below zero, and one more above it.

    NormalFloat: Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, section 3 (at 4 bits bitsandbytes' constants).
    """
    half = 2 ** (bits - 1)
    outermost = 1 - (1 / (4 * half) + 1 / (4 * half - 2)) / 2  # 0.9677 at 4 bits: the mean of 1 - 1/32 and 1 - 1/30
    quantile = NormalDist().inv_cdf

    def side(count: int) -> list[float]:
        return [quantile(outermost + (0.5 - outermost) * index / count) for index in range(count)]

    levels = torch.tensor([-q for q in side(half - 1)] + [0.0] + side(half)[::-1])
    return levels / levels.abs().max()


def moved_levels(levels: Tensor, codes: Tensor, values: Tensor, scale: Tensor, weights: Tensor) -> Tensor:
    """One step of Lloyd's: each level to the weighted mean of the values that have its code; zero stays zero.

    Lloyd 1982, https://doi.org/10.1109/TIT.1982.1056489.

    codes int64 (n,), values and their scale (n,), weights (n,). The largest level is 1 in size, and they ascend.
    """
    share = weights * scale
    above = torch.zeros_like(levels).index_add_(0, codes, share * values)
    below = torch.zeros_like(levels).index_add_(0, codes, share * scale)
    moved = torch.where((below > 0) & (levels != 0), above / below.clamp(min=1e-30), levels)
    largest = moved.abs().max()
    return (moved / largest).sort().values if largest > 0 else levels


@dataclass(frozen=True)
class QuantizationScheme:
    """How a matrix becomes codes. `group` 0 is the whole row; a codebook has no zero points."""

    bits: int
    group: int = 0
    symmetric: bool = True
    numbers: NumberFormat = "int"
    search: bool = False

    def fitting(self, columns: int) -> QuantizationScheme:
        """Groups as wide as the matrix are rows."""
        return replace(self, group=self.group if self.group < columns else 0)


def fit_grid(matrix: Tensor, scheme: QuantizationScheme, weights: Tensor | None = None, sample: int = SAMPLE) -> Grid:
    """The grid for a float32 matrix (rows, columns). `weights` (columns,): how much an error in each column counts.

    `sample`: about how many values levels are fitted to.
    """
    scheme = scheme.fitting(matrix.shape[1])
    counts = None if weights is None else grouped((weights / weights.amax().clamp(min=1e-30))[None], scheme.group)
    levels = None
    if scheme.numbers != "int":
        levels = normal_levels(scheme.bits)
        if scheme.numbers == "fitted":
            levels = _fitted(matrix[:: max(1, matrix.numel() // sample)], scheme, levels, counts)
    found = [
        _searched(part, scheme, levels, counts) if scheme.search else _spanning(part, scheme, levels)
        for part in _chunks(matrix, scheme.group)
    ]
    scale = stored_scale(torch.cat([scale for scale, _ in found]))
    if levels is not None or scheme.symmetric:
        return Grid(scheme.bits, scheme.group, scale, None, levels)
    return Grid(scheme.bits, scheme.group, scale, torch.cat([zero for _, zero in found]).to(torch.uint8))


def fit_rows(parts: Iterable[Tensor], scheme: QuantizationScheme, codes: Tensor) -> Grid | None:
    """The grid of a matrix whose rows come in `parts`, of any float dtype, and the nearest `codes` uint8 on it.

    None where it takes more than a look at each part: levels that are fitted to all, or scales that are float16 in one
    part and float32 in another.
    """
    if scheme.numbers == "fitted":
        return None
    found: dict[int, Grid] = {}
    first = 0
    for part in parts:

        def some(chosen: slice, part: Tensor = part, first: int = first) -> None:
            floats, start = part[chosen].float(), first + chosen.start
            found[start] = fit_grid(floats, scheme)
            quantizers.quantize(floats, found[start], out=codes[start : start + len(floats)])

        for_rows(part.shape, quantizers.CHUNK, some)
        first += len(part)
    grids = [found[start] for start in sorted(found)]
    if len({grid.scale.dtype for grid in grids}) != 1:
        return None
    zeros = [grid.zero_point for grid in grids if grid.zero_point is not None]
    return replace(
        grids[0], scale=torch.cat([grid.scale for grid in grids]), zero_point=torch.cat(zeros) if zeros else None
    )


def may_be_wide(matrix: Tensor, scheme: QuantizationScheme) -> bool:
    """Whether a scale for a float32 matrix (rows, columns) may be none of float16's: then all of them are float32."""
    scheme = scheme.fitting(matrix.shape[1])
    least, most = 1.0, 1.0
    for part in _chunks(matrix, scheme.group):
        size = part.abs().amax(-1)
        most = max(most, float(size.max()) if size.numel() else 0.0)
        size = size[size > 0]
        least = min(least, float(size.min()) if size.numel() else 1.0)
    steps = 1 if scheme.numbers != "int" else 2 ** (scheme.bits - 1)
    least_share = SHRINKS[-1] if scheme.search else 1.0
    return least * least_share / (steps if scheme.symmetric else 2 * steps) < SMALLEST_HALF or most > LARGEST_HALF


def _chunks(matrix: Tensor, group: int) -> Iterator[Tensor]:
    """Some rows at a time, as (rows, groups, group)."""
    rows = max(1, CHUNK // max(matrix.shape[1], 1))
    for start in range(0, len(matrix), rows):
        yield grouped(matrix[start : start + rows], group)


def _spanning(values: Tensor, scheme: QuantizationScheme, levels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scale and zero point (rows, groups) of the grid that reaches every value: no error is above half a step."""
    low, high = values.amin(-1).clamp(max=0), values.amax(-1).clamp(min=0)
    top, middle = 2**scheme.bits - 1, 2 ** (scheme.bits - 1)
    if levels is not None:  # the outermost level is on one side only: the longer side gets it, by the scale's sign
        scale = torch.maximum(-low, high)
        return torch.where(high >= -low, scale, -scale), torch.zeros_like(scale)
    if scheme.symmetric:  # there is one code more below zero than above it, and the longer side gets that
        longer, shorter = torch.maximum(-low, high), torch.minimum(-low, high)
        scale = torch.maximum(longer / middle, shorter / (middle - 1))
        return torch.where(high > -low, -scale, scale), torch.full_like(scale, middle)
    scale = (high - low) / top
    return scale, (-low / torch.where(scale > 0, scale, 1.0)).round().clamp(0, top)


def _candidates(values: Tensor, scheme: QuantizationScheme, levels: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Scales and zero points to try, the spanning ones first. Where there is no zero point, of both signs."""
    scale, zero = _spanning(values, scheme, levels)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    for shrink in SHRINKS:
        yield shrink * scale, zero  # both ends of the range shrink alike, so the zero point stays
        if levels is not None or scheme.symmetric:
            yield -shrink * scale, zero


def _searched(
    values: Tensor, scheme: QuantizationScheme, levels: Tensor | None, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Scale and zero point (rows, groups) of the least squared error among the candidates, then polished.

    A candidate's units u are given the scale that suits them best, <w, u> / <u, u>, which leaves the error
    |w|^2 - <w, u>^2 / <u, u>; so the candidate with the largest last term is the best.
    """
    largest = values.abs().amax(-1, keepdim=True)
    values = values / torch.where(largest > 0, largest, 1.0)  # squares of very large and small values stay numbers
    counted = values if weights is None else values * weights
    best = torch.full(values.shape[:-1], -1.0)
    scale, zero = torch.ones_like(best), torch.zeros_like(best)

    table = None if levels is None else _table(levels)

    def consider(tried: Tensor, at: Tensor) -> None:
        nonlocal best, scale, zero
        ratios = values / tried[..., None]
        if table is None:
            units = nearest_units(ratios, at[..., None], 2**scheme.bits - 1, None)
        else:
            units = _looked_up(ratios, table)
        along = (units * counted).sum(-1)
        size = (units.square() if weights is None else units.square() * weights).sum(-1).clamp_(min=1e-30)
        gain = along.square() / size
        better = gain > best
        best = torch.where(better, gain, best)
        scale, zero = torch.where(better, along / size, scale), torch.where(better, at, zero)

    for tried, at in _candidates(values, scheme, levels):
        consider(tried, at)
    for _ in range(POLISHING):
        consider(torch.where(scale == 0, 1.0, scale), zero)
    return scale * largest[..., 0], zero


def _table(levels: Tensor) -> Tensor:
    """The nearest level of each of 2 * BINS + 1 numbers from -1 to 1."""
    return nearest_units(torch.linspace(-1, 1, 2 * BINS + 1), torch.tensor(0.0), 0, levels)


def _looked_up(ratios: Tensor, table: Tensor) -> Tensor:
    """Like `nearest_units`, out of a table, which is quick and wrong only next to a midpoint."""
    places = ratios.mul(BINS).add_(BINS + 0.5).clamp_(0, 2 * BINS).to(torch.int32)
    return torch.index_select(table, 0, places.reshape(-1)).reshape(ratios.shape)


def _fitted(matrix: Tensor, scheme: QuantizationScheme, levels: Tensor, weights: Tensor | None) -> Tensor:
    """Levels for this matrix, by Lloyd's method: scales and levels take turns."""
    values = grouped(matrix, scheme.group)
    counts = (torch.ones_like(values[:1]) if weights is None else weights).expand_as(values).reshape(-1)
    for _ in range(LLOYD_ROUNDS):
        scale, _ = _searched(values, scheme, levels, weights)
        scale = stored_scale(scale).float()[..., None].expand_as(values)
        codes = torch.bucketize((values / scale).contiguous(), (levels[1:] + levels[:-1]) / 2)
        levels = moved_levels(levels, codes.reshape(-1), values.reshape(-1), scale.reshape(-1), counts)
    return levels

"""Rounding to nearest on a grid of few numbers. Tensors in, tensors out; no lifecycle.

Uniform affine quantization as in Jacob et al. 2018, https://arxiv.org/abs/1712.05877, equation 1:
w = scale * (code - zero_point). With a codebook, as in Dettmers et al. 2023, https://arxiv.org/abs/2305.14314:
w = scale * levels[code]. Codes are unsigned, and one of them means exactly zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from webapp.engine.lazy import Tensor, functional, torch

from .threads import for_rows

SMALLEST_HALF, LARGEST_HALF = 2.0**-14, 65504.0  # normal numbers of float16
CHUNK = (1 << 15) - 1  # values rounded at a time: torch leaves so few to one thread, and they stay in its cache


@dataclass(frozen=True)
class Grid:
    """The numbers that a matrix (rows, columns) may hold; `groups` is ceil(columns / group), or 1.

    scale (rows, groups) in its stored dtype, of either sign; zero_point (rows, groups) uint8, or None where it lies in
    the middle; levels (2**bits,) float32 ascending with one exact zero, or None on a uniform grid.
    """

    bits: int
    group: int  # columns that share a scale; 0: the whole row
    scale: Tensor
    zero_point: Tensor | None = None
    levels: Tensor | None = None

    @property
    def top(self) -> int:
        """The largest code."""
        return int(2**self.bits - 1)

    @property
    def zero(self) -> Tensor:
        """The code that means zero: float32 (rows, groups), or a scalar where it is the same everywhere."""
        if self.levels is not None:
            return self.levels.abs().argmin().float()
        return torch.tensor(2.0 ** (self.bits - 1)) if self.zero_point is None else self.zero_point.float()

    def across(self, per_group: Tensor, columns: int) -> Tensor:
        """(rows, groups) -> (rows, columns): what a group has in common, at each of its columns. A scalar stays one."""
        if per_group.dim() == 0:
            return per_group
        return per_group.repeat_interleave(self.group or columns, dim=1)[:, :columns]

    def rows(self, start: int, end: int) -> Grid:
        """The grid of some of the rows."""
        return self.at(slice(start, end))

    def at(self, rows: Tensor | slice) -> Grid:
        """The grid of the rows at these places (n,)."""
        zero = None if self.zero_point is None else self.zero_point[rows]
        return replace(self, scale=self.scale[rows], zero_point=zero)

    def on(self, device: torch.device) -> Grid:
        """The grid in the memory of another device."""
        zero_point, levels = (None if part is None else part.to(device) for part in (self.zero_point, self.levels))
        return replace(self, scale=self.scale.to(device), zero_point=zero_point, levels=levels)

    def with_scales(self, *scales: Tensor) -> Grid:
        """The grid with these scales, each (some rows, groups), one below the other."""
        return replace(self, scale=stored_scale(torch.cat([scale.float() for scale in scales])))

    def with_zero_points(self, *zero_points: Tensor) -> Grid:
        """The same of zero points."""
        return replace(self, zero_point=torch.cat(zero_points))


def grouped(matrix: Tensor, group: int) -> Tensor:
    """(rows, columns) -> (rows, groups, group), the last group padded with zeros; group 0 is the whole row."""
    rows, columns = matrix.shape
    if not group or group >= columns:
        return matrix[:, None, :]
    whole = functional.pad(matrix, (0, -columns % group)) if columns % group else matrix  # padding by none copies
    return whole.reshape(rows, math.ceil(columns / group), group)


def stored_scale(scale: Tensor) -> Tensor:
    """float32 scales of either sign as the file holds them: float16, or float32 where one leaves its normal range.

    A scale of zero, of a group without values, becomes one: it decodes to zero under any.
    """
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    size = scale.abs()
    fits = bool((size >= SMALLEST_HALF).all()) and bool((size <= LARGEST_HALF).all())
    return scale.to(torch.float16 if fits else torch.float32)


def nearest_units(ratios: Tensor, zero: Tensor, top: int, levels: Tensor | None) -> Tensor:
    """What values divided by their scale are rounded to: whole steps from `zero`, which broadcasts, or levels."""
    if levels is None:
        if zero.numel() == 1:  # by a number it is several times as quick as by a tensor
            return ratios.round().clamp_(-float(zero), top - float(zero))
        return torch.clamp(ratios.round(), -zero, top - zero)
    return levels[torch.bucketize(ratios.contiguous(), (levels[1:] + levels[:-1]) / 2)]


def codes_of(units: Tensor, zero: Tensor, levels: Tensor | None) -> Tensor:
    """The codes, uint8, of what `nearest_units` gave."""
    codes = units + zero if levels is None else torch.bucketize(units.contiguous(), levels)
    return codes.to(torch.uint8)


def quantize(matrix: Tensor, grid: Grid, out: Tensor | None = None) -> Tensor:
    """The nearest codes of a float32 matrix: uint8 (rows, columns)."""
    rows, columns = matrix.shape
    codes = torch.empty(rows, columns, dtype=torch.uint8) if out is None else out

    def some(chosen: slice) -> None:
        own = grid.rows(chosen.start, chosen.stop)
        ratios = grouped(matrix[chosen], grid.group) / own.scale.float()[..., None]
        zero = own.zero[..., None]
        found = codes_of(nearest_units(ratios, zero, grid.top, grid.levels), zero, grid.levels)
        codes[chosen] = found.reshape(len(found), -1)[:, :columns]

    for_rows((rows, columns), CHUNK, some)
    return codes


def dequantize(codes: Tensor, grid: Grid) -> Tensor:
    """uint8 (rows, columns) -> float32 (rows, columns)."""
    rows, columns = codes.shape
    return (_units(codes, grid) * grid.scale.float()[..., None]).reshape(rows, -1)[:, :columns]


def _units(codes: Tensor, grid: Grid) -> Tensor:
    """Values over their scale, float32 (rows, groups, group)."""
    blocks = grouped(codes, grid.group)
    if grid.levels is not None:
        return grid.levels[blocks.long()]
    return blocks - grid.zero[..., None].to(blocks.device)


def dequantize_into(codes: Tensor, grid: Grid, place: Tensor) -> None:
    """The same, some rows at a time, into `place` (rows, columns) of any float dtype."""

    def some(chosen: slice) -> None:
        place[chosen] = dequantize(codes[chosen], grid.rows(chosen.start, chosen.stop))

    for_rows(codes.shape, CHUNK, some)


def scale_gradient(gradient: Tensor, codes: Tensor, grid: Grid) -> Tensor:
    """That of the scales, float32 (rows, groups), from the gradient (rows, columns) of what the codes decode to."""
    found = torch.empty(grid.scale.shape, device=gradient.device)

    def some(chosen: slice) -> None:
        units = _units(codes[chosen], grid.rows(chosen.start, chosen.stop))
        found[chosen] = (units * grouped(gradient[chosen].float(), grid.group)).sum(-1)

    for_rows(codes.shape, CHUNK, some)
    return found


def count_zero_codes(codes: Tensor, grid: Grid) -> int:
    """How many of the codes uint8 (rows, columns) mean zero."""
    if grid.zero.dim() == 0:
        return codes.numel() - int(np.count_nonzero(codes.numpy() != np.uint8(int(grid.zero))))
    found = []

    def some(chosen: slice) -> None:
        found.append(int((codes[chosen] == zero_codes(grid.rows(chosen.start, chosen.stop), codes.shape[1])).sum()))

    for_rows(codes.shape, CHUNK, some)
    return sum(found)


def nearest_values(matrix: Tensor, grid: Grid) -> Tensor:
    """What the nearest codes of a float32 matrix (rows, columns) decode to, without the codes."""
    rows, columns = matrix.shape
    scale = grid.scale.float()[..., None]
    units = nearest_units(grouped(matrix, grid.group) / scale, grid.zero[..., None], grid.top, grid.levels)
    return (units * scale).reshape(rows, -1)[:, :columns]


def zero_codes(grid: Grid, columns: int) -> Tensor:
    """The code that means zero at every place: uint8, broadcastable to (rows, columns)."""
    return grid.across(grid.zero, columns).to(torch.uint8)


def fake_quantize(matrix: Tensor, grid: Grid, scale: Tensor) -> Tensor:
    """What a float32 matrix (rows, columns) decodes to after rounding to the grid; `scale` (rows, groups) is its scale.

    The gradient passes unchanged to values within the grid and not to those beyond (the straight-through estimator,
    https://arxiv.org/abs/1308.3432). That of the scale is the learned step size's, equation 3 of
    https://arxiv.org/abs/1902.08153: rounded less unrounded units within the grid, the end's units beyond.
    """
    rows, columns = matrix.shape
    zero = grid.zero[..., None].to(matrix.device)
    ratios = grouped(matrix, grid.group) / scale[..., None]
    rounded = nearest_units(ratios.detach(), zero, grid.top, grid.levels)
    low, high = (-zero, grid.top - zero) if grid.levels is None else (grid.levels[0], grid.levels[-1])
    inside = torch.clamp(ratios, low - 0.5, high + 0.5)  # a little more than what rounds to the ends
    through = inside + (rounded - inside).detach()
    return (through * scale[..., None]).reshape(rows, -1)[:, :columns]


def as_stored(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The values as they are after storing in `dtype`; the gradient passes unchanged."""
    return values + (values.to(dtype).float() - values).detach()

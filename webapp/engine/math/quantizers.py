"""Round-to-nearest onto a uniform integer grid. Tensors in, tensors out; no lifecycle.

Uniform affine quantization as in Jacob et al. 2018, https://arxiv.org/abs/1712.05877, equation 1:
w = scale * (code - zero_point). Codes are unsigned; a symmetric grid has its zero point in the middle.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST_HALF, LARGEST_HALF = 2.0**-14, 65504.0  # normal numbers of float16


class Grid(NamedTuple):
    """scale (rows, groups) in its stored dtype; zero_point (rows, groups) uint8, or None on a symmetric grid."""

    scale: Tensor
    zero_point: Tensor | None


def grouped(matrix: Tensor, group: int) -> Tensor:
    """(rows, columns) -> (rows, groups, group), the last group padded with zeros; group 0 is the whole row."""
    rows, columns = matrix.shape
    if not group or group >= columns:
        return matrix[:, None, :]
    return F.pad(matrix, (0, -columns % group)).reshape(rows, math.ceil(columns / group), group)


def fit_grid(matrix: Tensor, bits: int, group: int, symmetric: bool) -> Grid:
    """The grid that spans every group of a float32 matrix (rows, columns).

    Symmetric: codes -(2**(bits-1) - 1) .. 2**(bits-1) - 1, so that zero and both signs are exact.
    Asymmetric: 0 .. 2**bits - 1 over [min(w, 0), max(w, 0)], zero exact. Scales are float16, or float32
    where one leaves float16's normal range, and codes are made with the scale as stored.
    """
    blocks = grouped(matrix, group)
    if symmetric:
        scale = blocks.abs().amax(-1) / symmetric_top(bits)
    else:
        low, high = blocks.amin(-1).clamp(max=0), blocks.amax(-1).clamp(min=0)
        scale = (high - low) / (2**bits - 1)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # a dead row decodes to zero under any scale
    scale = scale.to(scale_dtype(scale))
    if symmetric:
        return Grid(scale, None)
    return Grid(scale, (-low / scale.float()).round().clamp(0, 2**bits - 1).to(torch.uint8))


def scale_dtype(scale: Tensor) -> torch.dtype:
    fits = bool((scale >= SMALLEST_HALF).all()) and bool((scale <= LARGEST_HALF).all())
    return torch.float16 if fits else torch.float32


def symmetric_top(bits: int) -> int:
    return int(2 ** (bits - 1)) - 1


def quantize(matrix: Tensor, grid: Grid, bits: int, group: int) -> Tensor:
    """The nearest codes of a float32 matrix: uint8 (rows, columns)."""
    rows, columns = matrix.shape
    steps = (grouped(matrix, group) / grid.scale.float()[..., None]).round()
    if grid.zero_point is None:
        top = symmetric_top(bits)
        codes = steps.clamp(-top, top) + 2 ** (bits - 1)
    else:
        codes = (steps + grid.zero_point[..., None]).clamp(0, 2**bits - 1)
    packed: Tensor = codes.to(torch.uint8).reshape(rows, -1)[:, :columns]
    return packed


def dequantize(codes: Tensor, grid: Grid, bits: int, group: int) -> Tensor:
    """uint8 (rows, columns) -> float32 (rows, columns)."""
    rows, columns = codes.shape
    blocks = grouped(codes.float(), group)
    zero = 2 ** (bits - 1) if grid.zero_point is None else grid.zero_point[..., None].float()
    return ((blocks - zero) * grid.scale.float()[..., None]).reshape(rows, -1)[:, :columns]


def zero_codes(grid: Grid, bits: int, group: int, columns: int) -> Tensor:
    """The code that means zero at every place: uint8, broadcastable to (rows, columns)."""
    if grid.zero_point is None:
        return torch.full((1, 1), 2 ** (bits - 1), dtype=torch.uint8)
    width = group or columns
    return grid.zero_point.repeat_interleave(width, dim=1)[:, :columns]

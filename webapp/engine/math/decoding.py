"""Decoding of codes that stay, with a gradient for their scales alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from . import quantizers
from .quantizers import Grid


class FixedCodes(torch.autograd.Function):
    """scale (rows, groups) float32 -> the matrix (rows, columns) that it and the codes decode to, put into `place`.

    The gradient of a scale is the sum over its group of each value's, times its code less the zero point: no rounding
    is passed through. Nothing is kept but the codes, and `place` is written anew by the next pass.
    """

    @staticmethod
    def forward(ctx: Any, scale: Tensor, codes: Tensor, grid: Grid, place: Tensor) -> Tensor:
        ctx.codes, ctx.grid = codes, grid
        quantizers.dequantize_into(codes, replace(grid, scale=scale), place)
        return place.detach()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None]:
        return quantizers.scale_gradient(outer[0], ctx.codes, ctx.grid), None, None, None

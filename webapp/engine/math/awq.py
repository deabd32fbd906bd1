"""Scales for a layer's inputs, so that the columns that matter most are rounded most finely.

AWQ: Lin et al. 2023, https://arxiv.org/abs/2306.00978, equations 4 and 5, with the output's error taken from the
inputs' covariance.
"""

from __future__ import annotations

from collections.abc import Sequence

from webapp.engine.lazy import Tensor, torch

from .grids import QuantizationScheme, fit_grid
from .quantizers import dequantize, quantize

EXPONENTS = 20  # tried between 0, which leaves the layer as it is, and 1


def output_error(change: Tensor, covariance: Tensor) -> Tensor:
    """The squared error that a change (rows, columns) of the matrix makes on inputs of that covariance."""
    return ((change @ covariance) * change).sum()


def input_scales(sizes: Tensor, exponent: float) -> Tensor:
    """(columns,) from the inputs' mean absolute values: their power, around one. A silent input's scale is one."""
    powers = sizes.clamp(min=1e-8).pow(exponent)
    scales = torch.where(sizes > 0, powers, torch.ones_like(powers))
    return scales / (scales.amax() * scales.amin()).sqrt()


def searched_scales(
    matrices: Sequence[tuple[Tensor, QuantizationScheme]], sizes: Tensor, covariance: Tensor
) -> Tensor | None:
    """(columns,) for matrices (rows, columns) that read the same inputs; None where the layers round best as they are.

    sizes (columns,): the inputs' mean absolute values; covariance (columns, columns).
    """

    def error(scales: Tensor) -> float:
        total = 0.0
        for matrix, scheme in matrices:
            scaled = matrix * scales
            grid = fit_grid(scaled, scheme)
            change = dequantize(quantize(scaled, grid), grid) / scales - matrix
            total += float(output_error(change, covariance))
        return total

    best, least = None, error(torch.ones_like(sizes))
    for step in range(1, EXPONENTS + 1):
        scales = input_scales(sizes, step / EXPONENTS)
        found = error(scales)
        if found < least:
            best, least = scales, found
    return best

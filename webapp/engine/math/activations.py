"""Activations as unsigned 8-bit integers: the ranges they are rounded to, as a runtime computes them.

Jacob et al. 2018, https://arxiv.org/abs/1712.05877: x = scale * (code - zero). Every function gives back floats that
lie on the grid, with the arithmetic in the order in which the ONNX graph does it; gradients pass straight through.
"""

from __future__ import annotations

from webapp.engine.lazy import Tensor, torch

TOP = 255
SMALLEST = 1e-12  # of a range, so that a constant row divides by something


def by_token(x: Tensor) -> Tensor:
    """Each row along the last axis on a grid of its own, from its smallest to its largest value."""
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    scale = (high - low).clamp(min=SMALLEST) * (1 / TOP)
    return _through(x, torch.round((x - low) / scale) * scale + low)


def by_tensor(x: Tensor) -> Tensor:
    """One grid for all of x, zero exact: ONNX's DynamicQuantizeLinear."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low).clamp(min=SMALLEST) / TOP
    return _through(x, _rounded(x, scale, (-low / scale).round().clamp(0, TOP)))


def fixed(x: Tensor, scale: float, zero: int) -> Tensor:
    """A grid that calibration found: ONNX's QuantizeLinear. What lies outside is cut off."""
    return _through(x, _rounded(x, torch.tensor(scale), torch.tensor(float(zero))))


def grid_of(low: float, high: float) -> tuple[float, int]:
    """(scale, zero) of the grid that reaches from low to high, zero exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(high - low, SMALLEST) / TOP
    return scale, min(TOP, max(0, round(-low / scale)))


def _rounded(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return ((x / scale).round() + zero).clamp(0, TOP).sub(zero) * scale


def _through(x: Tensor, rounded: Tensor) -> Tensor:
    return x + (rounded - x).detach() if x.requires_grad else rounded

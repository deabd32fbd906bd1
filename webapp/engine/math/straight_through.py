"""Rounding that gradients pass through: how integers are trained on their grid."""

from __future__ import annotations

from webapp.engine.lazy import Tensor, torch

from .quantizers import Grid, grouped, nearest_units


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

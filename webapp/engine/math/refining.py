"""Codes and scales that were found one after the other, improved in turn: the error of the outputs only falls.

Scales by least squares; codes by coordinate descent, as QuantEase, Behdin et al. 2023,
https://arxiv.org/abs/2309.01885, equation 5.
"""

from __future__ import annotations

from dataclasses import replace

from webapp.engine.lazy import Tensor, torch

from .gptq import BLOCK, RoundingProblem, in_columns
from .quantizers import Grid, codes_of, dequantize, grouped, nearest_units, stored_scale
from .systems import solved

PULL = 1e-3  # towards the scale as it is, of its own share of the error
AT_A_TIME = 1 << 22  # values of the equations that are solved together


def refined(
    given: RoundingProblem, codes: Tensor, grid: Grid, zeros: Tensor | None, passes: int
) -> tuple[Tensor, Grid]:
    """Codes (rows, columns) and grid after so many passes over both. Where zeros (rows, columns) is true: zero."""
    for _ in range(passes):
        grid = refitted(given, codes, grid)
        codes = descended(given, codes, grid, zeros)
    return codes, grid


def refitted(given: RoundingProblem, codes: Tensor, grid: Grid) -> Grid:
    """The grid with the scales that suit the codes best, row by row; a row that does not gain keeps its own."""
    groups = grid.scale.shape[1]
    rows = max(1, AT_A_TIME // groups**2)
    one = dequantize(codes, replace(grid, scale=torch.ones_like(grid.scale)))
    found = [
        _least_squares(
            given.matrix[at : at + rows], given.hessian, one[at : at + rows], grid, grid.scale[at : at + rows]
        )
        for at in range(0, len(codes), rows)
    ]
    changed = replace(grid, scale=stored_scale(torch.cat(found)))
    gained = given.errors(codes, changed) < given.errors(codes, grid)
    return replace(grid, scale=stored_scale(torch.where(gained[:, None], changed.scale.float(), grid.scale.float())))


def _least_squares(matrix: Tensor, hessian: Tensor, units: Tensor, grid: Grid, scale: Tensor) -> Tensor:
    """(rows, groups): the s that minimise the error of sum_g s_g u_g, u_g the units of a group and zero elsewhere."""
    columns, groups = matrix.shape[1], scale.shape[1]
    width = grid.group or columns
    products = torch.empty(len(matrix), groups, groups)  # u_g^T H u_k
    wanted = torch.empty(len(matrix), groups)  # u_g^T H w
    for g in range(groups):
        part = slice(g * width, min((g + 1) * width, columns))
        reached = units[:, part] @ hessian[part]
        products[:, g] = grouped(reached * units, grid.group).sum(-1)
        wanted[:, g] = (reached * matrix).sum(-1)
    own = products.diagonal(dim1=1, dim2=2)
    pull = torch.where(own > 0, PULL * own, 1.0)  # a group without values keeps its scale
    return solved(products + torch.diag_embed(pull), (wanted + pull * scale.float())[..., None])[..., 0]


def descended(given: RoundingProblem, codes: Tensor, grid: Grid, zeros: Tensor | None = None) -> Tensor:
    """Codes after each column, in turn, was rounded to what is best while all others are as they are."""
    columns, hessian = codes.shape[1], given.hessian
    scale, zero = in_columns(grid, columns)
    held = None if zeros is None else zeros.t()
    values = dequantize(codes, grid).t().contiguous()  # (columns, rows)
    slope = hessian @ (given.matrix.t() - values)
    size = hessian.diagonal()
    units = torch.empty_like(values)
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        own, steps, within = (
            hessian[start:end, start:end].contiguous(),
            torch.empty_like(values[start:end]),
            slope[start:end],
        )
        for i, at in enumerate(range(start, end)):
            best = (values[at] + within[i] / size[at]) / scale[at]
            nearest = nearest_units(best, zero if zero.dim() == 0 else zero[at], grid.top, grid.levels)
            units[at] = nearest if held is None else nearest.masked_fill_(held[at], 0.0)
            steps[i] = units[at] * scale[at] - values[at]
            within.addr_(own[i], steps[i], alpha=-1)
        slope[:start].addmm_(hessian[start:end, :start].t(), steps, alpha=-1)
        slope[end:].addmm_(hessian[start:end, end:].t(), steps, alpha=-1)
    return codes_of(units, zero, grid.levels).t().contiguous()

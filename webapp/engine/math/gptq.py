"""Rounding column by column, each column's error compensated by the remaining columns.

GPTQ: Frantar et al. 2022, https://arxiv.org/abs/2210.17323, in its form by Cholesky factors and lazy blocks (section
3.3).
"""

from __future__ import annotations

from dataclasses import dataclass

from webapp.engine.lazy import Tensor, torch

from .obs import FAINTEST, factor_of_inverse
from .quantizers import Grid, codes_of, dequantize, nearest_units, nearest_values, quantize

BLOCK = 128  # columns whose errors reach the columns after them in one product
LEAST_DAMPING, MOST_DAMPING = 1e-4, 1.0  # where it has to be raised


@dataclass(frozen=True)
class RoundingProblem:
    """Codes are wanted for `matrix` (rows, columns), whose errors count by `hessian` (columns, columns), damped.

    order (columns,): the sequence in which columns are rounded. factor (columns, columns): the upper U, U^T U = H^-1
    in that sequence, whose row i holds what rounding the i-th column does to those after it.
    """

    matrix: Tensor
    hessian: Tensor
    order: Tensor
    factor: Tensor

    @property
    def weights(self) -> Tensor:
        """(columns,): what an error in a column costs once those after it have made up for it, 1 / U_ii^2."""
        found = torch.empty(len(self.order))
        found[self.order] = self.factor.diagonal().square().reciprocal()
        return found

    def errors(self, codes: Tensor, grid: Grid) -> Tensor:
        """(rows,): the squared error of each output."""
        change = self.matrix - dequantize(codes, grid)
        return ((change @ self.hessian) * change).sum(1)


def problem(matrix: Tensor, covariance: Tensor, damping: float, act_order: bool) -> RoundingProblem | None:
    """None where the covariance (columns, columns) of the inputs cannot be inverted however it is damped.

    `damping` of its mean diagonal is added to it, more where that is too little; an input that never spoke counts as
    the mean.
    """
    diagonal = covariance.diagonal()
    quiet = diagonal <= 0
    mean = diagonal[~quiet].mean() if bool((~quiet).any()) else torch.tensor(1.0)
    order = torch.argsort(diagonal, descending=True, stable=True) if act_order else torch.arange(len(diagonal))
    while mean > FAINTEST and damping <= MOST_DAMPING:
        hessian = covariance + torch.diag(torch.where(quiet, mean, damping * mean))
        factor = factor_of_inverse(hessian[order][:, order])
        if factor is not None:
            return RoundingProblem(matrix, hessian, order, factor)
        damping = max(10 * damping, LEAST_DAMPING)
    return None


def rounded(given: RoundingProblem, grid: Grid, zeros: Tensor | None = None) -> Tensor:
    """Codes, uint8 (rows, columns), on a grid that is fixed beforehand. Where zeros (rows, columns) is true: zero.

    A row for which plain rounding happens to be better gets that, so the error is never above rounding's.
    """
    left = given.matrix.t()[given.order].contiguous()  # (columns, rows): a column lies in one piece
    columns = len(left)
    scale, zero = in_columns(grid, columns)
    scale, zero = scale[given.order], zero if zero.dim() == 0 else zero[given.order]
    held = None if zeros is None else zeros.t()[given.order]
    units = torch.empty_like(left)
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        block, own = left[start:end], given.factor[start:end, start:end]
        errors = torch.empty_like(block)
        for i, at in enumerate(range(start, end)):
            nearest = nearest_units(block[i] / scale[at], zero if zero.dim() == 0 else zero[at], grid.top, grid.levels)
            units[at] = nearest if held is None else nearest.masked_fill_(held[at], 0.0)
            errors[i] = (block[i] - units[at] * scale[at]) / own[i, i]
            block[i + 1 :].addr_(own[i, i + 1 :], errors[i], alpha=-1)
        left[end:].addmm_(given.factor[start:end, end:].t(), errors, alpha=-1)
    codes = torch.empty(columns, len(given.matrix), dtype=torch.uint8)
    codes[given.order] = codes_of(units, zero, grid.levels)
    codes = codes.t().contiguous()
    matrix = given.matrix if zeros is None else given.matrix.masked_fill(zeros, 0.0)
    plain = quantize(matrix, grid)
    worse = given.errors(codes, grid) > given.errors(plain, grid)
    return torch.where(worse[:, None], plain, codes)


def expected(given: RoundingProblem, grid: Grid) -> Tensor:
    """The matrix (rows, columns) as rounding on the grid would change its outputs, without going over the columns.

    Rounding the columns one after the other leaves W + E U, with what was rounded away of each column, over U_ii, in E.
    That is as large, and as random, as what rounding to nearest takes away, and is taken from there; so the values
    are not on the grid, and their error (E U) H (E U)^T = E E^T is that of the codes, within a few per cent.
    """
    away = nearest_values(given.matrix, grid) - given.matrix
    errors = away[:, given.order] / given.factor.diagonal()
    found = given.matrix.clone()
    found[:, given.order] += errors @ given.factor
    return found


def in_columns(grid: Grid, columns: int) -> tuple[Tensor, Tensor]:
    """Scale and zero of a grid, as float32 (columns, rows); the zero is a scalar where it is the same everywhere."""
    scale, zero = grid.across(grid.scale.float(), columns), grid.across(grid.zero, columns)
    return scale.t().contiguous(), zero if zero.dim() == 0 else zero.t().contiguous()

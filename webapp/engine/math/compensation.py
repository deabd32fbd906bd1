"""What low rank puts back of a rounding error: W ~ Q + U V, with U V the best of its rank for what Q took away.

In the metric of the inputs' covariance H: U V = [E L]_r L^-1 with E = W - Q, L L^T = H, and [.]_r the best
approximation of rank r. LQER, Zhang et al. 2024, https://arxiv.org/abs/2402.02446, section 3, takes the diagonal
of H, and EoRA, Liu et al. 2024, https://arxiv.org/abs/2410.21271, all of it; without data H is the identity
(ZeroQuant-V2's low-rank compensation, https://arxiv.org/abs/2303.08302). As in CALDERA, Saha et al. 2024,
https://arxiv.org/abs/2405.18886, the factors are rounded too, and rounding W and fitting them take turns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from webapp.engine.lazy import Tensor, torch

from .gptq import RoundingProblem, problem, rounded
from .grids import QuantizationScheme, fit_grid
from .quantizers import Grid, dequantize, quantize, zero_codes
from .refining import refined

FACTORS = QuantizationScheme(4, search=True)  # what the factors are rounded to: 8 bits keep less in the same bytes
ROUNDS = 2  # of rounding what the factors leave, and fitting factors to what that took away
MORE, PASSES = 8, 2  # directions beside those wanted, and passes over the error, of a search for the largest
SEED = 0  # of the directions that it starts with
DAMPING = 1e-4  # of the small covariance that the left factor is rounded by

Coded = tuple[Tensor, Grid]  # codes uint8 (rows, columns), and what they mean


class CorrectedCodes(NamedTuple):
    """`base` codes of (m, n), `up` of (m, r) and `down` of (r, n): the matrix is base + up down."""

    base: Coded
    up: Coded
    down: Coded

    @property
    def correction(self) -> Tensor:
        """up down, float32 (m, n)."""
        return dequantize(*self.up) @ dequantize(*self.down)


def compensated(
    matrix: Tensor, base: Coded, rank: int, round_again: Callable[[Tensor], Coded], given: RoundingProblem | None
) -> CorrectedCodes:
    """float32 (m, n) as codes, and what is best added to them; the error is not above that of `base`, its codes alone.

    `round_again` rounds another matrix (m, n) as `base` was. `given` has the metric; None: every input alike.
    """
    best = _fitted(matrix, base, rank, given)
    for _ in range(ROUNDS - 1):
        found = _fitted(matrix, round_again(matrix - best.correction), rank, given)
        if _error(matrix, found, given) < _error(matrix, best, given):
            best = found
    return best


def largest_directions(error: Tensor, rank: int) -> Tensor:
    """(m, rank) orthonormal: about those in which an error (m, n) is largest, the largest first.

    A subspace iteration with MORE directions than are wanted: Halko et al. 2011, https://arxiv.org/abs/0909.4061,
    algorithm 4.4. Exact where the matrix has no more than that.
    """
    rows, columns = error.shape
    count = min(rank + MORE, rows, columns)
    drawn = torch.Generator().manual_seed(SEED)
    right = torch.randn(columns, count, generator=drawn)
    for _ in range(PASSES):
        right = torch.linalg.qr(error.t() @ torch.linalg.qr(error @ right).Q).Q
    left = torch.linalg.qr(error @ right).Q
    seen = (left.t() @ error).double()
    _, turned = torch.linalg.eigh(seen @ seen.t())
    found: Tensor = left @ turned.flip(1)[:, :rank].float()
    return found


def best_factors(error: Tensor, rank: int, given: RoundingProblem | None) -> tuple[Tensor, Tensor]:
    """up (m, r), down (r, n): their product is the nearest to an error (m, n). Rows of down have norm one in the
    metric, so that an error in any column of up costs the same."""
    away = error
    if given is not None:  # L = U^-1, of the factor U^T U = H^-1, in its order
        away = torch.linalg.solve_triangular(given.factor, error[:, given.order], upper=True, left=False)
    left = largest_directions(away, rank)
    right = left.t() @ away
    size = right.norm(dim=1).clamp(min=1e-30)
    down = right / size[:, None]
    if given is not None:
        down = torch.empty_like(right).index_copy_(1, given.order, down @ given.factor)
    return left * size, down


def _fitted(matrix: Tensor, base: Coded, rank: int, given: RoundingProblem | None) -> CorrectedCodes:
    """The factors of what `base` took away: down rounded, up fitted to that by least squares and rounded."""
    error = matrix - dequantize(*base)
    up, down = best_factors(error, rank, given)
    scale = (up.norm() / down.norm().clamp(min=1e-30)).sqrt().clamp(min=1e-6)
    lower = _rounded(scale * down, given)
    values = dequantize(*lower)
    seen = values if given is None else values @ given.hessian  # (r, n)
    inner = seen @ values.t()
    small = problem(up, inner, DAMPING, act_order=True)
    if small is None:  # nothing was taken away
        return CorrectedCodes(base, _nothing(up), lower)
    best = torch.linalg.solve(small.hessian.double(), (seen @ error.t()).double()).t().float().contiguous()
    codes, grid = _rounded(best, replace(small, matrix=best))
    left = error - dequantize(codes, grid) @ values
    worse = _errors(left, given) > _errors(error, given)
    return CorrectedCodes(base, (torch.where(worse[:, None], zero_codes(grid, rank), codes), grid), lower)


def _rounded(matrix: Tensor, given: RoundingProblem | None) -> Coded:
    if given is None:
        grid = fit_grid(matrix, FACTORS)
        return quantize(matrix, grid), grid
    own = replace(given, matrix=matrix.contiguous())
    grid = fit_grid(matrix, FACTORS, own.weights)
    return refined(own, rounded(own, grid), grid, None, 1)


def _nothing(like: Tensor) -> Coded:
    grid = fit_grid(torch.zeros_like(like), FACTORS)
    return quantize(torch.zeros_like(like), grid), grid


def _error(matrix: Tensor, found: CorrectedCodes, given: RoundingProblem | None) -> float:
    return float(_errors(matrix - dequantize(*found.base) - found.correction, given).sum())


def _errors(change: Tensor, given: RoundingProblem | None) -> Tensor:
    """(m,): the squared error of each output."""
    return (change if given is None else change @ given.hessian).mul(change).sum(1)

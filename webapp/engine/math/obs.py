"""Optimal brain surgery, one column after the other: what goes is made up for by the weights that are still to come.

SparseGPT, Frantar and Alistarh 2023, https://arxiv.org/abs/2301.00774, algorithm 1. The Hessian of the squared output
error of a layer is the covariance of its inputs, H = x^T x, the same for every row of the matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from webapp.engine.lazy import Tensor, torch

from . import masks

BLOCK = 128  # columns whose mask is chosen at once, and whose errors reach the columns after them together
STRIP = 16  # columns of a block that are updated one by one; a multiple of every pattern's m
FAINTEST = 1e-30  # of the mean of the diagonal: below it squares lose their digits, and tell nothing
MOST_DAMPING = 1.0  # of the mean of the diagonal; a Hessian that is singular even so tells nothing


class Pattern(NamedTuple):
    """`share` of the weights goes; or, with m, of every m neighbours in each `run` of columns all but n."""

    share: float
    run: int
    n: int = 0
    m: int = 0

    def largest(self, scores: Tensor) -> Tensor:
        """Where a value of scores (rows, columns) stays if the whole matrix is chosen from at once."""
        if not self.m:
            return masks.keep_largest(scores, self.share)
        keep = masks.largest_of_groups(scores.reshape(-1, self.run), self.n, self.m)
        return keep.view_as(scores)


class Curvature(NamedTuple):
    """H (columns, columns), positive definite; the upper U with U^T U = H^-1; and the damping that made it so.

    The damping is a multiple of the mean of H's diagonal. None: H tells nothing and is the identity.
    """

    hessian: Tensor
    factor: Tensor
    damping: float | None


def curvature(hessian: Tensor, damping: float) -> Curvature:
    """H + damping * mean(diag H) * I. While that is still singular the damping is raised tenfold."""
    identity, mean = torch.eye(len(hessian)), float(hessian.diagonal().mean())
    while FAINTEST < mean < torch.inf and damping <= MOST_DAMPING:
        damped = hessian + damping * mean * identity
        factor = factor_of_inverse(damped)
        if factor is not None:
            return Curvature(damped, factor, damping)
        damping = max(10 * damping, 1e-4)
    return Curvature(identity, identity, None)


def factor_of_inverse(hessian: Tensor) -> Tensor | None:
    """The upper U with U^T U = H^-1 of an H (columns, columns); None where it is singular, or no numbers."""
    lower, failed = torch.linalg.cholesky_ex(hessian.flip(0, 1))  # flipped, it is an upper factor of H
    if int(failed) or not bool(torch.isfinite(lower).all()):
        return None
    found: Tensor = torch.linalg.solve_triangular(lower, torch.eye(len(hessian)), upper=False).flip(0, 1)
    return found


def prune(matrix: Tensor, curve: Curvature, pattern: Pattern) -> Tensor:
    """float32 (rows, columns) with zeros in the pattern. What is zero already stays so, and counts as removed."""
    living = int(torch.count_nonzero(matrix))
    more = max(round(pattern.share * matrix.numel()) - matrix.numel() + living, 0) / max(living, 1)
    upper, diagonal = curve.factor, curve.factor.diagonal()[:, None]
    work = matrix.t().contiguous()  # (columns, rows): a column of the matrix is one run of memory
    alive = work != 0
    columns, rows = work.shape
    seen = gone = 0  # of those alive
    for start, end in _stretches(0, columns, BLOCK, pattern.run):
        keep = alive[start:end].clone()
        if not pattern.m:
            able = int(keep.sum())
            seen += able
            count = round(more * seen) - gone
            gone += count
            scores = masks.zeros_first((work[start:end] / diagonal[start:end]).square(), keep)
            keep &= masks.keep_all_but(scores, keep.numel() - able + count)
        errors = torch.empty(end - start, rows)
        for first, last in _stretches(start, end, STRIP, pattern.run):
            for column in range(first, last):
                if pattern.m and column % pattern.run % pattern.m == 0:
                    to = min(column + pattern.m, last)
                    here = keep[column - start : to - start]
                    scores = masks.zeros_first((work[column:to] / diagonal[column:to]).square(), here)
                    here &= masks.largest_of_groups(scores.t(), pattern.n, pattern.m).t()
                kept = work[column] * keep[column - start]
                errors[column - start] = (work[column] - kept).div_(diagonal[column])
                work[column] = kept
                work[column + 1 : last].addr_(upper[column, column + 1 : last], errors[column - start], alpha=-1)
            done = slice(first - start, last - start)
            work[last:end].addmm_(upper[first:last, last:end].t(), errors[done], alpha=-1)
        work[end:].addmm_(upper[start:end, end:].t(), errors, alpha=-1)
    return work.t().contiguous()


def _stretches(start: int, end: int, length: int, run: int) -> Iterator[tuple[int, int]]:
    """Pieces of start..end of at most `length`, none over the end of a run, so that no group of m is cut."""
    while start < end:
        until = min(start + length, end, start // run * run + run)
        yield start, until
        start = until

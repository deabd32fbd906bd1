"""Systems of linear equations, many at a time."""

from __future__ import annotations

from webapp.engine.lazy import Tensor, torch


def solved(matrices: Tensor, wanted: Tensor) -> Tensor:
    """x (n, k, m) with `matrices` (n, k, k), symmetric and positive definite, times x = `wanted` (n, k, m).

    By Cholesky; one that is not positive definite as it was rounded is solved by LU, alone: torch's LU of several
    large matrices is not safe with several threads (https://github.com/pytorch/pytorch/issues/142815).
    """
    lower, failed = torch.linalg.cholesky_ex(matrices)
    found = torch.cholesky_solve(wanted, lower)
    for index in failed.nonzero().flatten().tolist():
        found[index] = torch.linalg.solve(matrices[index], wanted[index])
    return found

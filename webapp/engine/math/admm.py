"""Which weights stay and what they are, sought together: the alternating direction method of multipliers (ADMM).

Boža 2024, https://arxiv.org/abs/2401.02938, with the mask sought anew in every round and conjugate gradients on the one
that is found, as Meng et al. 2024, https://arxiv.org/abs/2406.07831. All errors are the layer's squared output error
(weights - target) H (weights - target)^T, summed over rows, with a positive definite H (columns, columns).
"""

from __future__ import annotations

from collections.abc import Callable

from webapp.engine.lazy import Tensor, torch

DESCENTS = 5  # conjugate gradient steps on a mask that is found
PENALTIES = (0.3, 1.0)  # times the Hessian's diagonal: first weights change places freely, then they settle


def exchanged(
    target: Tensor, hessian: Tensor, start: Tensor, choose: Callable[[Tensor], Tensor], rounds: int
) -> Tensor:
    """Weights (rows, columns) with zeros where `choose` has them, which is given weights times their inputs' norms.

    `start` has such zeros already. The rounds are split between the penalties.
    """
    norms = hessian.diagonal().sqrt()
    normal = hessian / norms[:, None] / norms
    pull = (target * norms) @ normal
    found = start * norms
    dual, before = torch.zeros_like(found), PENALTIES[0]
    for penalty, count in zip(PENALTIES, (rounds - rounds // 2, rounds // 2), strict=True):
        dual *= before / penalty
        before = penalty
        solver = _inverse(normal, penalty) if count else normal
        for _ in range(count):
            free = torch.add(pull, found - dual, alpha=penalty) @ solver
            dual += free
            found = dual * choose(dual)
            dual -= found
    return found / norms


def descended(target: Tensor, hessian: Tensor, weights: Tensor, steps: int) -> Tensor:
    """The values that the weights that are not zero should have: conjugate gradients, for each row at once."""
    keep = weights != 0
    diagonal, tiny = hessian.diagonal(), torch.finfo(weights.dtype).tiny
    found = weights.clone()
    residual = ((target - weights) @ hessian).mul_(keep)
    step = residual / diagonal
    slope = _dot(residual, step)
    for _ in range(steps):
        curved = (step @ hessian).mul_(keep)
        length = slope / _dot(step, curved).clamp_(min=tiny)
        found.addcmul_(step, length)
        residual.addcmul_(curved, length, value=-1)
        ahead = residual / diagonal
        before, slope = slope, _dot(residual, ahead)
        step = ahead.addcmul_(step, slope / before.clamp(min=tiny))
    return found


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """(rows, columns) each -> (rows, 1)"""
    found: Tensor = torch.linalg.vecdot(one, other)
    return found[:, None]


def _inverse(matrix: Tensor, penalty: float) -> Tensor:
    identity = torch.eye(len(matrix))
    lower = torch.linalg.cholesky(matrix + penalty * identity)
    half: Tensor = torch.linalg.solve_triangular(lower, identity, upper=False)
    return half.t() @ half

"""The metric of a layer's inputs, in which a rank is cut: Wang et al. 2024 (SVD-LLM), https://arxiv.org/abs/2403.07378.

The error of W' on inputs X is |(W - W') L|^2 with L L^T = X^T X, so the best W' of rank r comes from the singular
values of W L (equations 5 to 8 there). Where the covariance G = R R^T of the gradients at the outputs is known too, the
loss grows by about half of |R^T (W - W') L|^2 (K-FAC, https://arxiv.org/abs/1503.05671), and the best W' comes from
the singular values of R^T W L.
"""

from __future__ import annotations

from dataclasses import dataclass

from webapp.engine.lazy import Tensor, torch

DAMPING = 1e-3  # of the mean of the diagonal
OF_GRADIENTS = 1e-3  # the same of gradients, which are drawn towards the identity before
LEAST = 1e-10  # of the largest eigenvalue, where the decomposition falls back


@dataclass(frozen=True)
class InputMetric:
    """`root` L, float64 (n, n), with L L^T = the damped covariance."""

    root: Tensor
    damping: float  # what was added to the diagonal
    note: str = ""


@dataclass(frozen=True)
class OutputMetric:
    """`root` R, float64 (m, m) lower triangular, with R R^T = the damped covariance of the gradients; or the diagonal
    of one that is diagonal, (m,)."""

    root: Tensor

    def into(self, weight: Tensor) -> Tensor:
        """R^T times (m, n)."""
        return self.root[:, None] * weight if self.root.dim() == 1 else self.root.t() @ weight

    def back(self, made: Tensor) -> Tensor:
        """The inverse of `into`."""
        if self.root.dim() == 1:
            return made / self.root[:, None]
        found: Tensor = torch.linalg.solve_triangular(self.root.t(), made, upper=True)
        return found


def output_metric(gradients: Tensor, share: float = OF_GRADIENTS) -> OutputMetric | None:
    """Of the gradients' covariance (m, m), or its diagonal (m,); None where it has no Cholesky factor."""
    covariance = gradients.to(torch.float64, copy=True)
    diagonal = covariance if covariance.dim() == 1 else covariance.diagonal()
    diagonal.add_(share * float(diagonal.mean()))
    if not bool(covariance.isfinite().all()) or float(diagonal.min()) <= 0:
        return None
    if covariance.dim() == 1:
        return OutputMetric(covariance.sqrt())
    root, info = torch.linalg.cholesky_ex(covariance)
    return None if info else OutputMetric(root)


def metric(sums: Tensor, share: float = DAMPING, noise: float = 0.0) -> InputMetric:
    """From x^T x (n, n): its Cholesky factor, or of a matrix that has none the root of its clamped eigenvalues.

    `noise`: how far its eigenvalues are off by rounding, where little is left of large sums; the damping is not below.
    Inputs that are all zero, or no numbers, are given the plain metric.
    """
    covariance = sums.to(torch.float64, copy=True)
    if not bool(covariance.isfinite().all()):
        return InputMetric(torch.eye(len(sums), dtype=torch.float64), 0.0, note="its inputs held NaN or infinity")
    damping = max(share * float(covariance.diagonal().mean()), noise)
    if damping <= 0:
        return InputMetric(torch.eye(len(sums), dtype=torch.float64), 0.0, note="its inputs were all zero")
    covariance.diagonal().add_(damping)
    root, info = torch.linalg.cholesky_ex(covariance)
    if not info:
        return InputMetric(root, damping)
    values, vectors = torch.linalg.eigh(covariance)
    least = max(damping, LEAST * float(values[-1]))  # but for rounding none is less than the damping
    values = values.clamp(min=least).sqrt()
    note = "the covariance of its inputs has no Cholesky factor, so its eigenvalues were clamped"
    return InputMetric(vectors * values, damping, note)

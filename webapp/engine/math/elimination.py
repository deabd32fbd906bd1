"""Removing inputs of a layer so that the rest answers as well as it can: the optimal brain surgeon, for whole columns.

For y = W x with the covariance C of x, taking the columns S away costs at least tr(W_S (C^-1_SS)^-1 W_S^T), and that
much only if the other columns become W - W_S (C^-1_SS)^-1 C^-1_S: Hassibi and Stork 1993,
https://doi.org/10.1109/ICNN.1993.298572, in the block form of Frantar and Alistarh 2022, https://arxiv.org/abs/2208.11580.
"""

from __future__ import annotations

from webapp.engine.lazy import Tensor, torch

from .systems import solved

DAMPING = 0.01  # of the mean of the diagonal
LARGEST_DAMPING = 1.0


class Elimination:
    """One layer (out, columns) whose inputs leave in groups of `repeat` columns; `weight` is updated as they do."""

    def __init__(self, weight: Tensor, covariance: Tensor, dtype: torch.dtype | None = None) -> None:
        """covariance (columns, columns) of the layer's inputs. `dtype`: float64, unless a trial does with less."""
        dtype = torch.float64 if dtype is None else dtype
        self.inverse, _ = damped_inverse(covariance, dtype)
        self.weight = weight.to(dtype)

    def costs(self, places: Tensor) -> Tensor:
        """places (channels, repeat) of columns -> (channels,): the squared error that each one's removal adds."""
        if places.shape[1] == 1:
            column = places[:, 0]
            alone: Tensor = self.weight[:, column].square().sum(0) / self.inverse.diagonal()[column].clamp(min=1e-300)
            return alone
        own = self.inverse[places[:, :, None], places[:, None, :]]  # (channels, repeat, repeat)
        columns = self.weight[:, places].permute(1, 2, 0)  # (channels, repeat, out)
        together: Tensor = (columns * solved(own, columns)).sum((1, 2))
        return together

    def remove(self, columns: Tensor) -> None:
        """Takes these columns (k,) out: they become zero, and the others take over what they can."""
        rows = self.inverse[columns]  # (k, columns)
        step = torch.linalg.solve(rows[:, columns], rows)  # (k, columns)
        self.weight -= self.weight[:, columns] @ step
        self.inverse -= rows.t() @ step
        self.weight[:, columns] = 0.0
        self.inverse[columns] = 0.0
        self.inverse[:, columns] = 0.0


def damped_inverse(covariance: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, float]:
    """In float64, or `dtype`, the inverse of a covariance plus d on its diagonal, and d: a share of the mean.

    A covariance with NaN or infinity tells nothing: each column counts alike then, and none takes over from another.
    """
    dtype = torch.float64 if dtype is None else dtype
    matrix, ones = covariance.to(dtype), torch.eye(len(covariance), dtype=dtype)
    if not matrix.isfinite().all():
        return ones, 1.0
    mean = matrix.diagonal().mean().clamp(min=1e-12)
    damping = DAMPING
    while damping <= LARGEST_DAMPING:
        lower, failed = torch.linalg.cholesky_ex(matrix + damping * mean * ones)
        if not failed:
            return torch.cholesky_inverse(lower), damping * float(mean)
        damping *= 10
    return ones / mean, float(mean)

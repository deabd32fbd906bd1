"""Convolutions as chains of thinner ones. Kernels are float64 (o, i, kh, kw), or (o, i, k).

Tucker-2: Kim et al. 2015, https://arxiv.org/abs/1511.06530. Spatial: Jaderberg et al. 2014,
https://arxiv.org/abs/1405.3866 (scheme 2).
"""

from __future__ import annotations

from webapp.engine.lazy import Tensor, torch

from .factorization import directions

SWEEPS = 3  # of the alternating iteration (HOOI); it has converged by then but for the last digits


def mode_bases(kernel: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(basis, singular values) of the outputs' and of the inputs' unfolding: (o, o) and (i, i) at most."""
    return directions(kernel.flatten(1)), directions(kernel.transpose(0, 1).flatten(1))


def tucker2(kernel: Tensor, outputs: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """first (r1, i), core (r2, r1, *k), last (o, r2), from the leading columns of both bases: (o, r2), (i, r1).

    kernel is about core x1 last x2 first^T; last and first have orthonormal columns and rows.
    """
    for _ in range(SWEEPS):
        shrunk = torch.einsum("oi...,oa->ai...", kernel, outputs)
        inputs = directions(shrunk.transpose(0, 1).flatten(1))[0][:, : inputs.shape[1]]
        shrunk = torch.einsum("oi...,ia->oa...", kernel, inputs)
        outputs = directions(shrunk.flatten(1))[0][:, : outputs.shape[1]]
    core = torch.einsum("oi...,oa,ib->ab...", kernel, outputs, inputs)
    return inputs.t(), core, outputs


def spatial_matrix(kernel: Tensor) -> Tensor:
    """(i kh, o kw): the matrix whose rank is that of the kernel as a column followed by a row."""
    kernel = kernel if kernel.dim() == 4 else kernel[..., None]
    return kernel.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)


def spatial_column(basis: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """The column (r, i, kh, 1) of a basis (i kh, r), for a kernel of that whole shape; of one dimension (r, i, k)."""
    ones = (1,) * (len(kernel) - 3)
    return basis.t().reshape(basis.shape[1], kernel[1], kernel[2], *ones)


def spatial_inputs(column: Tensor, width: int) -> Tensor:
    """(r kw, i kh kw): what the row's inputs are of the whole's patches."""
    rank, inputs, height = column.shape[:3]
    spread = torch.einsum("rih,vw->rvihw", column.reshape(rank, inputs, height), torch.eye(width, dtype=column.dtype))
    return spread.reshape(rank * width, inputs * height * width)


def refitted(target: Tensor, made: Tensor, root: Tensor | None) -> Tensor:
    """X (o, p) with the least |(target - X made) root|: the last convolution, given those before it.

    target (o, n), made (p, n): what the last one's inputs are of the whole's patches; root (n, n) of their covariance.
    """
    if root is not None:
        target, made = target @ root, made @ root
    found: Tensor = torch.linalg.lstsq(made.t(), target.t(), driver="gelsd").solution.t()
    return found

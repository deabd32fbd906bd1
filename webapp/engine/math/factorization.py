"""Matrices of low rank: the best one, its factors, and the form that holds it in the fewest values.

Best of its rank: Eckart and Young 1936, https://doi.org/10.1007/BF02288367. Pivoted: Zhao et al. 2025,
https://arxiv.org/abs/2501.19090.
"""

from __future__ import annotations

from webapp.engine.lazy import Tensor, torch


def directions(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """U (m, k) and the singular values (k,), k = min(m, n), of a float64 (m, n): from its smaller Gram matrix.

    In float64 that is exact to float32's precision, and quicker than an SVD. Columns of U whose singular value is
    zero are zero where n < m.
    """
    rows, columns = matrix.shape
    if rows <= columns:
        values, u = torch.linalg.eigh(matrix @ matrix.t())
        return u.flip(1), values.flip(0).clamp(min=0).sqrt()
    values, v = torch.linalg.eigh(matrix.t() @ matrix)
    singular = values.flip(0).clamp(min=0).sqrt()
    alive = singular > 1e-7 * singular[0]
    return (matrix @ v.flip(1)) * torch.where(alive, 1 / singular.clamp(min=1e-300), 0.0), singular


def singular_values(matrix: Tensor) -> Tensor:
    """Those of `directions`, alone."""
    gram = matrix @ matrix.t() if matrix.shape[0] <= matrix.shape[1] else matrix.t() @ matrix
    squares: Tensor = torch.linalg.eigvalsh(gram)
    return squares.flip(0).clamp(min=0).sqrt()


def losses(singular: Tensor) -> Tensor:
    """(k + 1,): the share of the squared singular values that is lost at rank 0, 1, …, k."""
    squares = singular.double().square()
    total = squares.sum()
    if total == 0:
        return torch.zeros(len(squares) + 1, dtype=torch.float64)
    lost = squares.flip(0).cumsum(0).flip(0) / total
    return torch.cat((lost, lost.new_zeros(1)))


def balanced(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """left (m, r), right (r, n) with the same product, and equal norms in each pair, so that both quantize alike."""
    scale = (right.norm(dim=1) / left.norm(dim=0).clamp(min=1e-300)).sqrt()
    return left * scale, torch.where(scale > 0, 1 / scale.clamp(min=1e-300), 0.0)[:, None] * right


def pivoted(left: Tensor) -> tuple[Tensor, Tensor]:
    """For any (m, n) = left (m, r) times something: `pivots` bool (m,) with r rows, and `mix` (m - r, r).

    The rows that are no pivots are `mix` times those that are. The pivots are those of an LU decomposition with partial
    pivoting, which keeps the values of `mix` small; a left of less than full rank gives a valid mix too.
    """
    rows, rank = left.shape
    packed, swaps, _ = torch.linalg.lu_factor_ex(left)
    order = torch.arange(rows)
    for row, other in enumerate((swaps[:rank].long() - 1).tolist()):
        order[[row, other]] = order[[other, row]]
    lower = packed.tril(-1)[:, :rank]
    # rows order[rank:] of left = L2 U = (L2 L1^-1) (L1 U), and L1 U are its rows order[:rank]
    top = lower[:rank] + torch.eye(rank, dtype=left.dtype)
    mix = torch.linalg.solve_triangular(top, lower[rank:], upper=False, left=False, unitriangular=True)
    pivots = torch.zeros(rows, dtype=torch.bool)
    pivots[order[:rank]] = True
    return pivots, mix[order[rank:].argsort()][:, order[:rank].argsort()]

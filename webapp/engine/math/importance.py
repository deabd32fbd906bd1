"""How much a channel matters, from the tensors that it runs through. All return (width,) scores; the smallest go first.

L1 and L2: Li et al. 2017, https://arxiv.org/abs/1608.08710. Batch-norm scale: Liu et al. 2017,
https://arxiv.org/abs/1708.06519. Taylor: Molchanov et al. 2019, https://arxiv.org/abs/1906.10771.
"""

from __future__ import annotations

from webapp.engine.lazy import Tensor, torch


def by_channel(tensor: Tensor, dim: int, places: Tensor) -> Tensor:
    """A tensor's values by channel: (width, values), where places (width, repeat) index its dimension `dim`."""
    moved = tensor.float().movedim(dim, 0).reshape(tensor.shape[dim], -1)
    return moved[places].reshape(len(places), -1)


def norm(slices: list[Tensor], order: int) -> Tensor:
    """L1 or L2 norm over all of a channel's values, in all tensors that make it."""
    values = torch.cat(slices, dim=1)
    found: Tensor = torch.linalg.vector_norm(values, ord=order, dim=1)
    return found


def taylor(weights: list[Tensor], gradients: list[Tensor]) -> Tensor:
    """The loss that a channel's removal costs to first order: |sum of w times its gradient|, added over tensors."""
    terms = [(w * g).sum(1).abs() for w, g in zip(weights, gradients, strict=True)]
    return torch.stack(terms).sum(0)


def activation(squares: Tensor, reader: Tensor) -> Tensor:
    """Mean square of what a channel carries, times the squared norm of the columns that read it.

    squares (width, repeat) of the reader's inputs, reader (width, repeat, out).
    """
    return (squares * reader.square().sum(2)).sum(1)


def relative(scores: Tensor) -> Tensor:
    """Scores over their mean, so that channels of different layers can be compared."""
    return scores / scores.mean().clamp(min=1e-30)

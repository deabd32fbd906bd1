"""A loss whose gradients, squared, are on average the curvature of the distance to the original.

The distance to second order is ½ dᵀ F d, with F the mean of g gᵀ over gradients g of what is drawn here (the Fisher
information; Martens 2014, https://arxiv.org/abs/1412.1193, section 9): of distributions the log-likelihood of labels
that are drawn from the model's own answers, of numbers and embeddings a random direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from webapp.engine.data.batches import Batch
from webapp.engine.data.targets import counted, distributions
from webapp.engine.errors import DatasetUnfit
from webapp.engine.facts import BY_NUMBERS, ArchitectureSpec
from webapp.engine.lazy import Tensor, functional, torch


class AnswersNotFinite(DatasetUnfit):
    """There is no distance to an original that answers with NaN."""

    def __init__(self) -> None:
        super().__init__(
            "The model answers with NaN or infinity to samples of this dataset, so what a change of it costs is not "
            "known; look at the samples, or at the checkpoint."
        )


class DrawnLoss:
    """The same seed draws the same for a batch, in whatever order the batches come.

    Divided by `count`, what is summed over the batches is in the unit of the receipt: per token or sample, or of the
    squared answers.
    """

    def __init__(self, spec: ArchitectureSpec, data: Sequence[Batch], seed: int) -> None:
        self.spec, self.data, self.seed = spec, data, seed
        self.looks = spec.task in BY_NUMBERS
        self._squares: list[float] = []  # of all answers, for each output
        self._counts: dict[int, float] = {}

    @property
    def count(self) -> float:
        return 1.0 if self.looks else max(sum(self._counts.values()), 1.0)

    def look(self, found: Sequence[Tensor]) -> None:
        squares = [float(answer.double().square().sum()) for answer in found]
        self._squares = [a + b for a, b in zip(self._squares, squares, strict=True)] if self._squares else squares

    def of(self, index: int, found: Sequence[Tensor]) -> Tensor:
        """Of batch `index` with these answers. Raises AnswersNotFinite."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        if self.looks:
            # the distance is the square itself, not half of it, and a mean over the outputs
            weights = [math.sqrt(2 / (len(found) * max(square, 1e-30))) for square in self._squares]
            drawn = [weight * _along(answer, generator) for weight, answer in zip(weights, found, strict=True)]
            return _finite(torch.stack(drawn).sum())
        if self.spec.task == "embedding":
            self._counts[index] = float(len(found[0]))
            return _finite(_along(functional.normalize(found[0].flatten(1), dim=-1), generator))
        scores = distributions(self.spec.task, found[0])
        real = counted(self.spec.task, self.data[index].inputs, scores).reshape(-1)
        self._counts[index] = float(real.sum())
        rows = scores.reshape(-1, scores.shape[-1])[real > 0]
        if not bool(rows.detach().isfinite().all()):
            raise AnswersNotFinite
        labels = torch.multinomial(rows.detach().softmax(-1), 1, generator=generator)[:, 0]
        return functional.cross_entropy(rows, labels, reduction="sum")


def _finite(loss: Tensor) -> Tensor:
    if not bool(loss.detach().isfinite()):
        raise AnswersNotFinite
    return loss


def _along(answers: Tensor, generator: torch.Generator) -> Tensor:
    """How far answers lie along random directions: its gradients g have E[g gᵀ] = 1."""
    return (answers * torch.randn(answers.shape, generator=generator)).sum()

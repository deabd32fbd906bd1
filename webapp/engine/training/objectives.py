"""What a training lessens."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ..batches import Batch
from ..errors import DatasetUnfit
from ..facts import PER_TOKEN, ArchitectureSpec
from ..math import losses
from .student import Student


class Objective(ABC):
    """`loss` is a mean over the batch's samples. `extra` are weights that are trained along and dropped at the end."""

    title: str = "Loss"  # with the unit, for the chart's axis
    note: str = ""  # what the user should know of it

    def extra(self) -> dict[str, nn.Parameter]:
        return {}

    @abstractmethod
    def loss(self, student: Student, batch: Batch) -> Tensor: ...


class Labels(Objective):
    """Cross-entropy on the dataset's labels, or on the next tokens of its text."""

    title = "Loss (cross-entropy, nats)"

    def loss(self, student: Student, batch: Batch) -> Tensor:
        return label_loss(student.spec, student(batch), batch)


def label_loss(spec: ArchitectureSpec, answers: Tensor, batch: Batch) -> Tensor:
    """Nats per sample, or per token of a language model. Raises DatasetUnfit where there is nothing to compare with."""
    if spec.task == "causal-lm":
        return losses.next_tokens(answers, batch.inputs["input_ids"])
    unlabelled = spec.task in ("embedding", *PER_TOKEN)
    if batch.targets is None or unlabelled:
        raise DatasetUnfit(
            f"{spec.title} learns from labels here, and there are none; "
            + ("use distillation, which needs none." if unlabelled else "upload a dataset with labels.")
        )
    return losses.hard_labels(answers, batch.targets)

"""What a training lessens."""

from __future__ import annotations

from abc import ABC, abstractmethod

from webapp.engine.data.batches import JUDGED_BY_ORIGINAL, Batch
from webapp.engine.data.targets import target_loss
from webapp.engine.errors import DatasetUnfit
from webapp.engine.facts import ArchitectureSpec
from webapp.engine.lazy import Tensor, nn
from webapp.engine.math import losses

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
    """Cross-entropy on the dataset's labels, masks, or the next tokens of its text; squared error on its numbers."""

    def __init__(self, spec: ArchitectureSpec) -> None:
        self.title = "Loss (mean squared error)" if spec.task == "regression" else "Loss (cross-entropy, nats)"

    def loss(self, student: Student, batch: Batch) -> Tensor:
        return label_loss(student.spec, student(batch), batch)


def label_loss(spec: ArchitectureSpec, answers: Tensor, batch: Batch) -> Tensor:
    """Nats per sample, token or place, or the squared error of a regression.

    Raises DatasetUnfit where there is nothing to compare with.
    """
    if spec.task == "causal-lm":
        return losses.next_tokens(answers, batch.inputs["input_ids"])
    if batch.targets is None:
        ways = "" if spec.task in JUDGED_BY_ORIGINAL else ", or upload a dataset with labels"
        raise DatasetUnfit(
            f"{spec.title} learns from labels here, and there are none; use distillation, which needs none{ways}."
        )
    return target_loss(answers, batch.targets)

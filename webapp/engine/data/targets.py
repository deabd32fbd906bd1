"""Answers beside what they should have been: brought to one shape, and the loss between them."""

from __future__ import annotations

from collections.abc import Mapping

from webapp.engine.errors import DatasetUnfit
from webapp.engine.facts import PER_TOKEN, Task
from webapp.engine.lazy import Tensor, functional, torch
from webapp.engine.math import losses


def target_loss(answers: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy (nats) for class numbers (B,) and masks (B, ...), squared error for floats. Raises DatasetUnfit."""
    if targets.is_floating_point():
        return losses.squared_error(answers, shaped_like(targets, answers))
    if targets.dim() > 1:
        return losses.masks(per_place(answers, targets), targets)
    return losses.hard_labels(scores_of_classes(answers), targets)


def distributions(task: Task | None, answers: Tensor) -> Tensor:
    """The scores (B, ..., C) whose softmax is judged, float32: for each sample, or token, or place."""
    if task == "causal-lm":
        return answers[:, :-1].float()  # position t is judged on token t + 1, so the last is not
    if task == "segmentation":  # (B, C, places...) as (B, places, C)
        return two_classes(answers).flatten(2).transpose(1, 2).float()
    return (answers.flatten(1) if answers.shape[2:].numel() == 1 else answers).float()


def counted(task: Task | None, inputs: Mapping[str, Tensor], scores: Tensor) -> Tensor:
    """(B, places) 1.0 for each distribution among scores (B, ..., C) that is judged: padding is not."""
    if task in PER_TOKEN and "attention_mask" in inputs:
        return inputs["attention_mask"].float()
    return scores.new_ones(scores.shape[:-1]).reshape(len(scores), -1)


def shaped_like(targets: Tensor, answers: Tensor) -> Tensor:
    """Targets (B,) for answers (B, 1), and the like. Raises DatasetUnfit where the shapes differ by more than ones."""
    plain = [[size for size in side.shape[1:] if size != 1] for side in (targets, answers)]
    if plain[0] != plain[1]:
        raise DatasetUnfit(
            f"The model answers with {list(answers.shape[1:])} numbers for each sample, and the dataset's y has "
            f"{list(targets.shape[1:])}; they have to be alike.",
            "dataset_id",
        )
    return targets.reshape(answers.shape)


def scores_of_classes(answers: Tensor) -> Tensor:
    """(B, C) of (B, C) or (B, C, 1, 1). Raises DatasetUnfit for other answers."""
    if answers.dim() < 2 or answers.shape[2:].numel() != 1:
        raise DatasetUnfit(
            f"The model answers with {list(answers.shape[1:])} numbers for each sample, which are no scores "
            "of classes; set the checkpoint's task to what it is for.",
            "dataset_id",
        )
    return answers.flatten(1)


def per_place(answers: Tensor, masks: Tensor) -> Tensor:
    """(B, C, ...) at the places of masks (B, ...).

    Of answers with classes first or last; of fewer places by bilinear interpolation, as segmentation is evaluated; one
    score is that of the second of two classes. Raises DatasetUnfit.
    """
    places = masks.shape[1:]
    if answers.dim() == masks.dim():
        answers = answers[:, None]
    if answers.shape[2:] != places and answers.shape[1:-1] == places:
        answers = answers.movedim(-1, 1)
    elif answers.dim() == 4 and len(places) == 2 and answers.shape[2:] != places:
        answers = functional.interpolate(answers, size=places, mode="bilinear", align_corners=False)
    if answers.shape[2:] != places:
        raise DatasetUnfit(
            f"The model answers with {list(answers.shape[1:])} numbers for each sample, and the dataset's masks have "
            f"{list(places)} places; they have to be alike.",
            "dataset_id",
        )
    return two_classes(answers)


def two_classes(scores: Tensor) -> Tensor:
    """(B, 2, ...) of one score (B, 1, ...), which is that of the second class; others as they are."""
    return torch.cat([torch.zeros_like(scores), scores], 1) if scores.shape[1] == 1 else scores

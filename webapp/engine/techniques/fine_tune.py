"""Fine-tuning: the weights are trained on, on labels or the next tokens of a text, each in the form it is stored in."""

from __future__ import annotations

from typing import Any

from webapp.engine.recipe import setting
from webapp.engine.techniques.training.by_training import ByTraining
from webapp.engine.techniques.training.student import Forms, adapted, whole

from .base import Context
from .training import Labels, Objective, Student, TrainingSamples, TrainingSettings

LORA = 10.0  # times the rate of whole weights


class FineTune(ByTraining):
    name = "fine_tune"
    title = "Fine-tuning"
    family = "Training"
    summary = (
        "Trains the weights on the dataset's labels or text to win back what earlier steps lost; zeros stay zero and "
        "integers on their grid. Costs a training."
    )
    paper = "https://arxiv.org/abs/2106.09685"
    version = 2

    class Settings(TrainingSettings):
        lora_rank: int = setting(
            0,
            "LoRA rank",
            "0: the weights themselves are trained. Above: only a product of two matrices of this rank beside each "
            "linear layer, merged into it at the end; for models too large to train whole.",
            ge=0,
            le=4096,
        )
        lora_alpha: float = setting(
            16.0, "LoRA alpha", "The product counts alpha over rank times.", step=1.0, gt=0.0, le=4096.0
        )

    def forms(self, settings: Any, context: Context) -> Forms:
        if settings.lora_rank:
            return adapted(settings.lora_rank, settings.lora_alpha, context.seed)
        return whole(settings)

    def share_trained(self, settings: Any) -> float:
        return 0.1 if settings.lora_rank else 1.0

    def rate(self, settings: Any, student: Student) -> float:
        return float(settings.rate(student.spec, LORA if settings.lora_rank else 1.0))

    def objective(self, student: Student, samples: TrainingSamples, settings: Any, context: Context) -> Objective:
        return Labels(student.spec)

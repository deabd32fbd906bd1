"""Knowledge distillation: what earlier steps left is trained to answer as the original does."""

from __future__ import annotations

from typing import Any, Literal

from ..errors import RecipeInvalid
from ..training import Objective, Student, TrainingSamples, TrainingSettings
from ..training.teaching import Teaching, Weights
from .base import Context, setting
from .by_training import ByTraining


class Distillation(ByTraining):
    name = "distillation"
    title = "Distillation"
    family = "Training"
    summary = (
        "Trains the weights to answer as a teacher does, the original unless the run names another; zeros stay zero "
        "and integers on their grid. Needs no labels, and costs a training with the teacher beside it."
    )
    paper = "https://arxiv.org/abs/1503.02531"

    needs = ByTraining.needs | {"teacher"}

    class Settings(TrainingSettings):
        temperature: float = setting(
            2.0,
            "Temperature",
            "Softens the answers of both: above 1 the classes that are unlikely count for more.",
            step=0.5,
            ge=0.1,
            le=100.0,
        )
        hard_weight: float = setting(
            0.1,
            "Weight of the labels",
            "Share of the loss that labels, or next tokens, have; the teacher's answers have the rest.",
            widget="slider",
            step=0.05,
            ge=0.0,
            le=1.0,
        )
        hidden_weight: float = setting(
            0.0,
            "Weight of hidden states",
            "How much what the blocks put out counts, beside the answers; where widths differ a projection is trained "
            "along and dropped.",
            step=0.1,
            ge=0.0,
            le=100.0,
        )
        hidden_by: Literal["squares", "cosine"] = setting(
            "squares",
            "Hidden states compared by",
            "squares: mean squared difference over the teacher's mean square. cosine: one minus the cosine.",
            widget="choice",
        )
        attention_weight: float = setting(
            0.0,
            "Weight of attention maps",
            "How much the divergence of the attention maps counts; transformers only.",
            step=0.1,
            ge=0.0,
            le=100.0,
        )

    def objective(self, student: Student, samples: TrainingSamples, settings: Any, context: Context) -> Objective:
        if context.teacher is None:
            raise RecipeInvalid("Distillation needs a teacher, and this run has none.")
        counts = Weights(
            settings.temperature,
            settings.hard_weight,
            settings.hidden_weight,
            settings.hidden_by,
            settings.attention_weight,
        )
        example = next(samples.source.batches(samples.training[:2]))
        return Teaching(context.teacher(), student, counts, context.seed, example)

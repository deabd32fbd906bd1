"""Knowledge distillation: what earlier steps left is trained to answer as the original does."""

from __future__ import annotations

from typing import Any, Literal

from webapp.engine.errors import RecipeInvalid
from webapp.engine.recipe import setting
from webapp.engine.techniques.training.by_training import ByTraining
from webapp.engine.techniques.training.teaching import LossWeights, Teaching

from .base import AtWork, Context
from .training import Objective, Student, TrainingSamples, TrainingSettings

MAPS = 1.75  # copies of the attention maps that teacher and student each hold at once


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
            "Divides the logits of teacher and student before the softmax: above 1, unlikely classes count for more.",
            step=0.5,
            ge=0.1,
            le=100.0,
        )
        hard_weight: float = setting(
            0.1,
            "Weight of the label loss",
            "Share of the loss on the labels (or next tokens); the divergence from the teacher's outputs has the rest.",
            widget="slider",
            step=0.05,
            ge=0.0,
            le=1.0,
        )
        hidden_weight: float = setting(
            0.0,
            "Weight of the hidden-state loss",
            "How much the difference between the two models' block outputs counts, beside their logits; where widths "
            "differ, a projection is trained with the student and dropped afterwards.",
            step=0.1,
            ge=0.0,
            le=100.0,
        )
        hidden_by: Literal["squares", "cosine"] = setting(
            "squares",
            "Hidden-state loss",
            "squares: mean squared error (MSE), divided by the teacher's mean square. cosine: one minus the cosine.",
        )
        attention_weight: float = setting(
            0.0,
            "Weight of the attention loss",
            "How much the KL divergence between the attention maps counts; transformers only.",
            step=0.1,
            ge=0.0,
            le=100.0,
        )

    def working_bytes(self, at: AtWork) -> int:
        found, batch = super().working_bytes(at), at.training
        if batch is None or not at.settings.own.attention_weight:
            return found
        return found + int(MAPS * (at.model.attention(batch) + at.teacher.attention(batch)))

    def objective(self, student: Student, samples: TrainingSamples, settings: Any, context: Context) -> Objective:
        if context.teacher is None:
            raise RecipeInvalid("Distillation needs a teacher, and this run has none.")
        counts = LossWeights(
            settings.temperature,
            settings.hard_weight,
            settings.hidden_weight,
            settings.hidden_by,
            settings.attention_weight,
        )
        example = next(samples.source.batches(samples.training[:2]))
        return Teaching(context.teacher(), student, counts, context.seed, example)

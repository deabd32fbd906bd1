"""Knowledge distillation: what earlier steps left is trained to answer as the original does."""

from __future__ import annotations

from typing import Any, Literal

from webapp.engine.errors import RecipeInvalid
from webapp.engine.facts import ArchitectureSpec
from webapp.engine.recipe import setting
from webapp.engine.techniques.training.by_training import ByTraining
from webapp.engine.techniques.training.student import Forms, healed
from webapp.engine.techniques.training.teaching import Divergence, LossWeights, Teaching

from .base import AtWork, Context
from .training import Objective, Student, TrainingSamples, TrainingSettings

HEALING = 0.01  # the rate of scales by their logarithm, whatever the network
SMALLEST_GROUP = 1 / 8  # at most so many scales for each weight
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

    version = 2

    needs = ByTraining.needs | {"teacher"}

    class Settings(TrainingSettings):
        trains: Literal["all", "scales"] = setting(
            "all",
            "What is trained",
            "all: every value of the chosen layers. scales: the scales of quantized weights, norms and biases, while "
            "codes, zeros and all other matrices stay; it heals a model at 2 or 3 bits within minutes and on few "
            "samples. Where they are not told, the learning rate is then 0.01 (adamw) and a batch of text one chunk.",
        )
        divergence: Literal["forward", "reverse"] = setting(
            "forward",
            "Divergence",
            "forward: KL(teacher ‖ student), which covers all that the teacher finds likely. reverse: KL(student ‖ "
            "teacher), which leaves out what the student cannot tell.",
        )
        skew: float = setting(
            0.0,
            "Skew",
            "Share of the first distribution that is mixed into the second before they are compared (skew KL); above "
            "0, classes that the student all but excludes pull less. In one trial each, 0.1 lowered the divergence of "
            "a network of digits pruned to a tenth, not its accuracy, and lost to 0 healing an LLM at 2 bits.",
            widget="slider",
            step=0.05,
            ge=0.0,
            le=0.9,
        )
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

        def batch(self, spec: ArchitectureSpec) -> int:
            """Scales are few: half of a text's chunks make twice the steps in the same time, which brought more."""
            halved = self.trains == "scales" and not self.batch_size and spec.task == "causal-lm"
            return super().batch(spec) // 2 if halved else super().batch(spec)

    def working_bytes(self, at: AtWork) -> int:
        found, batch = super().working_bytes(at), at.training
        if at.settings.own.trains == "scales":  # the codes, and the gradient of one matrix at a time
            found += sum(layer.size for layer in at.layers) + at.largest
        if batch is None or not at.settings.own.attention_weight:
            return found
        return found + int(MAPS * (at.model.attention(batch) + at.teacher.attention(batch)))

    def share_trained(self, settings: Any) -> float:
        return SMALLEST_GROUP if settings.trains == "scales" else 1.0

    def forms(self, settings: Any, context: Context) -> Forms:
        return healed if settings.trains == "scales" else super().forms(settings, context)

    def rate(self, settings: Any, student: Student) -> float:
        healing = settings.trains == "scales" and settings.optimizer == "adamw"
        return settings.learning_rate or HEALING if healing else super().rate(settings, student)

    def objective(self, student: Student, samples: TrainingSamples, settings: Any, context: Context) -> Objective:
        if context.teacher is None:
            raise RecipeInvalid("Distillation needs a teacher, and this run has none.")
        counts = LossWeights(
            Divergence(settings.temperature, settings.divergence == "reverse", settings.skew),
            settings.hard_weight,
            settings.hidden_weight,
            settings.hidden_by,
            settings.attention_weight,
        )
        example = next(samples.source.batches(samples.training[:2]))
        return Teaching(context.teacher(), student, counts, context.seed, example)

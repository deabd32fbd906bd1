"""The way of techniques that train: chosen weights move in the form that they are stored in, all others are frozen."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from dataclasses import replace
from typing import Any

from webapp.engine.data.memory import ModelMemory
from webapp.engine.errors import DatasetUnfit, RecipeInvalid
from webapp.engine.facts import LayerFacts
from webapp.engine.recipe import StepSettings
from webapp.engine.techniques.base import MATRICES, AtWork, Context, Outcome, Technique
from webapp.engine.weights import Encoded, StoragePlan
from webapp.engine.weights.model import Model
from webapp.units import percent

from . import Objective, Student, Trained, TrainingSamples, TrainingSettings, train
from .student import Forms, best_device, whole

UNHELPFUL = "no step made it better, so the weights are left as they were"
ENDED = {
    "time": "ended by the time limit",
    "patience": "ended early, since the validation loss had stopped falling",
    "diverged": "ended when the loss was no number any more",
}


class ByTraining(Technique):
    """Everything is stored as it was: dense values in their dtype, integers on their grid, zeros as zeros."""

    needs = frozenset({"training", "gradients", "architecture"})
    layers = MATRICES | {"embedding", "other"}

    def plan(self, layer: LayerFacts, plan: StoragePlan, settings: Any) -> StoragePlan:
        return plan

    def exact(self, settings: Any) -> bool:
        return False  # which values are zero by chance, and which integers, only training tells

    def working_bytes(self, at: AtWork) -> int:
        """The module, with gradients, the optimizer's state and the best weights so far of what is trained; and the
        teacher's."""
        own, batch = at.settings.own, at.training
        trained = 4 * sum(layer.size for layer in at.layers)
        moments = 2 if own.optimizer == "adamw" else 1
        found = at.model.whole + int((2 + moments) * trained * self.share_trained(own))
        if "teacher" in self.needs_for(own):
            found += at.teacher.whole + (at.teacher.passes(batch) if batch else 0)
        return found + (at.model.backward(batch) + at.model.passes(batch) if batch else 0)

    def kept_bytes(self, at: AtWork, after: ModelMemory, file_bytes: int) -> int:
        return int(4 * after.floats * self.share_trained(at.settings.own))

    def share_trained(self, settings: Any) -> float:
        """Of the weights that gradients and moments are held for."""
        return 1.0

    def apply(self, model: Model, settings: StepSettings, context: Context) -> list[Outcome]:
        if context.data is None:
            raise DatasetUnfit(f"{self.title} trains on data, and the run has no dataset with a training split.")
        own = settings.own
        samples = TrainingSamples.of(context.data, own.validation, context.seed)
        student = Student(model, context.layers, own, best_device(), self.forms(own, context))
        if not student.forms:
            raise RecipeInvalid(f"{self.title} finds nothing to train among the chosen layers; choose others.")
        objective = self.objective(student, samples, own, context)
        rate = self.rate(own, student)
        trained = train(student, objective, samples, rate, context.scratch, context.report, self.title)
        before = dict(model.weights)
        student.write_back()
        found = self.outcome(student, own, samples, trained)
        rows = [_row(layer, before[layer.weight], model, found.note) for layer in context.layers]
        return [replace(found, note="; ".join(filter(None, (found.note, objective.note)))), *rows]

    def forms(self, settings: Any, context: Context) -> Forms:
        return whole(settings)

    def rate(self, settings: Any, student: Student) -> float:
        return float(settings.rate(student.spec))

    @abstractmethod
    def objective(self, student: Student, samples: TrainingSamples, settings: Any, context: Context) -> Objective: ...

    def outcome(self, student: Student, settings: TrainingSettings, samples: TrainingSamples, end: Trained) -> Outcome:
        """One line for all that was trained: what was asked, how far it came, and which weights were kept."""
        size = settings.batch(student.spec) * settings.accumulate
        epochs = end.step / samples.steps_per_epoch(size)
        asked = f"{settings.epochs:g} epoch{'s' * (settings.epochs != 1)}"
        asked += f" or {settings.minutes:g} minutes" if settings.minutes else ""
        done = f"{end.step:,} steps of {size:,} samples, {epochs:.3g} epoch{'s' * (epochs != 1)}"
        if not math.isnan(end.first_loss):
            done += f"; validation loss {end.first_loss:.4g} → {end.best_loss:.4g}"
        done += f"; {ENDED[end.ended]}" if end.ended else ""
        better = end.best_step > 0 or not len(samples.validation)
        note = "" if better else UNHELPFUL
        if better and end.ended == "diverged":
            note = f"the weights of step {end.best_step:,} are kept; a lower learning rate may go further"
        ok = better and end.ended != "diverged"
        return Outcome(_named(student), asked, done, ok=ok, skipped=not better, note=note)


def _row(layer: LayerFacts, before: Encoded, model: Model, note: str) -> Outcome:
    """How far training moved one of the chosen layers."""
    after = model.weights[layer.weight]
    if after is before:
        return Outcome.not_asked(layer.name, "these settings do not train it")
    old, new = before.decode().float(), after.decode().float()
    moved = float((new - old).norm() / old.norm().clamp(min=1e-12))
    if not moved:
        return Outcome.left(layer.name, "trained", note or "no gradient moved it")
    return Outcome(layer.name, "trained", f"moved by {percent(moved, 2)} of its norm")


def _named(student: Student) -> str:
    """ "12 linear layers, 2 embedding layers, 30 others", or the name of the only one."""
    layers = {form.place.layer.name: form.place.layer.kind for form in student.forms}
    if len(layers) == 1:
        return next(iter(layers))
    words = {
        "other": "other",
        "linear": "linear layer",
        "conv": "convolution",
        "embedding": "embedding",
        "recurrent": "recurrent matrix",
        "experts": "stack of experts",
    }
    count = Counter(layers.values())
    return ", ".join(f"{n} {words[kind]}{'s' if n > 1 else ''}" for kind, n in sorted(count.items(), key=_last_others))


def _last_others(item: tuple[str, int]) -> tuple[bool, str]:
    return item[0] == "other", item[0]

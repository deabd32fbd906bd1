"""Whether a guess holds at how the layers of a bare state dict are wired: what depends on it, and what confirms it.

Shapes and names tell torchvision's networks for certain, and a config.json, a graph or `pare_architecture` say it
outright. A chain of linear layers or a plain CNN is a guess: a residual network has the same shapes, and none tells
ReLU from tanh. Nothing that depends on the guess runs until labels confirm it. Of the numbered layers of nn.Sequential
the order is certain: labels must only not contradict what is assumed to stand between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from webapp.engine.architectures.build import build
from webapp.engine.data.batches import Batch
from webapp.engine.facts import ArchitectureSpec, CheckpointFacts, DatasetFacts
from webapp.engine.importers import importers
from webapp.engine.lazy import torch
from webapp.engine.plugins import one_of
from webapp.engine.progress import Silent
from webapp.engine.recipe import Recipe
from webapp.engine.techniques import needs_of, techniques
from webapp.engine.weights.model import Model
from webapp.units import percent

from .measure import evaluate
from .metrics import Samples, wilson

OTHERS = {
    "relu": ("gelu", "silu", "tanh", "sigmoid", "identity"),
    "max_pool2d": ("avg_pool2d",),
}  # that fit the same shapes
TRIED_ON = 2048  # samples
SIGMAS = 3.0  # by which another guess has to be better


def advice() -> str:
    """How to say what was guessed."""
    whole = one_of(kind.accepts for kind in importers().values() if kind.graph)
    return (
        f"Upload the whole module as {whole}, or say its architecture in a safetensors file's metadata, under "
        "pare_architecture."
    )


def unconfirmable(facts: CheckpointFacts, recipe: Recipe, labelled: bool) -> Iterator[tuple[int, str]]:
    """The steps, by their places, that depend on a guess which nothing could confirm; and what to do.

    `labelled`: whether the run is judged on a dataset with labels.
    """
    spec = facts.architecture
    if spec is None or spec.guess is None or labelled:
        return
    for index, title, runs in dependent(recipe):
        if runs or not in_order(spec):
            yield (
                index,
                f"{title} depends on how the layers are wired, and this file does not tell. {spec.guess} Choose a "
                f"dataset with labels, which can confirm it. {advice()}",
            )


def in_order(spec: ArchitectureSpec) -> bool:
    """Whether at least the order of a guessed chain is certain, by the numbers that nn.Sequential gives its layers."""
    return bool(spec.config.get("in_order"))


def dependent(recipe: Recipe) -> Iterator[tuple[int, str, bool]]:
    """(place, title, whether it runs the model) of the steps that run the model or cut its shapes."""
    for index, step in enumerate(recipe.steps):
        needs = needs_of(step.technique, step.settings, step.overrides)
        if "architecture" in needs:
            yield index, techniques()[step.technique].title, bool(needs & {"calibration", "training"})


def refusal(spec: ArchitectureSpec | None, recipe: Recipe, first: int, wiring: Mapping[str, Any] | None) -> str | None:
    """Why the recipe cannot go on from its step `first`, by what `judged` found; None where it can."""
    if spec is None or wiring is None or wiring["confirmed"] or (in_order(spec) and not wiring["contradicted"]):
        return None
    title = next((title for index, title, _ in dependent(recipe) if index >= first), None)
    return f"{title} depends on how the layers are wired. {wiring['sentence']} {advice()}" if title else None


def judged(
    model: Model, accuracy: Samples | None, data: Sequence[Batch], dataset: DatasetFacts | None
) -> dict[str, Any] | None:
    """{"confirmed", "contradicted", "sentence"} of the guess behind a model; None where nothing was guessed.

    Confirmed where the 95 % interval of its accuracy lies beyond the middle between guessing and always right;
    contradicted where with another activation or pooling that fits the same shapes it does, and is clearly better.
    """
    spec = model.architecture
    if spec is None or spec.guess is None:
        return None
    if accuracy is None or dataset is None or not dataset.labels:
        sentence = f"Its wiring is a guess that nothing confirms. {spec.guess}"
        return {"confirmed": False, "contradicted": False, "sentence": sentence}
    share, chance = accuracy.value("accuracy"), _chance(dataset)
    better = _better(model, spec, accuracy, data, chance)
    confirmed = better is None and _far_above(chance, accuracy)
    told = f"{percent(share)} of {accuracy.n:,} samples are right, and always naming the commonest class gives "
    told += percent(chance)
    how = "contradicts" if better else "confirms" if confirmed else "does not confirm"
    sentence = f"Its wiring is a guess that the dataset {how}: {better or told}. {'' if confirmed else spec.guess}"
    return {"confirmed": confirmed, "contradicted": better is not None, "sentence": sentence.strip()}


def marked(metrics: Mapping[str, Any], wiring: Mapping[str, Any] | None) -> dict[str, Any]:
    """The metrics under titles that say where they are those of a guess."""
    if wiring is None or wiring["confirmed"]:
        return dict(metrics)
    return {name: {**metric, "title": f"{metric['title']} (wiring assumed)"} for name, metric in metrics.items()}


def _chance(dataset: DatasetFacts) -> float:
    counts = dataset.evaluation.per_class
    return max(counts) / max(sum(counts), 1) if counts else 1 / max(len(dataset.labels or ()), 1)


def _far_above(chance: float, accuracy: Samples) -> bool:
    low, _ = wilson(accuracy.value("accuracy"), accuracy.n)
    return low > (1 + chance) / 2


def _better(
    model: Model, spec: ArchitectureSpec, accuracy: Samples, data: Sequence[Batch], chance: float
) -> str | None:
    """What stands in the place of what was assumed and is right clearly more often; None where nothing is."""
    some, found = _first(data), []
    for assumed, others in OTHERS.items():
        for other in others if any(step["op"] == assumed for step in spec.config["steps"]) else ():
            steps = [{**step, "op": other} if step["op"] == assumed else step for step in spec.config["steps"]]
            changed = spec.model_copy(update={"config": {**spec.config, "steps": steps}})
            scores, _ = evaluate(build(Model(model.weights, model.tied, changed)), changed, some, Silent())
            theirs = torch.tensor(scores["accuracy"].sums)
            ours = torch.tensor(accuracy.sums)[: len(theirs)]
            gained, lost = int((theirs > ours).sum()), int((theirs < ours).sum())
            if (
                _far_above(chance, scores["accuracy"]) and gained - lost > SIGMAS * (gained + lost) ** 0.5
            ):  # McNemar's test of paired answers
                right, before = percent(float(theirs.mean())), percent(float(ours.mean()))
                told = f"with {other} in the place of {assumed} {right} are right, not {before}"
                found.append((gained - lost, told))
    return max(found)[1] if found else None


def _first(data: Sequence[Batch]) -> list[Batch]:
    found, count = [], 0
    for index in range(len(data)):
        if count >= TRIED_ON:
            break
        found.append(data[index])
        count += len(found[-1].targets) if found[-1].targets is not None else 0
    return found

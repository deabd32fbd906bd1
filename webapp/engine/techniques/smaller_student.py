"""A smaller student: the same architecture with fewer blocks and narrower layers, for a distillation to teach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from webapp.engine.architectures.build import build
from webapp.engine.architectures.reshape import ShapeChange, reshaped_facts
from webapp.engine.facts import CheckpointFacts, LayerFacts
from webapp.engine.lazy import nn, torch
from webapp.engine.recipe import StepSettings, TechniqueSettings, setting
from webapp.engine.weights import Dense, DensePlan, StoragePlan
from webapp.engine.weights.model import Model

from .base import NOTHING, AtWork, Context, Outcome, Skip, Technique
from .layer_drop import LayerDrop
from .structured_pruning import StructuredPruning
from .surgery import structure_of, with_structure

Part = tuple[Technique, StepSettings]


class SmallerStudent(Technique):
    name = "smaller_student"
    title = "Smaller student"
    family = "Training"
    summary = (
        "Makes a student of fewer blocks and narrower layers, initialized from the model's own weights or at random; "
        "its accuracy is poor until the distillation that has to follow."
    )
    paper = "https://arxiv.org/abs/1910.01108"
    needs = frozenset({"architecture"})
    layers = frozenset({"linear", "conv", "experts"})
    counts_zeros = False  # those in the channels that leave

    class Settings(TechniqueSettings):
        depth: float = setting(
            1.0,
            "Blocks kept",
            "The share of transformer blocks that the student has, taken evenly from the model. At least one stays.",
            widget="slider",
            step=0.05,
            ge=0.05,
            le=1.0,
        )
        width: float = setting(
            0.5,
            "Width kept",
            "The share of neurons and channels between layers, those with the largest weights.",
            widget="slider",
            step=0.05,
            ge=0.1,
            le=1.0,
        )
        heads: float = setting(
            1.0,
            "Heads kept",
            "The share of attention heads, key-value groups with their query heads.",
            widget="slider",
            step=0.05,
            ge=0.1,
            le=1.0,
        )
        initialise: Literal["teacher", "random"] = setting(
            "teacher",
            "Initialization",
            "teacher: what stays keeps the model's weights, which learns faster. random: all weights are drawn afresh.",
        )
        round_to: int = setting(
            8, "Round to a multiple of", "Of the width; heads are whole.", unit="channels", ge=1, le=1024
        )

    def refuses(self, plan: StoragePlan) -> str | None:
        if not isinstance(plan, DensePlan):
            return f"it is stored as {plan.label} by then; put smaller_student before that step"
        return None

    def exact(self, settings: Any) -> bool:
        return bool(settings.initialise == "teacher")  # zeros that earlier steps wanted are drawn anew as well

    def plan(self, layer: LayerFacts, plan: StoragePlan, settings: Any) -> StoragePlan:
        return plan

    def reshape(self, facts: CheckpointFacts, layers: Sequence[LayerFacts], settings: StepSettings) -> ShapeChange:
        whole = ShapeChange(facts.architecture, {}, {}, frozenset(), facts.structure)
        for technique, own in self._parts(facts, layers, settings.own):
            change = technique.reshape(facts, layers, own)
            assert change is not None
            facts, layers = reshaped_facts(facts, change), _renamed(facts, layers, change)
            whole = _then(whole, change)
        return whole

    def _parts(self, facts: CheckpointFacts, layers: Sequence[LayerFacts], settings: Any) -> list[Part]:
        """The steps that make it smaller, in their order. Raises Skip where nothing is to be smaller."""
        found = list(_parts(facts, layers, settings))
        if not found:
            raise Skip("every share that is kept is 1, so the student would be as large as the model")
        return found

    def working_bytes(self, at: AtWork) -> int:
        drawn = at.model.whole if at.settings.own.initialise == "random" else 0
        return max(drawn, super().working_bytes(at))

    def apply(self, model: Model, settings: StepSettings, context: Context) -> list[Outcome]:
        assert context.facts is not None
        facts, layers = with_structure(context.facts), context.layers
        rows: dict[str, list[Outcome]] = {layer.name: [] for layer in layers}
        origins = {layer.weight: layer.name for layer in layers}  # as it was called before blocks left
        for technique, own in self._parts(facts, layers, settings.own):
            change = technique.reshape(facts, layers, own)
            assert change is not None
            names = {layer.name: origins[layer.weight] for layer in layers}
            for row in technique.apply(model, own, replace(context, facts=facts, layers=layers, data=None)):
                rows[names[row.layer]].append(replace(row, layer=names[row.layer], note="" if row.ok else row.note))
            facts, layers = reshaped_facts(facts, change), _renamed(facts, layers, change)
            origins = {change.renamed.get(weight, weight): name for weight, name in origins.items()}
        outcomes = [row for own in rows.values() for row in ([r for r in own if r.asked != NOTHING] or own[:1])]
        if settings.own.initialise == "random":
            drawn = _drawn_afresh(model, context.seed)
            outcomes.append(Outcome("every tensor", "begun at random", f"{drawn} drawn with seed {context.seed}"))
        return outcomes


def _parts(facts: CheckpointFacts, layers: Sequence[LayerFacts], settings: Any) -> Iterator[Part]:
    if settings.depth < 1:
        row = structure_of(facts).blocks
        count = row.count if row is not None else 0  # none: LayerDrop says so
        gone = count - max(1, round(settings.depth * count)) if count else 1
        if gone:
            yield LayerDrop(), StepSettings(LayerDrop.Settings(blocks=gone, by="evenly"))
    common = {"importance": "l2", "round_to": settings.round_to}
    for share, kind in ((settings.width, "neurons"), (settings.heads, "heads")):
        if share < 1:
            own = {"ratio": min(0.9, 1 - share), "cut": kind, **common}
            yield StructuredPruning(), StepSettings(StructuredPruning.Settings.model_validate(own))


def _renamed(facts: CheckpointFacts, layers: Sequence[LayerFacts], change: ShapeChange) -> list[LayerFacts]:
    """The chosen layers as they are called and shaped afterwards."""
    weights = {change.renamed.get(layer.weight, layer.weight) for layer in layers if layer.weight not in change.removed}
    return [layer for layer in reshaped_facts(facts, change).layers if layer.weight in weights]


def _then(first: ShapeChange, second: ShapeChange) -> ShapeChange:
    """Both changes as one; the second says names as the first left them."""
    old = {new: name for name, new in first.renamed.items()}
    shapes = {**first.shapes, **{old.get(name, name): shape for name, shape in second.shapes.items()}}
    kept = {name: second.renamed.get(new, new) for name, new in first.renamed.items()}
    renamed = {**{old.get(name, name): new for name, new in second.renamed.items()}, **kept}
    removed = first.removed | {old.get(name, name) for name in second.removed}
    return ShapeChange(second.architecture, shapes, renamed, frozenset(removed), second.structure)


def _drawn_afresh(model: Model, seed: int) -> int:
    """Every weight as the module's own initialisation draws it. Returns how many tensors changed."""
    module = build(model)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for part in module.modules():
            _draw(module, part)
    state = module.state_dict()
    for name, encoded in model.weights.items():
        model.weights[name] = Dense(state[name].to(encoded.dtype).clone())
    return len(model.weights)


def _draw(module: nn.Module, part: nn.Module) -> None:
    rule: Any = getattr(module, "_init_weights", None)  # transformers has one for each kind of part
    own: Any = getattr(part, "reset_parameters", None)
    if rule is not None:
        rule(part)
    elif own is not None:
        own()

"""The model's form after steps that change shapes or names: what later steps, prediction and the receipt go by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from webapp.engine.facts import ArchitectureSpec, CheckpointFacts, LayerFacts, TensorFacts
from webapp.engine.weights import DensePlan, StoragePlan, dtype_name
from webapp.engine.weights.model import Model

from . import architectures

Plans = dict[str, StoragePlan]


@dataclass(frozen=True)
class ShapeChange:
    """What a step makes of the model's form: its architecture afterwards, and the tensors that change or go.

    `shapes` holds the new shape of each tensor that changes, under its old name; `renamed` maps old names to new ones
    and `removed` names what goes. Everything else stays as it is.
    """

    architecture: ArchitectureSpec | None
    shapes: Mapping[str, tuple[int, ...]]
    renamed: Mapping[str, str]
    removed: frozenset[str]


def describe_model(model: Model, before: CheckpointFacts) -> CheckpointFacts:
    """`before` with the tensors, ties, layers and architecture that the model has now."""
    tensors = tuple(
        TensorFacts(name=name, shape=encoded.shape, dtype=dtype_name(encoded.dtype))
        for name, encoded in model.weights.items()
    )
    return _updated(before, tensors, model.architecture, model.tied)


def reshaped_facts(facts: CheckpointFacts, change: ShapeChange) -> CheckpointFacts:
    """The facts after a step that reshapes, as far as shapes and names tell."""
    tensors = tuple(
        tensor.model_copy(
            update={
                "name": change.renamed.get(tensor.name, tensor.name),
                "shape": change.shapes.get(tensor.name, tensor.shape),
                "zeros": 0 if tensor.name in change.shapes else tensor.zeros,
            }
        )
        for tensor in facts.tensors
        if tensor.name not in change.removed
    )
    tied = {
        change.renamed.get(alias, alias): change.renamed.get(name, name)
        for alias, name in facts.tied.items()
        if alias not in change.removed
    }
    return _updated(facts, tensors, change.architecture, tied)


def reshaped_plans(plans: Plans, change: ShapeChange) -> Plans:
    """Every plan under its new name and in its new shape. A weight that was cut is dense, less its share of zeros."""
    return {
        change.renamed.get(name, name): _resized(plan, change.shapes[name]) if name in change.shapes else plan
        for name, plan in plans.items()
        if name not in change.removed
    }


def _resized(plan: StoragePlan, shape: tuple[int, ...]) -> StoragePlan:
    if not isinstance(plan, DensePlan):
        return plan  # what may be cut in another form says its technique
    smaller = replace(plan, shape=shape, zeros=0)
    return replace(smaller, zeros=round(plan.zeros / max(plan.size, 1) * smaller.size))


def _updated(
    facts: CheckpointFacts,
    tensors: tuple[TensorFacts, ...],
    architecture: ArchitectureSpec | None,
    tied: dict[str, str],
) -> CheckpointFacts:
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    layers = facts.layers
    if architecture is not None and architecture != facts.architecture:
        from .layers import layers_of

        module = architectures()[architecture.family].skeleton(architecture)
        layers = layers_of(module, architecture, tied)
    kept = tuple(_shaped(layer, shapes) for layer in layers if layer.weight in shapes)
    changes = {"tensors": tensors, "layers": kept, "architecture": architecture, "tied": dict(tied)}
    return facts.model_copy(update=changes)


def _shaped(layer: LayerFacts, shapes: dict[str, tuple[int, ...]]) -> LayerFacts:
    return layer if layer.shape == shapes[layer.weight] else layer.model_copy(update={"shape": shapes[layer.weight]})

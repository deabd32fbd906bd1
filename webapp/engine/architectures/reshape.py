"""The model's form after steps that change shapes or names: what later steps, prediction and the receipt go by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from webapp.engine.facts import ArchitectureSpec, CheckpointFacts, LayerFacts, Structure, TensorFacts
from webapp.engine.weights import DensePlan, StoragePlan
from webapp.engine.weights.model import Model

from . import architectures

Plans = dict[str, StoragePlan]


@dataclass(frozen=True)
class ShapeChange:
    """What a step makes of the model's form: its architecture afterwards, and the tensors that change or go.

    `shapes` holds the new shape of each tensor that changes, under its old name; `renamed` maps old names to new ones
    and `removed` names what goes. Everything else stays as it is. `structure` is that of what is left.
    """

    architecture: ArchitectureSpec | None
    shapes: Mapping[str, tuple[int, ...]]
    renamed: Mapping[str, str]
    removed: frozenset[str]
    structure: Structure | None

    def renamed_layer(self, name: str) -> str:
        """What a layer of this name, which is its weight's or that of the module around it, is called afterwards."""
        own = self.renamed.get(f"{name}.weight")
        return self.renamed.get(name, name) if own is None else own.removesuffix(".weight")


def describe_model(model: Model, before: CheckpointFacts) -> CheckpointFacts:
    """`before` with the tensors, ties, layers and architecture that the model has now.

    Where they have other shapes its layers are those of its module, and its structure is left open.
    """
    tensors = tuple(
        TensorFacts(name=name, shape=plan.shape, dtype=plan.dtype) for name, plan in model.weights.plans.items()
    )
    layers, shapes = before.layers, {tensor.name: tensor.shape for tensor in tensors}
    if model.architecture is not None and model.architecture != before.architecture:
        from .layers import layers_of

        module = architectures()[model.architecture.family].skeleton(model.architecture)
        layers = layers_of(module, model.architecture, model.tied)
    same = shapes == {tensor.name: tensor.shape for tensor in before.tensors}
    changes = {
        "tensors": tensors,
        "layers": tuple(_shaped(layer, shapes[layer.weight]) for layer in layers if layer.weight in shapes),
        "architecture": model.architecture,
        "tied": dict(model.tied),
        "structure": before.structure if same else None,
        "importance": before.importance if same else None,
    }
    return before.model_copy(update=changes)


def reshaped_facts(facts: CheckpointFacts, change: ShapeChange) -> CheckpointFacts:
    """The facts after a step that reshapes, as far as shapes and names tell."""
    tensors = tuple(
        tensor.model_copy(
            update={
                "name": change.renamed.get(tensor.name, tensor.name),
                "shape": change.shapes.get(tensor.name, tensor.shape),
                "zeros": 0 if tensor.name in change.shapes else tensor.zeros,
                "stored": None if tensor.name in change.shapes else tensor.stored,
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
    layers = tuple(_moved(layer, change) for layer in facts.layers if layer.weight not in change.removed)
    changes = {"tensors": tensors, "layers": layers, "tied": tied, "importance": None}
    return facts.model_copy(update={**changes, "architecture": change.architecture, "structure": change.structure})


def _moved(layer: LayerFacts, change: ShapeChange) -> LayerFacts:
    changes = {
        "name": change.renamed_layer(layer.name),
        "weight": change.renamed.get(layer.weight, layer.weight),
        "aliases": tuple(
            change.renamed_layer(alias) for alias in layer.aliases if not {alias, f"{alias}.weight"} & change.removed
        ),
    }
    return _shaped(layer.model_copy(update=changes), change.shapes.get(layer.weight, layer.shape))


def _shaped(layer: LayerFacts, shape: tuple[int, ...]) -> LayerFacts:
    if layer.shape == shape:
        return layer
    depthwise = layer.kind == "conv" and layer.groups > 1 and layer.groups == layer.shape[0]
    return layer.model_copy(update={"shape": shape, "groups": shape[0] if depthwise else layer.groups})


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

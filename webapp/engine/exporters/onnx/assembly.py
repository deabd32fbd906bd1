"""A model's graph with its weights in it, each in the form in which it is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx_ir as ir

from webapp.engine.architectures.build import Leaves, leaves_of
from webapp.engine.weights import Encoded, Quantized, QuantizedPlan
from webapp.engine.weights.activations import Activations
from webapp.engine.weights.artifact import manifest
from webapp.engine.weights.manifest import MANIFEST
from webapp.engine.weights.model import Model

from .convolutions import convolution
from .drawing import Drawing
from .forms import decoded, few_bits, looked_up
from .integers import IntegerProductNodes, multiplies
from .products import Use, uses_of
from .trace import traced


@dataclass
class Assembled:
    """`kernels` counts the products by what they multiply: "integers", "4-bit weights", "floats"."""

    model: ir.Model
    kernels: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def assembled(model: Model, keep: bool = False) -> Assembled:
    """The graph of a model with an architecture (`keep`: see `traced`). Values are read when it is written."""
    graph, leaves = traced(model, keep), leaves_of(model)
    drawing = Drawing(graph)
    integers, made = IntegerProductNodes(drawing, leaves), Assembled(graph)
    for weight in [value for value in graph.graph.inputs if value.name in leaves]:
        assert weight.name is not None
        leaf, transposed = leaves[weight.name]
        for use in uses_of(weight):
            plan = _plan(model, weight.name, use)
            kernel = "floats"
            if plan is not None and multiplies(leaf):
                assert isinstance(leaf, Quantized)
                kernel = "integers"
                if use.kind == "conv":
                    convolution(integers, use, weight.name, leaf, plan)
                else:
                    _put(drawing, use, integers.linear(use, weight.name, leaf, plan))
            elif use.kind == "linear" and (product := few_bits(drawing, weight.name, leaf, use)):
                kernel = "4-bit weights"
                _put(drawing, use, product)
            elif use.kind == "lookup" and (rows := looked_up(drawing, weight.name, leaf, use)):
                _put(drawing, use, rows)
            if use.kind != "lookup":
                made.kernels[kernel] += 1
        _tidy(drawing, weight)
        if weight.uses():
            drawing.replace(weight, decoded(drawing, weight.name, leaf, transposed))
        drawing.graph.inputs.remove(weight)
    drawing.finished()
    graph.metadata_props.update(_told(leaves))
    made.notes = _notes(leaf for leaf, _ in leaves.values())
    return made


def _plan(model: Model, weight: str, use: Use) -> Activations | None:
    """How the product's inputs are rounded: told of its own module, or of one that its weight is tied to."""
    if use.kind == "lookup":
        return None
    names = (weight, *(alias for alias, stored in model.tied.items() if stored == weight))
    plans = (model.activations.get(name.removesuffix(".weight")) for name in names)
    return next((plan for plan in plans if plan is not None), None)


def _put(drawing: Drawing, use: Use, new: ir.Value) -> None:
    """In the place of a node."""
    drawing.replace(use.output, new)
    drawing.graph.remove(use.node, safe=True)


def _told(leaves: Leaves) -> dict[str, str]:
    """What of the weights in stored forms the graph does not show (how many bits, the checkpoint's dtype), for Pare."""
    plans = {name: leaf.plan for name, (leaf, _) in leaves.items()}
    told = manifest(plans, {}, None)
    return {MANIFEST: told[MANIFEST]} if not all(plan.plain for plan in plans.values()) else {}


def _tidy(drawing: Drawing, weight: ir.Value) -> None:
    """Takes away what transposed the weight for products that are gone."""
    for node in list(weight.consumers()):
        if node.op_type == "Transpose" and not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            drawing.graph.remove(node, safe=True)


def _notes(leaves: Iterable[Encoded]) -> list[str]:
    """What this format cannot keep as small as Pare's own file does."""
    plans = [leaf.plan for leaf in leaves]
    fewer = {plan.bits for plan in plans if isinstance(plan, QuantizedPlan) and plan.bits not in (4, 8)}
    told = [f"{bits}-bit integers take {4 if bits < 4 else 8} bits each." for bits in sorted(fewer)]
    others = {plan.holds for plan in plans if plan.holds not in ("floats", "integers")}
    told += [f"Values that are {what} take 32 bits each." for what in sorted(others)]
    if any(plan.pruned for plan in plans):
        told.append("Zeros take the room of other values: no runtime computes with ONNX's sparse form.")
    return told

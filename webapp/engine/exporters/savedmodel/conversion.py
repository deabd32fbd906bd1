"""An ONNX graph made into a module whose function answers as the graph does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import tensorflow as tf

from .names import operator_of
from .operators import OPERATORS, ConvertedNode
from .operators.registry import SMALLER
from .values import ConstantValue, Dynamic, Tensor, Value
from .weights import SavedWeights, Weight

OF_SCOPE = re.compile(r"[^A-Za-z0-9.]")  # what the name of a step here may not begin with
FEW = 8  # numbers that are known, of whatever type; of whole ones that tell shapes more may be
MANY = 1024
TELL_SHAPES = ("int64", "bool")


class Converted(tf.Module):  # type: ignore[misc]
    """`answers()` is the function that takes the graph's inputs by their names and returns its outputs by theirs."""

    def __init__(self, graph: ir.Graph) -> None:
        """The graph has no operator that is missing here."""
        super().__init__(name="model")
        self.weights = SavedWeights()
        steps = [_node(node, self.weights) for node in graph]
        self._about = _About(graph, steps)
        self._about.values |= {name: self._initial(name, value) for name, value in graph.initializers.items()}

    def answers(self) -> Any:
        """The concrete function. Raises Unmapped for a form of an operator that is not known."""
        names = [
            [str(value.name) for value in values] for values in (self._about.graph.inputs, self._about.graph.outputs)
        ]

        def serve(*inputs: Tensor) -> dict[str, Tensor]:
            values = self._run({name: Dynamic(tensor) for name, tensor in zip(names[0], inputs, strict=True)})
            return {name: tf.identity(values[name].plain(), name=OF_SCOPE.sub("_", name)) for name in names[1]}

        specs = [_spec(value) for value in self._about.graph.inputs]
        return tf.function(serve, input_signature=specs, autograph=False).get_concrete_function()

    def _initial(self, name: str, value: ir.Value) -> Value:
        assert value.const_value is not None
        array = value.const_value.numpy()
        if array.size <= FEW or (array.dtype.name in TELL_SHAPES and array.size <= MANY):
            small = SMALLER.get(value.const_value.dtype)  # which TensorFlow has no kernels for
            return ConstantValue(array.astype(small.as_numpy_dtype) if small else np.asarray(array))
        return self.weights.stored(name, array)

    def _run(self, given: dict[str, Value]) -> dict[str, Value]:
        """Every value of the graph by its name; what needs no request is made once, however often this is traced."""
        fixed, values = self._about.values, dict(given)
        for node in self._about.steps:
            if node.outputs[0] in fixed:
                continue
            inputs = [None if name is None else values[name] if name in values else fixed[name] for name in node.inputs]
            found = dict(zip(node.outputs, self._step(node, inputs), strict=False))
            (values if isinstance(next(iter(found.values())), Dynamic) else fixed).update(found)
        return {**fixed, **values}

    def _step(self, node: ConvertedNode, inputs: Sequence[Value | None]) -> Sequence[Value]:
        present = [value for value in inputs if value is not None]
        if any(isinstance(value, Dynamic) for value in present):
            return OPERATORS[node.operator](node, inputs)
        if not any(isinstance(value, Weight) for value in present):
            with tf.init_scope():
                return [ConstantValue(np.asarray(value.plain())) for value in OPERATORS[node.operator](node, inputs)]
        return [self._weight(node, inputs, place) for place in range(len(node.outputs))]

    def _weight(self, node: ConvertedNode, inputs: Sequence[Value | None], place: int) -> Weight:
        """The node's output of weights alone, which the loader computes."""
        present = [value for value in inputs if value is not None]

        def compute(*tensors: Tensor) -> Tensor:
            found = (ConstantValue(t) if isinstance(t, np.ndarray) else Dynamic(t) for t in tensors)
            given = [None if value is None else next(found) for value in inputs]
            return OPERATORS[node.operator](node, given)[place].plain()

        first = present[0]
        flips = node.operator == "Transpose" and list(node.get("perm") or (1, 0)) == [1, 0]
        turns = first if flips and isinstance(first, Weight) else None
        return self.weights.computed(node.outputs[place], compute, present, turns)


@dataclass
class _About:
    """What the module's own tracking shall not see, which would save it: `values` are those that need no request."""

    graph: ir.Graph
    steps: list[ConvertedNode]
    values: dict[str, Value] = field(default_factory=dict)


def _node(node: ir.Node, weights: SavedWeights) -> ConvertedNode:
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    inputs = tuple(str(value.name) if value is not None and value.name else None for value in node.inputs)
    outputs = tuple(str(value.name) for value in node.outputs if value.name)
    return ConvertedNode(operator_of(node), attributes, inputs, outputs, weights)


def _spec(value: ir.Value) -> Any:
    assert value.shape is not None
    assert value.dtype is not None
    sizes = [size if isinstance(size, int) else None for size in value.shape]
    return tf.TensorSpec(sizes, tf.as_dtype(value.dtype.numpy()), name=value.name)

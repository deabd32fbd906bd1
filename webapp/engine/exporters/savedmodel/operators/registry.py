"""Which ONNX operators there are, each a function from a node and its inputs to its outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import onnx_ir as ir
import tensorflow as tf

from webapp.engine.exporters.savedmodel.values import Dynamic, Tensor, Value, aligned
from webapp.engine.exporters.savedmodel.weights import SavedWeights

MICROSOFT = "com.microsoft:"  # before the names of onnxruntime's own operators
SMALLER = {ir.DataType.INT4: tf.int8, ir.DataType.UINT4: tf.uint8}  # are computed with as these
RANGES = {ir.DataType.INT4: (-8, 7), ir.DataType.UINT4: (0, 15)}


class Unmapped(Exception):
    """A form of an operator that is not known here; the message names the operator and the form."""


@dataclass(frozen=True)
class ConvertedNode:
    operator: str
    attributes: dict[str, Any]
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    weights: SavedWeights = field(repr=False)

    def get(self, name: str, otherwise: Any = None) -> Any:
        return self.attributes.get(name, otherwise)


Operator: TypeAlias = Callable[[ConvertedNode, Sequence[Value | None]], Sequence[Value]]
OPERATORS: dict[str, Operator] = {}


def layouts(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Of a function that takes values as they lie, and returns one."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            assert name not in OPERATORS, name
            OPERATORS[name] = lambda node, given: _listed(function(node, *given))
        return function

    return register


def plain(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Of a function from plain tensors to one or several."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(node: ConvertedNode, *given: Value | None) -> list[Value]:
            found = function(node, *(None if value is None else value.plain() for value in given))
            return [Dynamic(tensor) for tensor in _listed(found)]

        layouts(*names)(called)
        return function

    return register


def pointwise(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Of a function of tensors that are broadcast together, whichever way they lie."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(node: ConvertedNode, *given: Value | None) -> Value:
            tensors, last = aligned([value for value in given if value is not None])
            found = iter(tensors)
            tensor: Tensor = function(node, *(None if value is None else next(found) for value in given))
            return Dynamic(tensor, last)

        layouts(*names)(called)
        return function

    return register


def _listed(found: Any) -> list[Any]:
    return list(found) if isinstance(found, tuple | list) else [found]


def dtype_of(number: int) -> Any:
    kind = ir.DataType(number)
    if kind in SMALLER:
        return SMALLER[kind]
    try:
        return tf.as_dtype(kind.numpy())
    except TypeError as error:
        raise Unmapped(f"values of type {kind.name}") from error

"""Weights in a SavedModel: variables as small as they are stored, and what is decoded of them once, at loading.

A tensor that the file stores is a variable. What is computed of such tensors alone is a resource that its initializer
fills after the variables are restored: TensorFlow Serving runs that before the first request.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from .values import Tensor, Value

Compute = Callable[..., Tensor]  # of the plain tensors of its inputs
NIBBLES = {"int4": True, "uint4": False}  # whether signed; two of them lie in a byte


@dataclass(frozen=True)
class Weight(Value):
    """By its name; its values are a stored array, or `compute` of `inputs`."""

    weights: SavedWeights
    name: str
    shape: tuple[int, ...]
    dtype: Any  # TensorFlow's
    stored: Any = None
    compute: Compute | None = None
    inputs: tuple[Value, ...] = ()
    turns: Weight | None = None  # the matrix that this one is the transpose of

    @property
    def rank(self) -> int:
        return len(self.shape)

    def plain(self) -> Tensor:
        return self.weights.read(self)

    def permuted(self, axes: Sequence[int]) -> Tensor:
        return self.weights.read(self, tuple(axes))


class Decoded(tf.saved_model.experimental.TrackableResource):  # type: ignore[misc]
    """A tensor that the loader computes; its name is its own, for in one process all resources share their names."""

    def __init__(self, compute: Callable[[], Tensor]) -> None:
        """Makes the variables that `compute` reads, but does not read them."""
        super().__init__()
        traced = tf.function(compute, autograph=False).get_concrete_function()
        (made,) = traced.outputs
        self.shape, self.dtype = made.shape, made.dtype
        self.compute = _hidden(traced)
        self.shared_name = f"decoded-{uuid.uuid4()}"

    def _create_resource(self) -> Tensor:
        return tf.raw_ops.VarHandleOp(dtype=self.dtype, shape=self.shape, shared_name=self.shared_name)

    def _initialize(self) -> None:
        tf.raw_ops.AssignVariableOp(resource=self.resource_handle, value=self.compute())

    def read(self) -> Tensor:
        found = tf.raw_ops.ReadVariableOp(resource=self.resource_handle, dtype=self.dtype)
        return tf.ensure_shape(found, self.shape)


class SavedWeights(tf.Module):  # type: ignore[misc]
    """Makes variables and resources as they are first read, and keeps them under the names of the ONNX graph."""

    def __init__(self) -> None:
        super().__init__(name="weights")
        self.variables_by_name: dict[str, Any] = {}
        self.decoded_by_name: dict[str, Decoded] = {}

    def stored(self, name: str, array: np.ndarray[Any, Any]) -> Weight:
        """Of 4-bit numbers the variable holds pairs, and they are parted at loading."""
        signed = NIBBLES.get(array.dtype.name)
        if signed is None:
            return Weight(self, name, array.shape, tf.as_dtype(array.dtype), stored=array)
        packed = self.stored(f"{name}.packed", _packed(array))
        return self.computed(name, lambda pairs: _parted(pairs, array.shape, signed), (packed,))

    def computed(self, name: str, compute: Compute, inputs: Sequence[Value], turns: Weight | None = None) -> Weight:
        """Of tensors with the shapes of `inputs`, which none of them is read for yet."""
        with tf.Graph().as_default():
            given = [
                tf.compat.v1.placeholder(value.dtype, value.shape) if isinstance(value, Weight) else value.plain()
                for value in inputs
            ]
            made = tf.convert_to_tensor(compute(*given))
        return Weight(self, name, tuple(made.shape), made.dtype, None, compute, tuple(inputs), turns)

    def read(self, weight: Weight, axes: tuple[int, ...] = ()) -> Tensor:
        """Its values in the graph that is being made, transposed to `axes` before it is loaded or at loading."""
        name = f"{weight.name} {axes}" if axes else weight.name
        if weight.stored is not None:
            return self._variable(name, weight.stored.transpose(axes) if axes else weight.stored)
        if name not in self.decoded_by_name:

            def compute() -> Tensor:
                values = self._inline(weight)
                return tf.transpose(values, axes) if axes else values

            with tf.init_scope():
                self.decoded_by_name[name] = Decoded(compute)
        return self.decoded_by_name[name].read()

    def _variable(self, name: str, array: np.ndarray[Any, Any]) -> Tensor:
        if name not in self.variables_by_name:
            with tf.init_scope(), tf.device("cpu"):
                self.variables_by_name[name] = tf.Variable(array, trainable=False, name="weight")
        return self.variables_by_name[name].read_value()

    def _inline(self, weight: Weight) -> Tensor:
        """Its values computed on the spot, out of variables."""
        if weight.compute is None:
            return self.read(weight)
        given = (self._inline(v) if isinstance(v, Weight) else v.plain() for v in weight.inputs)
        return weight.compute(*given)


def _hidden(traced: Callable[[], Tensor]) -> Compute:
    """The function so that it is not found, and saved, as one of the model's own."""
    return lambda: traced()


def _packed(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """uint8 (ceil(n / 2),), the first of two in the lower half."""
    codes = array.reshape(-1).astype(np.int8).astype(np.uint8) & 15
    codes = np.pad(codes, (0, codes.size % 2))
    return np.asarray(codes[0::2] | (codes[1::2] << 4))


def _parted(pairs: Tensor, shape: tuple[int, ...], signed: bool) -> Tensor:
    """int8 or uint8 of `shape`."""
    halves = tf.stack([pairs & 15, tf.bitwise.right_shift(pairs, 4)], axis=1)
    codes = tf.reshape(halves, [-1])[: int(np.prod(shape))]
    if signed:
        codes = tf.bitwise.bitwise_xor(tf.cast(codes, tf.int8), tf.constant(8, tf.int8)) - 8
    return tf.reshape(codes, shape)

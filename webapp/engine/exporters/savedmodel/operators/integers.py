"""Activations and weights as integers.

TensorFlow has no fast product of 8-bit integers on processors: the same numbers are multiplied as floats, which hold
the sums of up to 500 products exactly and those of more to a part in ten million.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from webapp.engine.exporters.savedmodel.values import Dynamic, Tensor, Value, aligned
from webapp.engine.exporters.savedmodel.weights import Weight

from .products import product, times
from .registry import MICROSOFT, RANGES, SMALLER, ConvertedNode, Unmapped, dtype_of, layouts, plain

STEPS = 255.0


@layouts("QuantizeLinear")
def quantize(node: ConvertedNode, x: Value, scale: Value, zero: Value | None = None) -> Value:
    """round(x / scale) + zero, to the nearest even, within the type's range."""
    kind = node.get("output_dtype", 0)
    dtype = dtype_of(kind) if kind else tf.uint8
    if zero is not None:
        dtype = tf.convert_to_tensor(zero.plain()).dtype
    low, high = next((RANGES[k] for k in SMALLER if int(k) == kind), (dtype.min, dtype.max))
    tensor, last, about = _spread(node, x, [scale] if zero is None else [scale, zero])
    steps = tf.round(tensor / about[0])
    if len(about) > 1:
        steps += tf.cast(about[1], tensor.dtype)
    return Dynamic(tf.cast(tf.clip_by_value(steps, float(low), float(high)), dtype), last)


@layouts("DequantizeLinear")
def dequantize(node: ConvertedNode, x: Value, scale: Value, zero: Value | None = None) -> Value:
    """(x - zero) * scale."""
    tensor, last, about = _spread(node, x, [scale] if zero is None else [scale, zero])
    dtype = tf.convert_to_tensor(about[0]).dtype
    values = tf.cast(tensor, dtype)
    if len(about) > 1:
        values -= tf.cast(about[1], dtype)
    return Dynamic(values * about[0], last)


def _spread(node: ConvertedNode, x: Value, about: list[Value]) -> tuple[Tensor, bool, list[Tensor]]:
    """The scale and the zero as they broadcast with x: one for all, along an axis, or for each block of it."""
    if about[0].rank == 0 or about[0].plain().shape == (1,):
        tensors, last = aligned([x])
        return tensors[0], last, [tf.reshape(value.plain(), []) for value in about]
    tensor, axis, block = x.plain(), node.get("axis", 1), node.get("block_size", 0)
    axis %= len(tensor.shape)
    if block:
        size = tensor.shape[axis]
        return tensor, False, [_cut(tf.repeat(value.plain(), block, axis), axis, size) for value in about]
    sizes = [-1 if place == axis else 1 for place in range(len(tensor.shape))]
    return tensor, False, [tf.reshape(value.plain(), sizes) for value in about]


def _cut(tensor: Tensor, axis: int, size: int) -> Tensor:
    return tensor[tuple(slice(size) if place == axis else slice(None) for place in range(len(tensor.shape)))]


@plain("DynamicQuantizeLinear")
def dynamic(node: ConvertedNode, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One scale for all of x, whose range is made to hold zero."""
    low, high = tf.minimum(tf.reduce_min(x), 0.0), tf.maximum(tf.reduce_max(x), 0.0)
    scale = (high - low) / STEPS
    divisor = tf.where(scale > 0, scale, tf.ones_like(scale))
    zero = tf.clip_by_value(tf.round(-low / divisor), 0.0, STEPS)
    codes = tf.clip_by_value(tf.round(x / divisor) + zero, 0.0, STEPS)
    return tf.cast(codes, tf.uint8), scale, tf.cast(zero, tf.uint8)


@layouts("MatMulInteger")
def integers(
    node: ConvertedNode, a: Value, b: Value, zero_a: Value | None = None, zero_b: Value | None = None
) -> Value:
    return Dynamic(tf.cast(_multiplied(node, a, b, zero_a, zero_b), tf.int32))


@layouts(MICROSOFT + "MatMulIntegerToFloat")
def integers_to_floats(
    node: ConvertedNode,
    a: Value,
    b: Value,
    scale_a: Value,
    scale_b: Value,
    zero_a: Value | None = None,
    zero_b: Value | None = None,
    bias: Value | None = None,
) -> Value:
    found = _multiplied(node, a, b, zero_a, zero_b) * (scale_a.plain() * scale_b.plain())
    return Dynamic(found if bias is None else found + bias.plain())


def _multiplied(node: ConvertedNode, a: Value, b: Value, zero_a: Value | None, zero_b: Value | None) -> Tensor:
    """The sums of the products, as whole numbers in float32."""
    left = tf.cast(a.plain(), tf.float32)
    if zero_a is not None:
        left -= tf.cast(_column(zero_a.plain()), tf.float32)
    if not isinstance(b, Weight) or b.rank != 2:
        right = tf.cast(b.plain(), tf.float32)
        return product(left, right if zero_b is None else right - tf.cast(zero_b.plain(), tf.float32))
    if isinstance(zero_b, Dynamic):
        raise Unmapped(f"{node.operator} whose weight's zero comes with the request")
    inner = b if b.turns is None else b.turns

    def decode(codes: Tensor, zero: Tensor | None = None) -> Tensor:
        values = tf.cast(codes, tf.float32)
        if zero is None:
            return values
        shape = [-1, 1] if b.turns is not None and np.prod(zero.shape) > 1 else [-1] if np.prod(zero.shape) > 1 else []
        return values - tf.reshape(tf.cast(zero, tf.float32), shape)

    matrix = node.weights.computed(f"{inner.name}.floats", decode, [inner] if zero_b is None else [inner, zero_b])
    if b.turns is not None:
        matrix = node.weights.computed(f"{matrix.name}.turned", tf.transpose, [matrix], matrix)
    return times(left, matrix)


def _column(zero: Tensor) -> Tensor:
    """One for each row, where there are several."""
    return zero[:, tf.newaxis] if len(zero.shape) == 1 and zero.shape[0] != 1 else zero

"""Pooling and resizing, with the channels last."""

from __future__ import annotations

import tensorflow as tf

from webapp.engine.exporters.savedmodel.values import RANK, Dynamic, Tensor, Value

from .convolutions import Window, window
from .registry import ConvertedNode, Unmapped, layouts
from .shapes import known


@layouts("GlobalAveragePool", "GlobalMaxPool")
def over_all(node: ConvertedNode, x: Value) -> Value:
    reduce = tf.reduce_mean if node.operator == "GlobalAveragePool" else tf.reduce_max
    if x.rank == RANK:
        return Dynamic(reduce(x.channels_last(), [1, 2], keepdims=True), True)
    return Dynamic(reduce(x.plain(), list(range(2, x.rank)), keepdims=True))


@layouts("MaxPool")
def largest(node: ConvertedNode, x: Value) -> Value:
    if len(node.outputs) > 1 or x.rank != RANK:
        raise Unmapped("MaxPool with the places of what it finds, or of other than images")
    slides, tensor = window(node, tuple(node.get("kernel_shape"))), x.channels_last()
    least = tensor.dtype.min
    tensor = _to_the_end(node, slides.pad(tensor, least), slides, least)
    return Dynamic(_pooled(tensor, slides, "MAX"), True)


@layouts("AveragePool")
def averages(node: ConvertedNode, x: Value) -> Value:
    """Padding counts where the node says so; what is added to reach the end never does."""
    if x.rank != RANK:
        raise Unmapped("AveragePool of other than images")
    slides, tensor = window(node, tuple(node.get("kernel_shape"))), x.channels_last()
    if not slides.padded and not node.get("ceil_mode", 0):
        return Dynamic(_pooled(tensor, slides, "AVG"), True)
    ones = tf.ones_like(tensor[:1, :, :, :1])
    counted = slides.pad(ones, 1.0 if node.get("count_include_pad", 0) else 0.0)
    found = _pooled(_to_the_end(node, slides.pad(tensor), slides, 0.0), slides, "AVG")
    return Dynamic(found / _pooled(_to_the_end(node, counted, slides, 0.0), slides, "AVG"), True)


def _pooled(x: Tensor, slides: Window, kind: str) -> Tensor:
    return tf.nn.pool(x, slides.size, kind, slides.strides, "VALID", dilations=slides.dilations)


def _to_the_end(node: ConvertedNode, x: Tensor, slides: Window, value: float) -> Tensor:
    """Padded for the last window, where a node rounds the number of windows up; none begins in the padding."""
    if not node.get("ceil_mode", 0):
        return x
    amounts = []
    for axis in (0, 1):
        size, stride = tf.shape(x)[axis + 1], slides.strides[axis]
        reach = (slides.size[axis] - 1) * slides.dilations[axis] + 1
        count = -(-(size - reach) // stride) + 1
        begins = (count - 1) * stride < size - slides.pads[axis][1]
        count = tf.where(begins, count, count - 1)
        amounts.append([0, tf.maximum((count - 1) * stride + reach - size, 0)])
    return tf.pad(x, [[0, 0], *amounts, [0, 0]], constant_values=value)


@layouts("Resize")
def resize(
    node: ConvertedNode, x: Value, area: Value | None = None, scales: Value | None = None, sizes: Value | None = None
) -> Value:
    """Of images: nearest by whole multiples, and linear with half-pixel centres, which is what TensorFlow has."""
    mode, centres = node.get("mode", "nearest"), node.get("coordinate_transformation_mode", "half_pixel")
    if x.rank != RANK or node.get("antialias", 0):
        raise Unmapped("Resize of other than images, or smoothed")
    tensor = x.channels_last()
    if scales is not None and len(known(node, scales.plain())):
        factors = known(node, scales.plain())[2:]
        wanted = tf.cast(tf.floor(tf.cast(tf.shape(tensor)[1:3], tf.float32) * factors), tf.int32)
    elif sizes is not None:
        wanted, factors = tf.cast(sizes.plain()[2:], tf.int32), None
    else:
        raise Unmapped("Resize to no size")
    if mode == "linear" and centres in ("half_pixel", "pytorch_half_pixel"):
        return Dynamic(tf.image.resize(tensor, wanted, "bilinear"), True)
    if mode == "nearest" and factors is not None and all(factor == int(factor) for factor in factors):
        tensor = tf.repeat(tf.repeat(tensor, int(factors[0]), axis=1), int(factors[1]), axis=2)
        return Dynamic(tensor, True)
    raise Unmapped(f"Resize by {mode}, {centres}")

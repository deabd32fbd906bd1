"""Shapes as values, and tensors that are made of them."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from webapp.engine.exporters.savedmodel.values import TO_FIRST, ConstantValue, Dynamic, Tensor, Value

from .registry import ConvertedNode, layouts, plain


@layouts("Shape")
def shape(node: ConvertedNode, x: Value) -> Value:
    """Sizes that are always the same are known; the others come with the request."""
    tensor = x.tensor if isinstance(x, Dynamic) else x.plain()
    order = TO_FIRST if isinstance(x, Dynamic) and x.last else range(len(tensor.shape))
    wanted = list(order)[slice(node.get("start", 0), node.get("end"))]
    fixed = [tensor.shape[axis] for axis in wanted]
    if None not in fixed:
        return ConstantValue(np.array(fixed, np.int64))
    sizes = tf.shape(tensor, out_type=tf.int64)
    return Dynamic(tf.stack([sizes[axis] if size is None else size for axis, size in zip(wanted, fixed, strict=True)]))


@plain("Size")
def size(node: ConvertedNode, x: Tensor) -> Tensor:
    return tf.size(x, out_type=tf.int64)


@plain("Range")
def spans(node: ConvertedNode, start: Tensor, limit: Tensor, step: Tensor) -> Tensor:
    return tf.range(tf.reshape(start, []), tf.reshape(limit, []), tf.reshape(step, []))


@plain("ConstantOfShape")
def constant_of_shape(node: ConvertedNode, sizes: Tensor) -> Tensor:
    value = node.get("value")
    return tf.fill(sizes, np.float32(0) if value is None else value.numpy().reshape(()))

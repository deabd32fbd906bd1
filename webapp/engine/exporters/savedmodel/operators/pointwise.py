"""What is done to each element for itself, after broadcasting."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from webapp.engine.exporters.savedmodel.values import Tensor

from .registry import ConvertedNode, Unmapped, dtype_of, pointwise

ONE: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": tf.abs,
    "Ceil": tf.math.ceil,
    "Cos": tf.cos,
    "Erf": tf.math.erf,
    "Exp": tf.exp,
    "Floor": tf.floor,
    "HardSwish": lambda x: x * tf.clip_by_value(x / 6 + 0.5, 0.0, 1.0),
    "Identity": tf.identity,
    "IsNaN": tf.math.is_nan,
    "Log": tf.math.log,
    "Mish": lambda x: x * tf.tanh(tf.math.softplus(x)),
    "Neg": tf.negative,
    "Not": tf.logical_not,
    "Reciprocal": tf.math.reciprocal,
    "Relu": tf.nn.relu,
    "Round": tf.round,
    "Sigmoid": tf.sigmoid,
    "Sign": tf.sign,
    "Sin": tf.sin,
    "Softplus": tf.math.softplus,
    "Softsign": tf.math.softsign,
    "Sqrt": tf.sqrt,
    "Tan": tf.tan,
    "Tanh": tf.tanh,
}
TWO: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": tf.add,
    "And": tf.logical_and,
    "Equal": tf.equal,
    "Greater": tf.greater,
    "GreaterOrEqual": tf.greater_equal,
    "Less": tf.less,
    "LessOrEqual": tf.less_equal,
    "Mul": tf.multiply,
    "Or": tf.logical_or,
    "PRelu": lambda x, slope: tf.where(x < 0, x * slope, x),
    "Sub": tf.subtract,
    "Xor": tf.math.logical_xor,
}
MANY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"Max": tf.maximum, "Min": tf.minimum, "Sum": tf.add}
for name, function in ONE.items():
    pointwise(name)(lambda node, x, function=function: function(x))
for name, two in TWO.items():
    pointwise(name)(lambda node, a, b, function=two: function(a, b))
for name, two in MANY.items():
    pointwise(name)(lambda node, *given, function=two: functools.reduce(function, given))


@pointwise("Clip")
def clip(node: ConvertedNode, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    x = x if low is None else tf.maximum(x, low)
    return x if high is None else tf.minimum(x, high)


@pointwise("Div")
def div(node: ConvertedNode, a: Tensor, b: Tensor) -> Tensor:
    """Of whole numbers towards zero."""
    a = tf.convert_to_tensor(a)
    return tf.truncatediv(a, b) if a.dtype.is_integer else tf.divide(a, b)


@pointwise("Pow")
def power(node: ConvertedNode, x: Tensor, exponent: Tensor) -> Tensor:
    x = tf.convert_to_tensor(x)
    if tf.is_tensor(exponent) or exponent.size != 1:
        return tf.pow(x, tf.cast(exponent, x.dtype))
    return tf.square(x) if float(exponent) == 2 else tf.pow(x, tf.cast(float(exponent), x.dtype))


@pointwise("Celu")
def celu(node: ConvertedNode, x: Tensor) -> Tensor:
    alpha = node.get("alpha", 1.0)
    return tf.where(x < 0, alpha * tf.math.expm1(tf.minimum(x, 0.0) / alpha), x)


@pointwise("Selu")
def selu(node: ConvertedNode, x: Tensor) -> Tensor:
    alpha, gamma = node.get("alpha", 1.6732632423543772), node.get("gamma", 1.0507009873554805)
    return gamma * tf.where(x < 0, alpha * tf.math.expm1(tf.minimum(x, 0.0)), x)


@pointwise("Dropout")
def dropout(node: ConvertedNode, x: Tensor, *training: Any) -> Tensor:
    """Does nothing when a model answers."""
    if len(node.outputs) > 1:
        raise Unmapped("Dropout with a mask")
    return tf.identity(x)


SINGLE: dict[str, Callable[..., Tensor]] = {
    "Cast": lambda node, x: tf.cast(x, dtype_of(node.get("to"))),
    "Mod": lambda node, a, b: tf.math.truncatemod(a, b) if node.get("fmod", 0) else tf.math.floormod(a, b),
    "Gelu": lambda node, x: tf.nn.gelu(x, approximate=node.get("approximate", "none") == "tanh"),
    "LeakyRelu": lambda node, x: tf.nn.leaky_relu(x, node.get("alpha", 0.01)),
    "Elu": lambda node, x: tf.where(x < 0, node.get("alpha", 1.0) * tf.math.expm1(tf.minimum(x, 0.0)), x),
    "HardSigmoid": lambda node, x: tf.clip_by_value(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0.0, 1.0),
    "Swish": lambda node, x: x * tf.sigmoid(node.get("alpha", 1.0) * x),
    "Where": lambda node, condition, a, b: tf.where(condition, a, b),
}
for name, function in SINGLE.items():
    pointwise(name)(function)

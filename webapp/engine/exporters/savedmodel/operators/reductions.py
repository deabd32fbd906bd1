"""What looks along axes: sums, means, maxima, normalisations."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from webapp.engine.exporters.savedmodel.values import RANK, TO_FIRST, Dynamic, Tensor, Value

from .registry import ConvertedNode, Unmapped, layouts, plain
from .shapes import axes_of, known

REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "ReduceL1": lambda x, axes, keepdims: tf.reduce_sum(tf.abs(x), axes, keepdims),
    "ReduceL2": lambda x, axes, keepdims: tf.sqrt(tf.reduce_sum(tf.square(x), axes, keepdims)),
    "ReduceLogSumExp": tf.reduce_logsumexp,
    "ReduceMax": tf.reduce_max,
    "ReduceMean": tf.reduce_mean,
    "ReduceMin": tf.reduce_min,
    "ReduceProd": tf.reduce_prod,
    "ReduceSum": tf.reduce_sum,
    "ReduceSumSquare": lambda x, axes, keepdims: tf.reduce_sum(tf.square(x), axes, keepdims),
}


@layouts(*REDUCTIONS)
def reduce(node: ConvertedNode, x: Value, axes: Value | None = None) -> Value:
    count, keep = x.rank, bool(node.get("keepdims", 1))
    given = None if axes is None else axes.plain()
    if given is not None and not len(known(node, given)):
        given = None
    where, last = axes_of(node, given, count), isinstance(x, Dynamic) and x.last
    if given is None and node.get("noop_with_empty_axes", 0):
        return x
    function = REDUCTIONS[node.operator]
    if last and (keep or where == [2, 3]):
        assert isinstance(x, Dynamic)
        found = function(x.tensor, [TO_FIRST[axis] for axis in where], keepdims=keep)
        return Dynamic(found, keep)
    return Dynamic(function(x.plain(), where, keepdims=keep))


@plain("ArgMax", "ArgMin")
def arguments(node: ConvertedNode, x: Tensor) -> Tensor:
    if node.get("select_last_index", 0):
        raise Unmapped(f"{node.operator} of the last index")
    axis = node.get("axis", 0)
    found = (tf.argmax if node.operator == "ArgMax" else tf.argmin)(x, axis, output_type=tf.int64)
    return tf.expand_dims(found, axis) if node.get("keepdims", 1) else found


@plain("CumSum")
def cumulative(node: ConvertedNode, x: Tensor, axis: Tensor) -> Tensor:
    about = {"exclusive": bool(node.get("exclusive", 0)), "reverse": bool(node.get("reverse", 0))}
    return tf.cumsum(x, int(known(node, axis).reshape(())), **about)


@plain("TopK")
def top(node: ConvertedNode, x: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    if node.get("axis", -1) % len(x.shape) != len(x.shape) - 1 or not node.get("largest", 1):
        raise Unmapped("TopK of another axis, or of the smallest")
    values, places = tf.math.top_k(x, tf.cast(tf.reshape(count, []), tf.int32))
    return values, tf.cast(places, tf.int64)


@plain("LayerNormalization")
def layer_normalization(node: ConvertedNode, x: Tensor, scale: Tensor, bias: Tensor = None) -> Tensor:
    if len(node.outputs) > 1:
        raise Unmapped("LayerNormalization with its mean and deviation")
    axes = list(range(node.get("axis", -1) % len(x.shape), len(x.shape)))
    apart = x - tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(apart), axes, keepdims=True)
    found = apart * tf.math.rsqrt(variance + node.get("epsilon", 1e-5)) * scale
    return found if bias is None else found + bias


@plain("RMSNormalization")
def rms_normalization(node: ConvertedNode, x: Tensor, scale: Tensor) -> Tensor:
    axes = list(range(node.get("axis", -1) % len(x.shape), len(x.shape)))
    mean = tf.reduce_mean(tf.square(x), axes, keepdims=True)
    return x * tf.math.rsqrt(mean + node.get("epsilon", 1e-5)) * scale


@plain("InstanceNormalization")
def instance_normalization(node: ConvertedNode, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    mean, variance = tf.nn.moments(x, list(range(2, len(x.shape))), keepdims=True)
    shape = [-1, *[1] * (len(x.shape) - 2)]
    found = (x - mean) * tf.math.rsqrt(variance + node.get("epsilon", 1e-5))
    return found * tf.reshape(scale, shape) + tf.reshape(bias, shape)


@plain("GroupNormalization")
def group_normalization(node: ConvertedNode, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """(N, C, ...) by groups of channels; `scale` and `bias` are (C,)."""
    sizes = tf.shape(x)
    grouped = tf.reshape(x, tf.stack([sizes[0], node.get("num_groups"), -1]))
    mean, variance = tf.nn.moments(grouped, [2], keepdims=True)
    found = tf.reshape((grouped - mean) * tf.math.rsqrt(variance + node.get("epsilon", 1e-5)), sizes)
    shape = [-1, *[1] * (len(x.shape) - 2)]
    return tf.ensure_shape(found * tf.reshape(scale, shape) + tf.reshape(bias, shape), x.shape)


@layouts("BatchNormalization")
def batch_normalization(
    node: ConvertedNode, x: Value, scale: Value, bias: Value, mean: Value, variance: Value
) -> Value:
    """With what was measured in training."""
    if node.get("training_mode", 0):
        raise Unmapped("BatchNormalization as in training")
    given = [value.plain() for value in (scale, bias, mean, variance)]
    epsilon = node.get("epsilon", 1e-5)
    if x.rank == RANK:
        about = dict(zip(("scale", "offset", "mean", "variance"), given, strict=True))
        found = tf.raw_ops.FusedBatchNormV3(x=x.channels_last(), **about, epsilon=epsilon, is_training=False)
        return Dynamic(found[0], True)
    weight, offset, average, spread = (
        tf.reshape(tensor, [-1, *[1] * (x.rank - 2)]) if x.rank > 2 else tensor for tensor in given
    )
    return Dynamic((x.plain() - average) * (weight * tf.math.rsqrt(spread + epsilon)) + offset)


SINGLE: dict[str, Callable[..., Tensor]] = {
    "Softmax": lambda node, x: tf.nn.softmax(x, axis=node.get("axis", -1)),
    "LogSoftmax": lambda node, x: tf.nn.log_softmax(x, axis=node.get("axis", -1)),
}
for name, function in SINGLE.items():
    plain(name)(function)

"""What moves elements about, and leaves them as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from webapp.engine.exporters.savedmodel.values import RANK, TO_FIRST, ConstantValue, Dynamic, Tensor, Value

from .registry import ConvertedNode, Unmapped, dtype_of, layouts, plain

FAR = 2**31 - 1  # a place that means the end


def axes_of(node: ConvertedNode, given: Tensor | None, rank: int) -> list[int]:
    """Of an attribute or an input, counted from 0; all where none are told."""
    found = node.get("axes") if given is None else known(node, given)
    return list(range(rank)) if found is None else [int(axis) % rank for axis in np.atleast_1d(found)]


def known(node: ConvertedNode, given: Tensor) -> Any:
    """What has to be known before a request comes."""
    found = tf.get_static_value(given) if tf.is_tensor(given) else given
    if found is None:
        raise Unmapped(f"{node.operator} whose axes or sizes come with the request")
    return np.asarray(found)


@plain("Constant")
def constant(node: ConvertedNode) -> Tensor:
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        if (value := node.get(name)) is not None:
            kind = {"value_float": np.float32, "value_floats": np.float32}.get(name, np.int64)
            return value.numpy() if name == "value" else np.asarray(value, kind)
    raise Unmapped("Constant of that kind")


@plain("Reshape")
def reshape(node: ConvertedNode, x: Tensor, shape: Tensor) -> Tensor:
    if not tf.is_tensor(shape) and not node.get("allowzero", 0):
        sizes = tf.shape(x, out_type=tf.int64)
        shape = tf.stack([sizes[i] if size == 0 else tf.constant(size, tf.int64) for i, size in enumerate(shape)])
    return tf.reshape(x, shape)


@plain("Flatten")
def flatten(node: ConvertedNode, x: Tensor) -> Tensor:
    axis = node.get("axis", 1)
    sizes = tf.shape(x)
    return tf.reshape(x, tf.stack([tf.reduce_prod(sizes[:axis]), tf.reduce_prod(sizes[axis:])]))


@plain("Transpose")
def transpose(node: ConvertedNode, x: Tensor) -> Tensor:
    return tf.transpose(x, node.get("perm"))


@plain("Squeeze")
def squeeze(node: ConvertedNode, x: Tensor, axes: Tensor | None = None) -> Tensor:
    told = axes is not None or node.get("axes") is not None
    return tf.squeeze(x, axes_of(node, axes, len(x.shape)) if told else None)


@plain("Unsqueeze")
def unsqueeze(node: ConvertedNode, x: Tensor, axes: Tensor | None = None) -> Tensor:
    where = node.get("axes") if axes is None else known(node, axes)
    places = sorted(int(axis) % (len(x.shape) + len(where)) for axis in where)
    for place in places:
        x = tf.expand_dims(x, place)
    return x


@layouts("Concat")
def concat(node: ConvertedNode, *values: Value) -> Value:
    axis, last = int(node.get("axis")), all(isinstance(value, Dynamic) and value.last for value in values)
    if last:
        return Dynamic(tf.concat([value.channels_last() for value in values], TO_FIRST[axis % RANK]), True)
    return Dynamic(tf.concat([value.plain() for value in values], axis))


@plain("Split")
def split(node: ConvertedNode, x: Tensor, sizes: Tensor | None = None) -> Sequence[Tensor]:
    axis, parts = int(node.get("axis", 0)), len(node.outputs)
    if sizes is None and node.get("split") is None:
        size = x.shape[axis]
        if size is None:
            raise Unmapped("Split of a size that comes with the request")
        part = -(-size // parts)
        sizes = [part] * (parts - 1) + [size - part * (parts - 1)]
    return list(tf.split(x, node.get("split") if sizes is None else sizes, axis, num=parts))


@plain("Slice")
def slices(
    node: ConvertedNode, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor = None, steps: Tensor = None
) -> Tensor:
    count = len(starts.shape) and starts.shape[0]
    where = axes_of(node, axes, len(x.shape)) if axes is not None else list(range(count))
    strides = [1] * count if steps is None else [int(step) for step in known(node, steps)]
    parts = [slice(None)] * len(x.shape)
    for position, axis in enumerate(where):
        begin, end = _place(starts, position), _place(ends, position)
        parts[axis] = slice(begin, end, strides[position])
    return tf.convert_to_tensor(x)[tuple(parts)]


def _place(places: Tensor, position: int) -> Tensor | int | None:
    """One of them; None for what lies beyond either end."""
    if tf.is_tensor(places):
        return tf.cast(places[position], tf.int64)
    place = int(places[position])
    return place if abs(place) < FAR else None


@plain("Expand")
def expand(node: ConvertedNode, x: Tensor, shape: Tensor) -> Tensor:
    """Broadcasting in both directions."""
    x = tf.convert_to_tensor(x)
    sizes = tf.broadcast_dynamic_shape(tf.shape(x, out_type=tf.int64), tf.cast(shape, tf.int64))
    return tf.broadcast_to(x, sizes)


@plain("Tile")
def tile(node: ConvertedNode, x: Tensor, repeats: Tensor) -> Tensor:
    return tf.tile(x, repeats)


@plain("Gather")
def gather(node: ConvertedNode, x: Tensor, indices: Tensor) -> Tensor:
    axis = int(node.get("axis", 0))
    return tf.gather(x, _counted(indices, tf.shape(x, out_type=tf.int64)[axis]), axis=axis)


def _counted(indices: Tensor, size: Tensor) -> Tensor:
    """From the beginning: ONNX counts negative ones from the end."""
    if not tf.is_tensor(indices) and bool((indices >= 0).all()):
        return indices
    return tf.where(indices < 0, tf.cast(indices, tf.int64) + size, tf.cast(indices, tf.int64))


@plain("GatherElements")
def gather_elements(node: ConvertedNode, x: Tensor, indices: Tensor) -> Tensor:
    axis = int(node.get("axis", 0)) % len(x.shape)
    indices = _counted(indices, tf.shape(x, out_type=tf.int64)[axis])
    places = [tf.range(size) for size in tf.unstack(tf.shape(indices, out_type=tf.int64))]
    grid = tf.meshgrid(*places, indexing="ij") if len(places) > 1 else places
    grid[axis] = tf.cast(indices, tf.int64)
    return tf.gather_nd(x, tf.stack(grid, axis=-1))


@plain("GatherND")
def gather_nd(node: ConvertedNode, x: Tensor, indices: Tensor) -> Tensor:
    return tf.gather_nd(x, indices, batch_dims=node.get("batch_dims", 0))


@plain("ScatterND")
def scatter_nd(node: ConvertedNode, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    if node.get("reduction", "none") != "none":
        raise Unmapped(f"ScatterND with {node.get('reduction')}")
    return tf.tensor_scatter_nd_update(x, indices, updates)


@plain("Pad")
def pad(node: ConvertedNode, x: Tensor, pads: Tensor, value: Tensor = None, axes: Tensor = None) -> Tensor:
    mode, count = node.get("mode", "constant"), len(x.shape)
    if mode not in ("constant", "reflect"):
        raise Unmapped(f"Pad with {mode}")
    where = axes_of(node, axes, count)
    amounts = np.zeros((count, 2), np.int64)
    amounts[where] = known(node, pads).reshape(2, -1).T
    if (amounts < 0).any():
        raise Unmapped("Pad that cuts off")
    x = tf.convert_to_tensor(x)
    filler = tf.cast(0 if value is None else tf.reshape(value, []), x.dtype)
    return tf.pad(x, amounts, constant_values=filler) if mode == "constant" else tf.pad(x, amounts, mode)


@plain("Trilu")
def trilu(node: ConvertedNode, x: Tensor, diagonal: Tensor = None) -> Tensor:
    offset = 0 if diagonal is None else int(known(node, diagonal))
    rows, columns = tf.range(tf.shape(x)[-2])[:, tf.newaxis], tf.range(tf.shape(x)[-1])
    kept = columns - rows >= offset if node.get("upper", 1) else columns - rows <= offset
    return tf.where(kept, x, tf.zeros((), x.dtype))


@plain("DepthToSpace")
def depth_to_space(node: ConvertedNode, x: Tensor) -> Tensor:
    if node.get("mode", "DCR") != "DCR":
        raise Unmapped("DepthToSpace with CRD")
    return tf.transpose(tf.nn.depth_to_space(tf.transpose(x, (0, 2, 3, 1)), node.get("blocksize")), TO_FIRST)


@plain("OneHot")
def one_hot(node: ConvertedNode, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    count = int(known(node, depth).reshape(()))
    return tf.one_hot(indices, count, values[1], values[0], axis=node.get("axis", -1))


@plain("EyeLike")
def eye_like(node: ConvertedNode, x: Tensor) -> Tensor:
    sizes = tf.shape(x)
    kind = dtype_of(node.get("dtype")) if node.get("dtype") else x.dtype
    return tf.eye(sizes[0], sizes[1], dtype=kind)


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

"""Operators that put the same numbers into another shape."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from webapp.engine.importers.exported_program.serialized import NotRun
from webapp.engine.importers.onnx.values import (
    FLOAT,
    INT,
    KnownNumbers,
    Value,
    held,
    integers,
    known,
    numbers,
    operand,
    shape_of,
    small,
    tensor,
)
from webapp.engine.lazy import Tensor, torch

from .table import operator


def axes_of(node: Any, given: Value | None) -> list[int] | None:
    """An attribute before opset 13, an input since then."""
    found: list[int] | None = node.get("axes") if given is None else integers(given, "axes")
    return found


@operator("Shape")
def shape(node: Any, x: Value) -> Value:
    return known(list(shape_of(x))[node.get("start", 0) : node.get("end")])


@operator("Size")
def size(_: Any, x: Value) -> Value:
    return known(math.prod(shape_of(x)), INT)


@operator("Reshape")
def reshape(node: Any, x: Value, to: Value | None = None) -> Value:
    """0 keeps an axis (unless allowzero), -1 takes what is left."""
    sizes = node.get("shape", []) if to is None else numbers(to, "shape")
    if not node.get("allowzero", 0):
        own = shape_of(x)
        sizes = [own[i] if isinstance(item, int) and item == 0 else item for i, item in enumerate(sizes)]
    if isinstance(x, KnownNumbers):
        return KnownNumbers(x.values.reshape([int(item) for item in sizes]), x.dtype)
    return torch.reshape(x, _with_batch(list(sizes), x.shape) if node.freed and sizes else sizes)


def _with_batch(sizes: list[Any], own: Any) -> list[Any]:
    """Sizes that were written for one sample: the batch is outermost."""
    if isinstance(own[0], int) or not isinstance(sizes[0], int):
        return sizes
    if -1 not in sizes:
        return [sizes[0] * (math.prod(own) // math.prod(sizes)), *sizes[1:]]
    return [own[0], *sizes[1:]] if sizes[0] == 1 else sizes


@operator("Flatten")
def flatten(node: Any, x: Value) -> Value:
    """To two axes."""
    value = tensor(x)
    axis = node.get("axis", 1)
    axis += value.dim() if axis < 0 else 0
    if axis == 1:
        return value.flatten(1) if value.dim() > 1 else value.unsqueeze(1)
    return torch.reshape(value, (math.prod(value.shape[:axis]), -1))


@operator("Transpose")
def transpose(node: Any, x: Value) -> Value:
    axes = node.get("perm") or list(range(len(shape_of(x))))[::-1]
    if isinstance(x, KnownNumbers):
        return KnownNumbers(x.values.transpose(axes), x.dtype)
    return x.permute(axes)


@operator("Squeeze")
def squeeze(node: Any, x: Value, axes: Value | None = None) -> Value:
    found = axes_of(node, axes)
    if isinstance(x, KnownNumbers):
        return held(np.squeeze(x.values, axis=None if found is None else tuple(found)), x.dtype)
    if found is None:
        found = [axis for axis, size in enumerate(x.shape) if isinstance(size, int) and size == 1]
    for axis in sorted((axis % x.dim() for axis in found), reverse=True):
        x = x.squeeze(axis)
    return x


@operator("Unsqueeze")
def unsqueeze(node: Any, x: Value, axes: Value | None = None) -> Value:
    found = axes_of(node, axes) or []
    rank = len(shape_of(x)) + len(found)
    if rank > 64:
        raise NotRun("makes a tensor of more than 64 axes")
    for axis in sorted(axis % rank for axis in found):
        x = KnownNumbers(np.expand_dims(x.values, axis), x.dtype) if isinstance(x, KnownNumbers) else x.unsqueeze(axis)
    return x


@operator("Concat")
def concat(node: Any, *values: Value) -> Value:
    axis = node.get("axis", 0)
    if all(isinstance(value, KnownNumbers) for value in values):
        arrays = [value.values for value in values if isinstance(value, KnownNumbers)]
        if small([sum(array.size for array in arrays)]):
            return held(np.concatenate(arrays, axis), values[0].dtype)
    parts = [tensor(value) for value in values]
    if node.freed and axis % parts[0].dim():
        batch = next((part.shape[0] for part in parts if not isinstance(part.shape[0], int)), 1)
        parts = [part.expand(batch, *part.shape[1:]) if _is_one(part.shape[0]) else part for part in parts]
    return torch.cat(parts, axis)


@operator("Split")
def split(node: Any, x: Value, parts: Value | None = None) -> list[Value]:
    """Into the sizes that an attribute (before opset 13) or an input gives, or evenly."""
    axis = node.get("axis", 0)
    sizes = node.get("split") if parts is None else integers(parts, "sizes of a split")
    if sizes is None:
        whole, count = shape_of(x)[axis], node.get("num_outputs") or len(node.outputs)
        if not isinstance(whole, int) or not 0 < count <= len(node.outputs):
            raise NotRun("splits an axis whose size is free, or into more parts than it keeps")
        one = -(-whole // count)
        sizes = [min(one, whole - start) for start in range(0, whole, max(one, 1))]
    if isinstance(x, KnownNumbers):
        return [held(part, x.dtype) for part in np.split(x.values, np.cumsum(sizes)[:-1], axis)]
    return list(torch.split(x, sizes, axis))


@operator("Expand")
def expand(_: Any, x: Value, to: Value) -> Value:
    """Broadcasts both ways: a size of 1 keeps the tensor's own."""
    sizes = numbers(to, "shape")
    own = list(shape_of(x))
    whole = [1] * (len(sizes) - len(own)) + own
    wanted = [1] * (len(own) - len(sizes)) + sizes
    final = [a if _is_one(b) else b for a, b in zip(whole, wanted, strict=True)]
    if isinstance(x, KnownNumbers):
        if small(final):
            return held(np.broadcast_to(x.values, final), x.dtype)
        x = tensor(x)
    return x.expand(final)


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


@operator("Tile")
def tile(_: Any, x: Value, repeats: Value) -> Value:
    times = numbers(repeats, "repeats")
    if isinstance(x, KnownNumbers) and small([a * b for a, b in zip(x.values.shape, times, strict=True)]):
        return held(np.tile(x.values, times), x.dtype)
    return tensor(x).repeat(times)


@operator("DepthToSpace")
def depth_to_space(node: Any, x: Value) -> Value:
    """(B, C, H, W) to (B, C / s², H s, W s)."""
    value, s = tensor(x), node.get("blocksize", 1)
    if node.get("mode", "DCR") == "CRD":
        return torch.pixel_shuffle(value, s)
    b, c, h, w = value.shape
    apart = torch.reshape(value, (b, s, s, c // (s * s), h, w)).permute(0, 3, 4, 1, 5, 2)
    return torch.reshape(apart, (b, c // (s * s), h * s, w * s))


@operator("SpaceToDepth")
def space_to_depth(node: Any, x: Value) -> Value:
    value, s = tensor(x), node.get("blocksize", 1)
    if node.get("mode", "DCR") != "DCR":
        raise NotRun("brings space to depth column by column")
    b, c, h, w = value.shape
    apart = torch.reshape(value, (b, c, h // s, s, w // s, s)).permute(0, 3, 5, 1, 2, 4)
    return torch.reshape(apart, (b, c * s * s, h // s, w // s))


@operator("Pad")
def pad(node: Any, x: Value, pads: Value | None = None, fill: Value | None = None, axes: Value | None = None) -> Value:
    """Befores and then afters of each axis; before opset 11 attributes."""
    value = tensor(x)
    given = node.get("pads", node.get("paddings", [])) if pads is None else numbers(pads, "padding")
    where = range(value.dim()) if axes is None else [axis % value.dim() for axis in integers(axes, "axes")]
    both = dict(zip(where, zip(given[: len(given) // 2], given[len(given) // 2 :], strict=True), strict=True))
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}.get(node.get("mode", "constant"))
    if mode is None:
        raise NotRun(f"pads by {str(node.get('mode'))[:40]}")
    most = max((axis for axis, sides in both.items() if any(not _is_zero(side) for side in sides)), default=None)
    if most is None:
        return value
    first = min(axis for axis, sides in both.items() if any(not _is_zero(side) for side in sides))
    if mode != "constant" and first < 2:
        raise NotRun(f"pads its first axes by {mode}")
    flat: list[Any] = []
    for axis in reversed(range(first, value.dim())):
        flat += both.get(axis, (0, 0))
    if mode != "constant":
        return torch.nn.functional.pad(value, flat, mode=mode)
    filled = node.get("value", 0.0) if fill is None else numbers(fill, "filling of a pad")[0]
    return torch.constant_pad_nd(value, flat, filled)


def _is_zero(size: Any) -> bool:
    return isinstance(size, int) and size == 0


@operator("Trilu")
def trilu(node: Any, x: Value, k: Value | None = None) -> Value:
    value, diagonal = tensor(x), 0 if k is None else integers(k, "diagonal")[0]
    return torch.triu(value, diagonal) if node.get("upper", 1) else torch.tril(value, diagonal)


def as_rows(value: Tensor, rank: int) -> Tensor:
    """(C,) as (C, 1, 1) for a tensor of `rank` axes whose second holds channels."""
    return value.reshape([-1, *[1] * (rank - 2)])


@operator("ConstantOfShape")
def constant_of_shape(node: Any, shape: Value) -> Value:
    """Filled with the one number of its attribute, a tensor; else with 0.0."""
    sizes = numbers(shape, "shape")
    fill, dtype = 0.0, FLOAT
    if (told := node.get("value")) is not None:
        fill, dtype = numbers(told, "filling")[0], told.dtype
    if small(sizes):
        return known([fill] * math.prod(sizes), dtype, sizes)
    return torch.full(sizes, fill, dtype=dtype)


@operator("Range")
def arange(_: Any, start: Value, limit: Value, step: Value) -> Value:
    if not all(isinstance(value, KnownNumbers) for value in (start, limit, step)):
        raise NotRun("makes a range whose ends depend on its samples")
    a, b, c = operand(start), operand(limit), operand(step)
    dtype = start.dtype
    plain = all(isinstance(item, int) for item in (a, b, c))
    if plain and c and small([max(0, -(-(b - a) // c))]):
        return known(list(range(a, b, c)), INT)
    return torch.arange(a, b, c, dtype=dtype)


@operator("EyeLike")
def eye_like(node: Any, x: Value) -> Value:
    rows, columns = shape_of(x)
    made = torch.ones((rows, columns), dtype=FLOAT)
    k = node.get("k", 0)
    return torch.triu(torch.tril(made, k), k).to(FLOAT if node.get("dtype", 1) in (1, 10, 11, 16) else INT)


@operator("OneHot")
def one_hot(node: Any, indices: Value, depth: Value, values: Value) -> Value:
    """`values` are off and on."""
    many = int(numbers(depth, "depth")[0])
    off, on = numbers(values, "values of a one-hot")
    axis, at = node.get("axis", -1), tensor(indices).to(INT)
    at = torch.where(at < 0, at + many, at)
    lit = at.unsqueeze(-1) == torch.arange(many)
    made = torch.where(lit, torch.scalar_tensor(on, dtype=values.dtype), torch.scalar_tensor(off, dtype=values.dtype))
    return made if axis in (-1, at.dim()) else made.movedim(-1, axis)


@operator("CumSum")
def cumsum(node: Any, x: Value, axis: Value) -> Value:
    along = int(numbers(axis, "axis")[0])
    value = tensor(x)
    if node.get("reverse", 0):
        value = value.flip(along)
    made = torch.cumsum(value, along)
    if node.get("exclusive", 0):
        made = made - value
    return made.flip(along) if node.get("reverse", 0) else made

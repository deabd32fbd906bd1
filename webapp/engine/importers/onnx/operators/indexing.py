"""Operators that take or set numbers by their places. A negative place counts from the end."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from webapp.engine.importers.exported_program.serialized import NotRun
from webapp.engine.importers.onnx.values import (
    INT,
    MOST_KNOWN,
    KnownNumbers,
    Value,
    held,
    integers,
    numbers,
    shape_of,
    tensor,
)
from webapp.engine.lazy import Tensor, functional, nn, torch

from .shapes import axes_of
from .table import operator

FAR = 2**31 - 2  # a bound beyond this is "to the end", as exporters write it


@operator("Gather")
def gather(node: Any, x: Value, indices: Value) -> Value:
    axis = node.get("axis", 0) % max(len(shape_of(x)), 1)
    many = isinstance(x, KnownNumbers) and x.values.size * max(1, math.prod(shape_of(indices))) > MOST_KNOWN**2 // 16
    if isinstance(x, KnownNumbers) and isinstance(indices, KnownNumbers) and indices.plain and not many:
        return held(np.take(x.values, indices.values.astype(np.int64), axis=axis), x.dtype)
    value = tensor(x)
    if isinstance(indices, KnownNumbers) and not indices.values.shape and indices.plain:
        return value.select(axis, int(indices.values.item()))
    at = tensor(indices)
    if axis == 0 and value.dim() == 2 and isinstance(value, nn.Parameter) and not isinstance(indices, KnownNumbers):
        return functional.embedding(at, value)
    at = _wrapped(at, value.shape[axis], indices)
    if at.dim() == 1:
        return torch.index_select(value, axis, at)
    shape = (*value.shape[:axis], *at.shape, *value.shape[axis + 1 :])
    return torch.reshape(torch.index_select(value, axis, at.flatten()), shape)


def _wrapped(at: Tensor, size: Any, indices: Value) -> Tensor:
    if isinstance(indices, KnownNumbers) and indices.plain and all(item >= 0 for item in indices.values.flat):
        return at
    return torch.where(at < 0, at + size, at)


@operator("GatherElements")
def gather_elements(node: Any, x: Value, indices: Value) -> Value:
    value, axis = tensor(x), node.get("axis", 0)
    return torch.gather(value, axis, _wrapped(tensor(indices), value.shape[axis], indices))


@operator("GatherND")
def gather_nd(node: Any, x: Value, indices: Value) -> Value:
    """The last axis of `indices` is a place in `x`, after `batch_dims` axes that both have."""
    value, at, batch = tensor(x), tensor(indices), node.get("batch_dims", 0)
    _check_places(value, at)
    places: list[Tensor] = [
        torch.arange(value.shape[axis]).reshape([-1 if i == axis else 1 for i in range(at.dim() - 1)])
        for axis in range(batch)
    ]
    found: Tensor = torch.ops.aten.index.Tensor(value, [*places, *at.unbind(-1)])
    return found


@operator("ScatterND")
def scatter_nd(node: Any, x: Value, indices: Value, updates: Value) -> Value:
    if node.get("reduction", "none") != "none":
        raise NotRun("adds up what it scatters")
    value, at = tensor(x), tensor(indices)
    _check_places(value, at)
    return torch.index_put(value, at.unbind(-1), tensor(updates))


def _check_places(value: Tensor, at: Tensor) -> None:
    if not (at.dim() and isinstance(at.shape[-1], int) and 0 < at.shape[-1] <= value.dim()):
        raise NotRun(f"takes places of a tensor of {value.dim()} axes that are no places of it")


@operator("ScatterElements", "Scatter")
def scatter_elements(node: Any, x: Value, indices: Value, updates: Value) -> Value:
    value, axis = tensor(x), node.get("axis", 0)
    at = _wrapped(tensor(indices), value.shape[axis], indices)
    match node.get("reduction", "none"):
        case "none":
            return torch.scatter(value, axis, at, tensor(updates))
        case "add":
            return torch.scatter_add(value, axis, at, tensor(updates))
        case other:
            raise NotRun(f"scatters with {str(other)[:40]}")


@operator("Slice")
def cut(
    node: Any,
    x: Value,
    starts: Value | None = None,
    ends: Value | None = None,
    axes: Value | None = None,
    steps: Value | None = None,
) -> Value:
    """Before opset 10 its bounds are attributes."""
    first = node.get("starts") if starts is None else numbers(starts, "start of a slice")
    last = node.get("ends") if ends is None else numbers(ends, "end of a slice")
    along = axes_of(node, axes) or list(range(len(first)))
    pace = [1] * len(first) if steps is None else integers(steps, "steps of a slice")
    for axis, start, end, step in zip(along, first, last, pace, strict=True):
        x = _cut(x, axis % len(shape_of(x)), start, end, step)
    return x


def _cut(x: Value, axis: int, start: Any, end: Any, step: int) -> Value:
    if step == 0:
        raise NotRun("slices with steps of 0")
    if isinstance(x, KnownNumbers) and all(isinstance(item, int) for item in (start, end)):
        index: list[Any] = [slice(None)] * x.values.ndim
        index[axis] = slice(start, None if end < -FAR else end, step)
        return held(x.values[tuple(index)], x.dtype)
    value = tensor(x)
    if step < 0:  # backwards is forwards on the tensor turned around
        whole = (isinstance(start, int) and (start == -1 or start >= FAR)) and isinstance(end, int) and end < -FAR
        if not whole:
            raise NotRun("slices backwards from within")
        value, start, end, step = value.flip(axis), 0, sys.maxsize, -step
    end = sys.maxsize if isinstance(end, int) and end >= FAR else end
    if isinstance(start, int) and start == 0 and end == sys.maxsize and step == 1:
        return value
    made: Tensor = torch.ops.aten.slice.Tensor(value, axis, start, end, step)
    return made


@operator("ArgMax", "ArgMin")
def argmax(node: Any, x: Value) -> Any:
    """The first of equals, unless select_last_index."""
    value, axis, keep = tensor(x), node.get("axis", 0), bool(node.get("keepdims", 1))
    run = torch.argmax if node.op == "ArgMax" else torch.argmin
    if node.get("select_last_index", 0):
        return value.shape[axis] - 1 - run(value.flip(axis), axis, keep)
    return run(value, axis, keep)


@operator("TopK")
def topk(node: Any, x: Value, k: Value | None = None) -> list[Value]:
    many = node.get("k") if k is None else numbers(k, "count of the largest")[0]
    axis = node.get("axis", -1)
    return list(torch.topk(tensor(x), many, axis, bool(node.get("largest", 1)), bool(node.get("sorted", 1))))


@operator("ReverseSequence")
def reverse_sequence(node: Any, x: Value, lengths: Value) -> Value:
    """Each sample's first `lengths` steps backwards."""
    value, time, batch = tensor(x), node.get("time_axis", 0), node.get("batch_axis", 1)
    if (time, batch) not in ((0, 1), (1, 0)):
        raise NotRun("reverses an axis that is not among the first two")
    by_batch = value if batch == 0 else value.transpose(0, 1)
    place, many = torch.arange(by_batch.shape[1]).unsqueeze(0), tensor(lengths).to(INT).unsqueeze(1)
    at = torch.where(place < many, many - 1 - place, place)
    index = at.reshape([*at.shape, *[1] * (by_batch.dim() - 2)]).expand(by_batch.shape)
    made = torch.gather(by_batch, 1, index)
    return made if batch == 0 else made.transpose(0, 1)

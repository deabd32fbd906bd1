"""Operators that make tensors of sizes: filled ones, ranges, and the sizes themselves."""

from __future__ import annotations

import math
from typing import Any

from webapp.engine.importers.exported_program.serialized import NotRun
from webapp.engine.importers.onnx.values import (
    FLOAT,
    INT,
    KnownNumbers,
    Value,
    known,
    numbers,
    operand,
    shape_of,
    small,
    tensor,
)
from webapp.engine.lazy import torch

from .table import operator


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

"""Operators on two or more tensors that are broadcast, and comparisons."""

from __future__ import annotations

import operator as python
from collections.abc import Callable
from functools import reduce
from typing import Any

from webapp.engine.importers.exported_program.serialized import NotRun
from webapp.engine.importers.onnx.values import (
    FLOAT,
    INT,
    KnownNumbers,
    Value,
    each,
    largest,
    operand,
    smallest,
    tensor,
)
from webapp.engine.lazy import Tensor, torch

from .table import operator

TYPES = frozenset((1, 2, 3, 5, 6, 7, 9, 10, 11, 12, 13, 16))  # of TensorProto.DataType, those that are cast to


def _two(on_tensors: Callable[..., Any], on_numbers: Callable[..., Any], dtype: torch.dtype | None = None) -> Any:
    def run(_: Any, a: Value, b: Value) -> Value:
        if isinstance(a, KnownNumbers) and isinstance(b, KnownNumbers):
            return each(on_numbers, dtype or a.dtype, a, b)
        made: Tensor = on_tensors(operand(a), operand(b))
        return made

    return run


def _whole_or_not(a: Any, b: Any) -> Any:
    if isinstance(a, float) or isinstance(b, float) or isinstance(a, torch.SymFloat):
        return a / b
    return a // b if not (isinstance(a, int) and a < 0) and not (isinstance(b, int) and b < 0) else int(a / b)


def _divided(a: Any, b: Any) -> Any:
    floats = any(isinstance(x, float) or (isinstance(x, Tensor) and x.is_floating_point()) for x in (a, b))
    return a / b if floats else torch.div(*_tensors(a, b), rounding_mode="trunc")


def _tensors(a: Any, b: Any) -> tuple[Any, Any]:
    return (a if isinstance(a, Tensor) else torch.scalar_tensor(a, dtype=INT)), b


for _name, _on_tensors, _on_numbers in (
    ("Add", python.add, python.add),
    ("Sub", python.sub, python.sub),
    ("Mul", python.mul, python.mul),
    ("Div", _divided, _whole_or_not),
):
    operator(_name)(_two(_on_tensors, _on_numbers))
for _name, _run in (
    ("Equal", python.eq),
    ("Less", python.lt),
    ("Greater", python.gt),
    ("LessOrEqual", python.le),
    ("GreaterOrEqual", python.ge),
):
    operator(_name)(_two(_run, _run, torch.bool))
for _name, _on_tensors, _on_numbers in (
    ("And", torch.logical_and, lambda a, b: bool(a) and bool(b)),
    ("Or", torch.logical_or, lambda a, b: bool(a) or bool(b)),
    ("Xor", torch.logical_xor, lambda a, b: bool(a) != bool(b)),
):
    operator(_name)(_two(lambda a, b, run=_on_tensors: run(*_bools(a, b)), _on_numbers, torch.bool))


def _bools(*values: Any) -> list[Tensor]:
    return [value if isinstance(value, Tensor) else torch.scalar_tensor(value, dtype=torch.bool) for value in values]


@operator("Pow")
def power(_: Any, a: Value, b: Value) -> Value:
    if isinstance(a, KnownNumbers) and isinstance(b, KnownNumbers):
        if b.values.size and not (b.plain and max(map(abs, b.values.flat)) <= 64):
            raise NotRun("raises constants to high powers")
        return each(python.pow, a.dtype, a, b)
    exponent = operand(b)
    if isinstance(exponent, float) and exponent.is_integer():
        exponent = int(exponent)  # a square is told from a power by this
    return torch.pow(operand(a), exponent)


@operator("Mod")
def modulo(node: Any, a: Value, b: Value) -> Value:
    """fmod=1 takes the sign of the dividend, else that of the divisor."""
    if isinstance(a, KnownNumbers) and isinstance(b, KnownNumbers) and not node.get("fmod", 0):
        return each(python.mod, a.dtype, a, b)
    run = torch.fmod if node.get("fmod", 0) else torch.remainder
    return run(tensor(a), operand(b))


def _many(on_tensors: Callable[[Tensor, Tensor], Tensor], on_numbers: Callable[..., Any]) -> Any:
    def run(_: Any, *values: Value) -> Value:
        if all(isinstance(value, KnownNumbers) for value in values):
            return reduce(lambda a, b: each(on_numbers, a.dtype, a, b), values)  # type: ignore[arg-type]
        return reduce(on_tensors, map(tensor, values))

    return run


operator("Max")(_many(torch.maximum, largest))
operator("Min")(_many(torch.minimum, smallest))
operator("Sum")(_many(torch.add, python.add))


@operator("Mean")
def mean(_: Any, *values: Value) -> Value:
    return reduce(torch.add, map(tensor, values)) / len(values)


@operator("Where")
def where(_: Any, condition: Value, a: Value, b: Value) -> Value:
    if isinstance(condition, KnownNumbers) and isinstance(a, KnownNumbers) and isinstance(b, KnownNumbers):
        return each(lambda yes, x, y: x if yes else y, a.dtype, condition, a, b)
    first, second = operand(a), operand(b)
    if not isinstance(first, Tensor) and not isinstance(second, Tensor):
        first = tensor(a)
    return torch.where(tensor(condition), first, second)


@operator("If")
def chosen(node: Any, condition: Value, *branches: Value | None) -> list[Value]:
    """What the one branch gives, and then what the other would; of a branch that is known not to be taken, None."""
    count = len(node.outputs)
    if len(branches) != 2 * count:
        raise NotRun("has an If whose branches do not give what it puts out")
    then, otherwise = branches[:count], branches[count:]
    if isinstance(condition, KnownNumbers):
        taken = then if bool(condition.values.flat[0]) else otherwise
        return [value for value in taken if value is not None]
    made: list[Value] = []
    for a, b in zip(then, otherwise, strict=True):
        if a is None or b is None or tensor(a).shape != tensor(b).shape:
            raise NotRun("has an If whose branches give tensors of different shapes")
        made.append(torch.where(tensor(condition).reshape(()), tensor(a), tensor(b)))
    return made


@operator("Clip")
def clip(node: Any, x: Value, low: Value | None = None, high: Value | None = None) -> Value:
    """Before opset 11 its bounds are attributes."""
    bounds = [node.get(name) if value is None else operand(value) for name, value in (("min", low), ("max", high))]
    if all(bound is None for bound in bounds):
        return x
    if isinstance(x, KnownNumbers):
        least, most = bounds
        lifted = x if least is None else each(lambda v: largest(v, least), x.dtype, x)
        return lifted if most is None else each(lambda v: smallest(v, most), x.dtype, lifted)
    if any(isinstance(bound, Tensor) for bound in bounds):
        bounds = [
            bound if bound is None or isinstance(bound, Tensor) else torch.scalar_tensor(bound, dtype=x.dtype)
            for bound in bounds
        ]
    return torch.clamp(x, *bounds)


@operator("PRelu")
def prelu(_: Any, x: Value, slope: Value) -> Value:
    value = tensor(x)
    return torch.where(value < 0, value * operand(slope), value)


@operator("Cast", "CastLike")
def cast(node: Any, x: Value, like: Value | None = None) -> Value:
    """To a float, an integer or a bool: all floats are followed as float32 and all integers as int64."""
    if node.op == "CastLike":
        dtype = like.dtype if like is not None else FLOAT
    else:
        to = node.get("to", 1)
        if to not in TYPES:
            raise NotRun(f"casts to the type {to} of ONNX")
        dtype = torch.bool if to == 9 else FLOAT if to in (1, 10, 11, 16) else INT
    if x.dtype == dtype:
        return x
    if isinstance(x, KnownNumbers):
        made = {FLOAT: torch.sym_float, INT: torch.sym_int, torch.bool: bool}[dtype]
        return each(made, dtype, x)
    return x.to(dtype)

"""What flows between nodes: tensors, and numbers that are known while the graph is followed (constants and sizes)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from webapp.engine.importers.exported_program.serialized import NotRun
from webapp.engine.lazy import Tensor, torch

MOST_KNOWN = 4096  # numbers that are followed one by one
LONGEST_FORMULA = 200  # operations on sizes, one after the other
INT, FLOAT = torch.int64, torch.float32  # all integers are followed as the first, all floats as the second


@dataclass(frozen=True, eq=False)
class KnownNumbers:
    """`values` is an array of Python numbers or torch's symbols of sizes; `dtype` is int64, float32 or bool."""

    values: np.ndarray[Any, Any]
    dtype: torch.dtype

    @property
    def plain(self) -> bool:
        """Whether no size in it is free."""
        return all(isinstance(value, (bool, int, float)) for value in self.values.flat)


Value = Tensor | KnownNumbers


def known(items: Any, dtype: torch.dtype = INT, shape: Sequence[int] | None = None) -> KnownNumbers:
    """Of one number (rank 0), a list (rank 1), or a list and its shape."""
    flat = list(items) if isinstance(items, (list, tuple)) else [items]
    array = np.empty(len(flat), dtype=object)
    for index, item in enumerate(flat):
        array[index] = item
    rank = (len(flat),) if isinstance(items, (list, tuple)) else ()
    return KnownNumbers(array.reshape(rank if shape is None else tuple(shape)), dtype)


def held(array: Any, dtype: torch.dtype) -> KnownNumbers:
    """Of what numpy gives, which is no array where it has rank 0."""
    if isinstance(array, np.ndarray):
        return KnownNumbers(array.astype(object), dtype)
    return known(array, dtype)


def constant(content: Tensor) -> KnownNumbers:
    return known(content.flatten().tolist(), kind_of(content.dtype), content.shape)


def kind_of(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.bool else FLOAT if dtype.is_floating_point else INT


def tensor(value: Any) -> Tensor:
    """As a tensor; the sizes in it are read when the program runs. Raises NotRun."""
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, KnownNumbers):
        raise NotRun("leaves out an input that an operator needs")
    flat = list(value.values.flat)
    if not value.values.shape:
        return torch.scalar_tensor(flat[0], dtype=value.dtype)
    if value.plain and len(set(flat)) == 1:  # torch follows a constant of one number by computing with it
        return torch.full(value.values.shape, flat[0], dtype=value.dtype)
    if value.plain:
        return torch.tensor(flat, dtype=value.dtype).reshape(value.values.shape)
    return torch.stack([torch.scalar_tensor(item, dtype=value.dtype) for item in flat]).reshape(value.values.shape)


def operand(value: Value) -> Any:
    """A Python number where it is one, else a tensor: numbers need no tensor of their own in a program."""
    if isinstance(value, KnownNumbers) and not value.values.shape:
        return value.values.item() if value.plain else value.values[()]
    return tensor(value)


def numbers(value: Any, what: str) -> list[Any]:
    """The flat numbers of a value that has to be known. Raises NotRun where it depends on the samples."""
    if not isinstance(value, KnownNumbers):
        raise NotRun(f"computes the {what} of an operator from its samples")
    return list(value.values.flat)


def integers(value: Any, what: str) -> list[int]:
    """As `numbers`, with no free size among them. Raises NotRun."""
    found = numbers(value, what)
    if not all(isinstance(item, int) for item in found):
        raise NotRun(f"has {what} that depend on the size of its inputs")
    return [int(item) for item in found]


def number(value: Any, what: str, default: Any = None) -> Any:
    """The one number of an optional input."""
    return default if value is None else numbers(value, what)[0]


def largest(a: Any, b: Any) -> Any:
    """Of numbers that may be sizes."""
    return torch.sym_max(a, b)  # type: ignore[no-untyped-call]


def smallest(a: Any, b: Any) -> Any:
    return torch.sym_min(a, b)  # type: ignore[no-untyped-call]


def shape_of(value: Value) -> tuple[Any, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else value.values.shape


def count_of(shape: Sequence[Any]) -> int | None:
    """Elements; None where that is not known, or no size."""
    return math.prod(shape) if all(isinstance(size, int) and size >= 0 for size in shape) else None


def small(shape: Sequence[Any]) -> bool:
    count = count_of(shape)
    return count is not None and count <= MOST_KNOWN


def each(run: Callable[..., Any], dtype: torch.dtype, *values: KnownNumbers) -> KnownNumbers:
    """`run` on each number of arrays that are broadcast against each other. Raises NotRun."""
    if not small(np.broadcast_shapes(*(value.values.shape for value in values))):
        raise NotRun("computes with more constants than are followed")
    made = held(np.frompyfunc(run, len(values), 1)(*(value.values for value in values)), dtype)
    for item in made.values.flat:
        _check(item)
    return made


def _check(item: Any) -> None:
    """Numbers and formulas that grow at each step are not followed for ever."""
    if isinstance(item, torch.SymInt):
        formula = item.node.expr
        if formula.count_ops() > LONGEST_FORMULA:
            raise NotRun("computes with its sizes in more steps than are followed")
        item = hint_of(item)
    if isinstance(item, int) and abs(item) >= 2**63:
        raise NotRun("computes with numbers of more than 64 bits")


def hint_of(size: Any) -> int:
    """What a free size is while it is traced."""
    return size if isinstance(size, int) else int(size.node.hint or 1)

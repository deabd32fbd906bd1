"""How a weight is stored, without its values: the one place where bytes are counted and storage forms are chosen.

A plan knows the tensors ("parts") that the file will hold for a weight. Prediction works on plans alone; an
`Encoded` weight has a plan too, and the writer follows it, so what is predicted is what is written.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from webapp.engine.facts import DTYPE_BYTES, PLAIN, Layout


@dataclass(frozen=True)
class TensorPart:
    """A tensor in the file; `name` is what is appended to the weight's name."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class StoragePlan(ABC):
    """A weight of logical `shape`, which decodes to `dtype`."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return sum(p.bytes for p in self.parts)

    @property
    @abstractmethod
    def kind(self) -> str: ...

    @property
    @abstractmethod
    def parts(self) -> tuple[TensorPart, ...]:
        """The tensors that the file holds for the weight."""

    @property
    @abstractmethod
    def params(self) -> int:
        """Values that the model has at this weight: elements, or the elements of the factors."""

    @property
    @abstractmethod
    def nonzero(self) -> int: ...

    @property
    @abstractmethod
    def stored(self) -> int:
        """Values that the file holds: zeros behind a bitmask are not among them."""

    @property
    @abstractmethod
    def label(self) -> str:
        """For people: "dense float32", "4-bit, groups of 64"."""

    @property
    @abstractmethod
    def pruned(self) -> bool:
        """Whether a step has set zeros here on purpose."""

    @property
    @abstractmethod
    def meta(self) -> dict[str, Any]:
        """What the file's manifest says of the weight, so that its parts can be read back."""

    @property
    def plain(self) -> bool:
        """Whether the file needs no word about it: a tensor under its own name."""
        return self.kind == "dense" and not self.pruned

    @property
    def factors(self) -> Mapping[str, StoragePlan]:
        """The weights that this one is put together from, by their names in the file; none of a simple one."""
        return {}

    def mapped(self, change: Callable[[StoragePlan], StoragePlan]) -> StoragePlan:
        """The same change made to every simple weight in it: to itself, or to each of its factors."""
        return change(self)

    @property
    def leaves(self) -> tuple[StoragePlan, ...]:
        """The simple weights in it: itself, or those of its factors."""
        return tuple(leaf for factor in self.factors.values() for leaf in factor.leaves) or (self,)


@dataclass(frozen=True)
class DensePlan(StoragePlan):
    """Values as they are; of a pruned weight a bitmask and the nonzero values, where that is smaller.

    That is above 3 % zeros in float32. Zeros that no step wanted stay among the values: a few of them in a bias would
    save some bytes, and take the tensor from every reader that knows it by its name.
    """

    zeros: int = 0
    zeros_wanted: bool = False

    @property
    def kind(self) -> str:
        return "sparse" if self.sparse else "dense"

    @cached_property
    def sparse(self) -> bool:
        if not self.zeros_wanted or "float" not in self.dtype:
            return False
        each = DTYPE_BYTES[self.dtype]
        return math.ceil(self.size / 8) + self.nonzero * each < self.size * each

    @cached_property
    def parts(self) -> tuple[TensorPart, ...]:
        if not self.sparse:
            return (TensorPart("", self.shape, self.dtype),)
        return (
            TensorPart(".values", (self.nonzero,), self.dtype),
            TensorPart(".mask", (math.ceil(self.size / 8),), "uint8"),
        )

    @property
    def params(self) -> int:
        return self.size

    @property
    def nonzero(self) -> int:
        return self.size - self.zeros

    @property
    def stored(self) -> int:
        return self.nonzero if self.sparse else self.size

    @property
    def label(self) -> str:
        return f"sparse {self.dtype} + bitmask" if self.sparse else f"dense {self.dtype}"

    @property
    def pruned(self) -> bool:
        return self.zeros_wanted

    @property
    def meta(self) -> dict[str, Any]:
        found: dict[str, Any] = {"kind": self.kind, "shape": list(self.shape), "dtype": self.dtype}
        return {**found, "pruned": True} if self.pruned else found


@dataclass(frozen=True)
class QuantizedPlan(StoragePlan):
    """Codes of `bits`, a scale per row or per `group` inputs; a zero point unless symmetric, or a codebook of levels.

    The weight is seen as rows x columns, (out, in * kernel), by its layout.
    """

    bits: int = 8
    rows: int = 0
    group: int = 0  # columns that share a scale; 0: the whole row
    symmetric: bool = True
    codebook: bool = False
    scale_dtype: str = "float16"
    layout: Layout = PLAIN
    zeros: int = 0
    zeros_wanted: bool = False

    @property
    def kind(self) -> str:
        return "quantized"

    @property
    def columns(self) -> int:
        return self.size // self.rows if self.rows else 0

    @property
    def groups(self) -> int:
        return math.ceil(self.columns / self.group) if self.group else 1

    @cached_property
    def sparse(self) -> bool:
        return math.ceil(self.size / 8) + packed_bytes(self.nonzero, self.bits) < packed_bytes(self.size, self.bits)

    @cached_property
    def parts(self) -> tuple[TensorPart, ...]:
        codes = packed_bytes(self.nonzero if self.sparse else self.size, self.bits)
        found = [
            TensorPart(".codes", (codes,), "uint8"),
            TensorPart(".scale", (self.rows, self.groups), self.scale_dtype),
        ]
        if not self.symmetric:
            found.append(TensorPart(".zero_point", (packed_bytes(self.rows * self.groups, self.bits),), "uint8"))
        if self.codebook:
            found.append(TensorPart(".levels", (2**self.bits,), "float32"))
        if self.sparse:
            found.append(TensorPart(".mask", (math.ceil(self.size / 8),), "uint8"))
        return tuple(found)

    @property
    def params(self) -> int:
        return self.size

    @property
    def nonzero(self) -> int:
        return self.size - self.zeros

    @property
    def stored(self) -> int:
        return self.nonzero if self.sparse else self.size

    @property
    def label(self) -> str:
        spread = f"groups of {self.group}" if self.group else "per channel"
        numbers = f"{self.bits}-bit codebook" if self.codebook else f"int{self.bits}"
        return f"{numbers} {spread}" + (" + bitmask" if self.sparse else "")

    @property
    def pruned(self) -> bool:
        return self.zeros_wanted

    @property
    def meta(self) -> dict[str, Any]:
        found: dict[str, Any] = {"kind": self.kind, "shape": list(self.shape), "dtype": self.dtype}
        found |= {"bits": self.bits, "group": self.group} | self.layout.meta
        return {**found, "pruned": True} if self.pruned else found


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` integers of `bits` in one stream."""
    return math.ceil(count * bits / 8)

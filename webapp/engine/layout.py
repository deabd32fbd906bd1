"""How a stored weight is the matrix of its product: its rows are outputs, its columns what an output is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # plain data is read where torch is not
    from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Stored is (out, in / groups, *kernel), with the kernel () of a plain matrix.

    `transposed`: (in, out / groups, *kernel), as a transposed convolution has it, and GPT-2's Conv1D. `stacked`: one
    matrix (out, in) or, transposed, (in, out) for each of `groups` experts.
    """

    transposed: bool = False
    groups: int = 1
    stacked: bool = False

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> Layout:
        """The inverse of `meta`."""
        return cls(bool(meta.get("transposed")), int(meta.get("groups", 1)), bool(meta.get("stacked")))

    @property
    def meta(self) -> dict[str, Any]:
        """What a manifest says. Rows that lie below each other as they are stored need no word."""
        if not self.transposed:
            return {}
        grouped = {"groups": self.groups} if self.groups > 1 else {}
        return {"transposed": True, **grouped, **({"stacked": True} if self.stacked else {})}

    def rows(self, shape: Shape) -> int:
        if self.stacked:
            return shape[0] * shape[2 if self.transposed else 1]
        return self.groups * shape[1] if self.transposed else shape[0]

    def inputs(self, shape: Shape) -> int:
        """How many inputs of an output are neighbours: all of a matrix, the channels of a convolution at one place."""
        if self.stacked:
            return shape[1 if self.transposed else 2]
        return shape[0] // self.groups if self.transposed else shape[1]

    def apart(self, shape: Shape) -> Shape:
        """(groups, in, out, places of the kernel) of a transposed weight, in the order in which it is stored."""
        outputs = self.rows(shape) // self.groups
        size = 1
        for length in shape:
            size *= length
        inputs = self.inputs(shape)
        return self.groups, inputs, outputs, size // max(self.groups * inputs * outputs, 1)

    def matrix(self, weight: Tensor) -> Tensor:
        """(rows, columns)."""
        shape = tuple(weight.shape)
        if not self.transposed:
            return weight.reshape(self.rows(shape), -1)
        return weight.reshape(self.apart(shape)).transpose(1, 2).reshape(self.rows(shape), -1)

    def weight(self, matrix: Tensor, shape: Shape) -> Tensor:
        """The inverse of `matrix`."""
        if not self.transposed:
            return matrix.reshape(shape)
        groups, inputs, outputs, places = self.apart(shape)
        return matrix.reshape(groups, outputs, inputs, places).transpose(1, 2).reshape(shape)


PLAIN = Layout()

"""Blocks of a type of llama.cpp's, byte for byte as a GGUF file holds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, Self

from webapp.engine.facts import PLAIN, Layout
from webapp.engine.lazy import Tensor, torch
from webapp.engine.math import ggml

from .base import Encoded, StoragePlan, TensorPart
from .dense import Dense, DensePlan
from .safetensors import SLICE_BYTES, LazyTensor, dtype_name, dtype_of

BLOCKS = ".blocks"


@dataclass(frozen=True)
class GgmlPlan(StoragePlan):
    """Blocks of `type` ("Q4_K"). The weight is seen as rows x columns by its layout; whole blocks make a row.

    `zeros`: how many values are zero, of a weight of a checkpoint that came in these blocks; None where a step made
    them.
    """

    type: str = "Q8_0"
    rows: int = 0
    layout: Layout = PLAIN
    zeros: int | None = None

    @classmethod
    def of(cls, plan: StoragePlan, type: str, layout: Layout) -> Self:
        """Of what `GgmlBlocks.nearest` makes of plain values."""
        return cls(plan.shape, plan.dtype, type, layout.rows(plan.shape), layout)

    @property
    def kind(self) -> str:
        return "ggml"

    @property
    def columns(self) -> int:
        return self.size // self.rows if self.rows else 0

    @property
    def parts(self) -> tuple[TensorPart, ...]:
        return (TensorPart(BLOCKS, (self.rows, ggml.TYPES[self.type].row_bytes(self.columns)), "uint8"),)

    @property
    def nonzero(self) -> int:
        return self.size - (self.zeros or 0)

    @property
    def label(self) -> str:
        return self.type

    @property
    def opened(self) -> StoragePlan:
        return self if self.zeros is None else DensePlan(self.shape, self.dtype, zeros=self.zeros)

    @property
    def meta(self) -> dict[str, Any]:
        zeros = {} if self.zeros is None else {"zeros": self.zeros}
        return super().meta | {"type": self.type} | zeros | self.layout.meta


class GgmlBlocks(Encoded):
    """blocks uint8 (rows, bytes of a row), of the matrix of the weight in its `layout`; `zeros` as its plan has it."""

    kinds = ("ggml",)
    anywhere = False

    def __init__(
        self,
        blocks: Tensor,
        type: str,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        layout: Layout = PLAIN,
        zeros: int | None = None,
    ) -> None:
        self.blocks, self.type, self.layout, self.zeros = blocks, type, layout, zeros
        self.shape, self.dtype = tuple(shape), dtype

    @classmethod
    def nearest(cls, weight: Tensor, type: str, layout: Layout = PLAIN, importance: Tensor | None = None) -> Self:
        """A weight of any float dtype, rounded by llama.cpp.

        `importance` (groups, columns): the mean square of each input. Raises ValueError for values beyond the type's.
        """
        matrix = layout.matrix(weight).float()
        groups: tuple[Tensor | None, ...] = (None,) if importance is None else importance.unbind()
        each = zip(matrix.chunk(len(groups)), groups, strict=True)
        made = torch.cat([ggml.quantized(rows, type, weights) for rows, weights in each])
        return cls(made, type, tuple(weight.shape), weight.dtype, layout)

    @property
    def plan(self) -> GgmlPlan:
        return GgmlPlan(self.shape, dtype_name(self.dtype), self.type, len(self.blocks), self.layout, self.zeros)

    @property
    def memory_bytes(self) -> int:
        return int(self.blocks.nbytes)

    @property
    def _rows_apart(self) -> bool:
        """Whether a row of blocks is a row of the weight."""
        return not self.layout.transposed and len(self.blocks) == self.shape[0]

    def decode(self) -> Tensor:
        return self.layout.weight(ggml.dequantized(self.blocks, self.type), self.shape).contiguous()

    def rows(self, wanted: Tensor) -> Tensor:
        if not self._rows_apart:
            return super().rows(wanted)
        return ggml.dequantized(self.blocks[wanted], self.type).reshape(-1, *self.shape[1:])

    def slices(self) -> Iterator[Tensor]:
        if not self._rows_apart:
            yield self.decode()
            return
        rows = max(1, SLICE_BYTES // max(4 * self.plan.columns, 1))
        for start in range(0, len(self.blocks), rows):
            yield ggml.dequantized(self.blocks[start : start + rows], self.type).reshape(-1, *self.shape[1:])

    def parts(self) -> dict[str, Tensor]:
        return {BLOCKS: self.blocks}

    @classmethod
    def suffixes(cls, meta: Mapping[str, Any]) -> tuple[str, ...]:
        return (BLOCKS,)

    @classmethod
    def from_parts(cls, parts: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Self:
        if meta["type"] not in ggml.TYPES:
            raise ValueError(f"it holds blocks of the type {meta['type']!r}, which this version does not know")
        blocks, zeros = parts[BLOCKS], meta.get("zeros")
        found = cls(blocks, meta["type"], tuple(meta["shape"]), dtype_of(meta["dtype"]), Layout.of(meta), zeros)
        size, columns = ggml.TYPES[found.type].size, found.plan.columns
        whole = columns * len(blocks) == found.plan.size and columns % size == 0
        if not whole or tuple(blocks.shape) != found.plan.parts[0].shape or blocks.dtype != torch.uint8:
            raise ValueError(f"its blocks of shape {list(blocks.shape)} are not those of a weight of {meta['shape']}")
        return found

    def with_values(self, values: Tensor) -> GgmlBlocks:
        """Rows whose values are what they were stay as they are; the others are rounded again."""
        matrix = self.layout.matrix(values).float()
        moved = (matrix != ggml.dequantized(self.blocks, self.type)).any(1)
        blocks = self.blocks.clone()
        if bool(moved.any()):
            blocks[moved] = ggml.quantized(matrix[moved], self.type)
        return GgmlBlocks(blocks, self.type, self.shape, self.dtype, self.layout)


class InFile(Protocol):
    """A weight in a file, as `held.FiledWeight` is."""

    @property
    def parts(self) -> Mapping[str, LazyTensor]: ...
    @property
    def meta(self) -> Mapping[str, Any]: ...


class OpenedBlocks(Dense):
    """The blocks that a checkpoint came in, while a step may change them: floats, decoded when they are asked for."""

    kinds = ()

    def __init__(self, kept: InFile | GgmlBlocks) -> None:
        self.kept = kept
        parts, meta = (kept.filed_parts(), kept.plan.meta) if isinstance(kept, GgmlBlocks) else (kept.parts, kept.meta)
        blocks, type, shape = parts[BLOCKS], str(meta["type"]), tuple(meta["shape"])

        def load() -> Tensor:
            return ggml.dequantized(blocks.load(), type).reshape(shape)

        def some(part: Any, start: int, end: int) -> Tensor:
            return ggml.dequantized(part(start, end), type).reshape(-1, *shape[1:])

        part = partial(some, blocks.part) if blocks.part is not None else None
        super().__init__(LazyTensor(shape, dtype_of(meta["dtype"]), load, part), zeros=int(meta["zeros"]))

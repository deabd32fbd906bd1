"""Blocks of a type of llama.cpp's, byte for byte as a GGUF file holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from webapp.engine.facts import PLAIN, Layout
from webapp.engine.lazy import Tensor, torch
from webapp.engine.math import ggml

from .base import Encoded, StoragePlan, TensorPart
from .safetensors import dtype_name, dtype_of


@dataclass(frozen=True)
class GgmlPlan(StoragePlan):
    """Blocks of `type` ("Q4_K"). The weight is seen as rows x columns by its layout; whole blocks make a row."""

    type: str = "Q8_0"
    rows: int = 0
    layout: Layout = PLAIN

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
        return (TensorPart(".blocks", (self.rows, ggml.TYPES[self.type].row_bytes(self.columns)), "uint8"),)

    @property
    def label(self) -> str:
        return self.type

    @property
    def meta(self) -> dict[str, Any]:
        return super().meta | {"type": self.type} | self.layout.meta


class GgmlBlocks(Encoded):
    """blocks uint8 (rows, bytes of a row), of the matrix of the weight in its `layout`."""

    kinds = ("ggml",)
    anywhere = False

    def __init__(
        self, blocks: Tensor, type: str, shape: tuple[int, ...], dtype: torch.dtype, layout: Layout = PLAIN
    ) -> None:
        self.blocks, self.type, self.layout = blocks, type, layout
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
        return GgmlPlan(self.shape, dtype_name(self.dtype), self.type, len(self.blocks), self.layout)

    def decode(self) -> Tensor:
        return self.layout.weight(ggml.dequantized(self.blocks, self.type), self.shape).contiguous()

    def parts(self) -> dict[str, Tensor]:
        return {".blocks": self.blocks}

    @classmethod
    def suffixes(cls, meta: Mapping[str, Any]) -> tuple[str, ...]:
        return (".blocks",)

    @classmethod
    def from_parts(cls, parts: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Self:
        if meta["type"] not in ggml.TYPES:
            raise ValueError(f"it holds blocks of the type {meta['type']!r}, which this version does not know")
        blocks = parts[".blocks"]
        found = cls(blocks, meta["type"], tuple(meta["shape"]), dtype_of(meta["dtype"]), Layout.of(meta))
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

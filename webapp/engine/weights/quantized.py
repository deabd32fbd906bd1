"""Codes of few bits with scales: stored as a stream of `bits` each, zeros behind a bitmask where that is smaller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from webapp.engine.facts import PLAIN, Layout
from webapp.engine.lazy import Tensor, torch
from webapp.engine.math import bits as streams
from webapp.engine.math import grids, quantizers
from webapp.engine.math.grids import QuantizationScheme
from webapp.engine.math.quantizers import Grid

from .base import Encoded
from .plans import QuantizedPlan
from .safetensors import dtype_name, dtype_of


class Quantized(Encoded):
    """codes uint8 (rows, columns) on a Grid; the matrix of the weight in its `layout`."""

    kinds = ("quantized",)

    def __init__(
        self,
        codes: Tensor,
        grid: Grid,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        layout: Layout = PLAIN,
        zeros_wanted: bool = False,
    ) -> None:
        self.codes, self.grid, self.layout = codes, grid, layout
        self.shape, self.dtype, self.zeros_wanted = tuple(shape), dtype, zeros_wanted

    @classmethod
    def nearest(
        cls, weight: Tensor, scheme: QuantizationScheme, layout: Layout = PLAIN, zeros_wanted: bool = False
    ) -> Self:
        """Rounds a weight of any float dtype onto the grid that the scheme finds for it."""
        matrix = layout.matrix(weight).float()
        grid = grids.fit_grid(matrix, scheme)
        codes = quantizers.quantize(matrix, grid)
        return cls(codes, grid, tuple(weight.shape), weight.dtype, layout, zeros_wanted)

    @property
    def _zero(self) -> Tensor:
        return quantizers.zero_codes(self.grid, self.codes.shape[1])

    @property
    def plan(self) -> QuantizedPlan:
        return QuantizedPlan(
            self.shape,
            dtype_name(self.dtype),
            bits=self.grid.bits,
            rows=self.codes.shape[0],
            group=self.grid.group,
            symmetric=self.grid.zero_point is None,
            codebook=self.grid.levels is not None,
            scale_dtype=dtype_name(self.grid.scale.dtype),
            layout=self.layout,
            zeros=int((self.codes == self._zero).sum()),
            zeros_wanted=self.zeros_wanted,
        )

    def decode(self) -> Tensor:
        matrix = quantizers.dequantize(self.codes, self.grid)
        return self.layout.weight(matrix, self.shape).contiguous()

    def parts(self) -> dict[str, Tensor]:
        found, codes, bits = {".scale": self.grid.scale}, self.codes, self.grid.bits
        if self.grid.zero_point is not None:
            found[".zero_point"] = streams.pack_codes(self.grid.zero_point, bits)
        if self.grid.levels is not None:
            found[".levels"] = self.grid.levels
        if self.plan.sparse:
            mask = codes != self._zero
            codes, found[".mask"] = codes[mask], streams.pack_mask(mask)
        return {".codes": streams.pack_codes(codes, bits), **found}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Self:
        shape, bits, scale = tuple(meta["shape"]), int(meta["bits"]), parts[".scale"]
        zero = None
        if ".zero_point" in parts:
            zero = streams.unpack_codes(parts[".zero_point"], bits, scale.numel()).reshape(scale.shape)
        grid = Grid(bits, int(meta["group"]), scale, zero, parts.get(".levels"))
        rows = scale.shape[0]
        columns = torch.Size(shape).numel() // rows
        if ".mask" in parts:
            mask = streams.unpack_mask(parts[".mask"], (rows, columns))
            codes = quantizers.zero_codes(grid, columns).expand(rows, columns).clone()
            codes[mask] = streams.unpack_codes(parts[".codes"], bits, int(mask.sum()))
        else:
            codes = streams.unpack_codes(parts[".codes"], bits, rows * columns).reshape(rows, columns)
        return cls(codes, grid, shape, dtype_of(meta["dtype"]), Layout.of(meta), bool(meta.get("pruned")))

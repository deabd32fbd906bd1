"""Codes of few bits with scales: stored as a stream of `bits` each, zeros behind a bitmask where that is smaller."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

from webapp.engine.facts import PLAIN, Layout
from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.math import bits as streams
from webapp.engine.math import grids, quantizers
from webapp.engine.math.grids import QuantizationScheme
from webapp.engine.math.quantizers import Grid

from .base import Encoded, FormInTraining, SimplePlan, StoragePlan, TensorPart
from .dense import DensePlan
from .safetensors import SLICE_BYTES, dtype_name, dtype_of


@dataclass(frozen=True)
class QuantizedPlan(SimplePlan):
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

    @classmethod
    def of(cls, plan: StoragePlan, scheme: QuantizationScheme, layout: Layout) -> Self:
        """Of what `Quantized.nearest` makes of plain values, as far as shapes tell: more of them may become zero."""
        assert isinstance(plan, DensePlan)
        rows = layout.rows(plan.shape)
        scheme = scheme.fitting(plan.size // max(rows, 1))
        return cls(
            plan.shape,
            plan.dtype,
            bits=scheme.bits,
            rows=rows,
            group=scheme.group,
            symmetric=scheme.symmetric,
            codebook=scheme.numbers != "int",
            layout=layout,
            zeros=plan.zeros,
            zeros_wanted=plan.zeros_wanted,
        )

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
    def holds(self) -> str:
        return "integers"

    @property
    def label(self) -> str:
        spread = f"groups of {self.group}" if self.group else "per channel"
        numbers = f"{self.bits}-bit codebook" if self.codebook else f"int{self.bits}"
        return f"{numbers} {spread}" + (" + bitmask" if self.sparse else "")

    @property
    def meta(self) -> dict[str, Any]:
        return super().meta | {"bits": self.bits, "group": self.group} | self.layout.meta


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
        cls,
        weight: Tensor | Encoded,
        scheme: QuantizationScheme,
        layout: Layout = PLAIN,
        zeros_wanted: bool = False,
    ) -> Self:
        """Rounds a weight of any float dtype onto the grid that the scheme finds for it, some rows at a time."""
        shape = tuple(weight.shape)
        if layout.transposed or isinstance(weight, Tensor):
            parts: Iterable[Tensor] = [weight if isinstance(weight, Tensor) else weight.decode()]
        else:
            parts = weight.slices()
        codes = torch.empty((rows := layout.rows(shape), math.prod(shape) // max(rows, 1)), dtype=torch.uint8)
        grid = grids.fit_rows((layout.matrix(part) for part in parts), scheme, codes)
        if grid is None:  # its scales cannot be told row by row
            matrix = layout.matrix(weight if isinstance(weight, Tensor) else weight.decode()).float()
            grid = grids.fit_grid(matrix, scheme)
            quantizers.quantize(matrix, grid, out=codes)
        return cls(codes, grid, shape, weight.dtype, layout, zeros_wanted)

    @property
    def _zero(self) -> Tensor:
        return quantizers.zero_codes(self.grid, self.codes.shape[1])

    @cached_property
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
            zeros=quantizers.count_zero_codes(self.codes, self.grid),
            zeros_wanted=self.zeros_wanted,
        )

    @property
    def memory_bytes(self) -> int:
        return int(self.codes.nbytes + self.grid.scale.nbytes)

    def decode(self) -> Tensor:
        matrix = torch.empty(self.codes.shape)
        quantizers.dequantize_into(self.codes, self.grid, matrix)
        return self.layout.weight(matrix, self.shape).contiguous()

    def rows(self, wanted: Tensor) -> Tensor:
        if self.layout.transposed or len(self.codes) != self.shape[0]:
            return super().rows(wanted)
        values = quantizers.dequantize(self.codes[wanted], self.grid.at(wanted))
        return values.reshape(-1, *self.shape[1:])

    def decode_into(self, place: Tensor) -> None:
        if self.layout.transposed or not place.is_contiguous():
            super().decode_into(place)
        else:
            quantizers.dequantize_into(self.codes, self.grid, place.view(self.codes.shape))

    def slices(self) -> Iterator[Tensor]:
        if self.layout.transposed or len(self.codes) != self.shape[0]:
            yield self.decode()
            return
        rows = max(1, SLICE_BYTES // max(4 * self.codes.shape[1], 1))
        for start in range(0, len(self.codes), rows):
            some = self.codes[start : start + rows]
            values = torch.empty(some.shape)
            quantizers.dequantize_into(some, self.grid.rows(start, start + rows), values)
            yield values.reshape(-1, *self.shape[1:])

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
    def suffixes(cls, meta: Mapping[str, Any]) -> tuple[str, ...]:
        return ".codes", ".scale", ".zero_point", ".levels", ".mask"

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

    def matrix(self, values: Tensor) -> Tensor:
        """(rows, columns), as the codes lie, of values of the weight's shape."""
        return self.layout.matrix(values).reshape(self.codes.shape)

    def with_values(self, values: Tensor) -> Quantized:
        return self.on_grid(values, self.grid)

    def on_grid(self, values: Tensor, grid: Grid) -> Quantized:
        """The nearest codes for `values`, floats of the weight's shape, on a grid of the same kind."""
        codes = quantizers.quantize(self.matrix(values).float(), grid)
        return Quantized(codes, grid, self.shape, self.dtype, self.layout, self.zeros_wanted)

    def in_training(self, transposed: bool, device: torch.device, train_scales: bool) -> FormInTraining:
        return QuantizedInTraining(self, transposed, device, train_scales)

    def scales_in_training(self, transposed: bool, device: torch.device) -> ScalesInTraining:
        return ScalesInTraining(self, transposed, device)


class QuantizedInTraining(FormInTraining):
    """A module computes with what the floats round to on the grid. Scales are trained by their logarithm."""

    stored: Quantized

    def __init__(self, stored: Quantized, transposed: bool, device: torch.device, train_scales: bool) -> None:
        super().__init__(stored, transposed)
        self.grid = stored.grid.on(device)
        self.scale = self.grid.scale.float()
        self.log_scale = nn.Parameter(torch.zeros_like(self.scale), requires_grad=train_scales)
        if train_scales:
            self.leaves = {".log_scale": self.log_scale}

    def scales(self) -> Tensor:
        """(rows, groups) float32, as the file will hold them."""
        dtype, size = self.grid.scale.dtype, self.scale.abs() * self.log_scale.exp()
        if dtype == torch.float16:
            size = size.clamp(quantizers.SMALLEST_HALF, quantizers.LARGEST_HALF)
        return quantizers.as_stored(size * self.scale.sign(), dtype)

    def rounded(self, values: Tensor) -> Tensor:
        near = quantizers.fake_quantize(self.stored.matrix(self.oriented(values)), self.grid, self.scales())
        return self._shaped(near)

    def encoded(self, values: Tensor) -> Encoded:
        return self.stored.on_grid(self.oriented(values.detach().cpu()), self._rescaled())

    def _shaped(self, matrix: Tensor) -> Tensor:
        """As the module holds it."""
        return self.oriented(self.stored.layout.weight(matrix, self.stored.shape))

    def _rescaled(self) -> Grid:
        old = self.stored.grid
        return replace(old, scale=self.scales().detach().cpu().to(old.scale.dtype))


class ScalesInTraining(QuantizedInTraining):
    """The codes stay as they are, so that nothing is rounded. `values` is a view of the memory that is decoded into."""

    def __init__(self, stored: Quantized, transposed: bool, device: torch.device) -> None:
        super().__init__(stored, transposed, device, train_scales=True)
        self._codes = stored.codes.to(device)
        self._matrix = torch.empty(stored.codes.shape, device=device)
        self.values = self._shaped(self._matrix)

    def decoded(self) -> Tensor:
        """What the module computes with, in the memory of `values`; its gradient goes to the scales."""
        from webapp.engine.math.decoding import FixedCodes

        matrix: Tensor = FixedCodes.apply(self.scales(), self._codes, self.grid, self._matrix)  # type: ignore[no-untyped-call]
        return self._shaped(matrix)

    def kept(self) -> Quantized:
        """The weight to store."""
        old = self.stored
        return Quantized(old.codes, self._rescaled(), old.shape, old.dtype, old.layout, old.zeros_wanted)


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` integers of `bits` in one stream."""
    return math.ceil(count * bits / 8)

"""Weights that stay as small in a module as they are in a file: it decodes them each time it runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from webapp.engine.math.quantizers import Grid, dequantize
from webapp.engine.weights import Dense, Encoded, Quantized

WIDE = (torch.float32, torch.float64)


class HalfPrecisionWeight(nn.Module):
    """Floats of 16 bits, widened to float32."""

    values: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values)

    def forward(self) -> Tensor:
        return self.values.float()


class IntegerWeight(nn.Module):
    """Codes (out, in) on a grid, several to a byte where they have 4 bits or fewer; the lowest bits come first."""

    packed: Tensor
    scale: Tensor
    zero: Tensor
    levels: Tensor

    def __init__(self, encoded: Quantized) -> None:
        super().__init__()
        grid = encoded.grid
        self.bits, self.group, self.size = grid.bits, grid.group, tuple(encoded.codes.shape)
        self.shape, self.layout = encoded.shape, encoded.layout
        self.width = next(width for width in (2, 4, 8) if grid.bits <= width)
        self.register_buffer("packed", _packed(encoded.codes, self.width))
        self.register_buffer("scale", grid.scale.contiguous())
        self.register_buffer("zero", grid.zero if grid.zero_point is None else grid.zero_point)
        if grid.levels is not None:
            self.register_buffer("levels", grid.levels)

    def forward(self) -> Tensor:
        levels = getattr(self, "levels", None)
        grid = Grid(self.bits, self.group, self.scale, self.zero, levels)
        matrix = dequantize(self._codes(), grid)
        return self.layout.weight(matrix, self.shape)

    def _codes(self) -> Tensor:
        rows, columns = self.size
        if self.width == 8:
            return self.packed
        shifts = range(0, 8, self.width)
        apart = torch.stack([self.packed >> shift & 2**self.width - 1 for shift in shifts], -1)
        return apart.reshape(-1)[: rows * columns].reshape(rows, columns)


class TransposedWeight(nn.Module):
    """What another holds, transposed."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self) -> Tensor:
        values: Tensor = self.inner()
        return values.t()


def stored(encoded: Encoded, transposed: bool) -> nn.Module | None:
    """What holds the weight as small as it is stored; None where the module's plain values have to."""
    held: nn.Module | None = None
    if isinstance(encoded, Quantized):
        held = IntegerWeight(encoded)
    elif isinstance(encoded, Dense) and encoded.dtype.is_floating_point and encoded.dtype not in WIDE:
        held = HalfPrecisionWeight(encoded.decode())
    return TransposedWeight(held) if held is not None and transposed else held


def hold(part: nn.Module, name: str, held: nn.Module) -> None:
    """Gives a module `held` in the place of its parameter or buffer `name`, whose values it asks for when it runs."""
    part._parameters.pop(name, None)
    part._buffers.pop(name, None)
    inside = f"{name}_stored"
    part.add_module(inside, held)

    def decoded(self: Any) -> Tensor:
        values: Tensor = getattr(self, inside)()
        return values

    kind = type(part)
    part.__class__ = type(kind.__name__, (kind,), {name: property(decoded), "__module__": kind.__module__})


def _packed(codes: Tensor, width: int) -> Tensor:
    """uint8: (out, in) at a width of 8, else (bytes,) with 8 / width codes in each."""
    if width == 8:
        return codes.contiguous()
    each = 8 // width
    flat = codes.reshape(-1)
    rows = nn.functional.pad(flat, (0, -len(flat) % each)).reshape(-1, each)
    found = rows[:, 0].clone()
    for place in range(1, each):
        found |= rows[:, place] << place * width
    return found

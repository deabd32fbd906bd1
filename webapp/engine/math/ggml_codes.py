"""What is in llama.cpp's blocks of 4, 5 and 8 bits: a scale for 32 values, perhaps what is taken off them, and codes.

    Q8_0    d · q           q of 8 bits with sign
    Q5_0    d · (q − 16)    the fifth bits of 32 values lie apart, in front
    Q4_0    d · (q − 8)     byte j holds values j and j + 16
    IQ4_NL  d · level[q]    the same, of 16 levels that are fixed
    Q4_K    d · s · q − dmin · m    of 256 values; s and m of 6 bits for each 32, twelve bytes together
    Q5_K    the same, the fifth bits of 256 values apart, in front

https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h and ggml-quants.c (`dequantize_row_*`).
"""

from __future__ import annotations

from webapp.engine.lazy import Tensor, torch

from .ggml import TYPES
from .quantizers import Grid

GROUP = 32  # values that share a scale
BITS = {"Q8_0": 8, "Q5_0": 5, "Q4_0": 4, "IQ4_NL": 4, "Q4_K": 4, "Q5_K": 5}
LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)  # of IQ4_NL
FREE = ("Q8_0", "Q5_0", "Q4_0", "IQ4_NL")  # whose scale is any float16
HEAD, PACKED = 4, 12  # bytes of d and dmin, and of all s and m
NOTHING = 1e-30  # in the place of a scale of zero, by which nothing can be divided


def grid_of(blocks: Tensor, name: str) -> tuple[Grid, Tensor | None]:
    """The numbers that values of uint8 (rows, bytes of a row) may be, and what is added to them before: float32
    (rows, columns / 32); None: nothing.
    """
    apart = _apart(blocks, name)
    rows = len(apart)
    d = _halves(apart[..., :2])
    if name in FREE:
        levels = torch.tensor(LEVELS, dtype=torch.float32) if name == "IQ4_NL" else None
        return Grid(BITS[name], GROUP, _divisible(d.reshape(rows, -1)), None, levels), None
    scales, mins = _packed(apart[..., HEAD : HEAD + PACKED])
    scale, low = (d * scales).reshape(rows, -1), (_halves(apart[..., 2:HEAD]) * mins).reshape(rows, -1)
    return Grid(BITS[name], GROUP, _divisible(scale), torch.zeros(scale.shape, dtype=torch.uint8)), low


def with_codes(blocks: Tensor, name: str, codes: Tensor, scale: Tensor | None = None) -> Tensor:
    """The same blocks with other codes, uint8 (rows, columns), as `grid_of` counts them, and other scales where given:
    float16 (rows, columns / 32), of the types that are FREE."""
    apart = _apart(blocks, name).clone()
    rows, count, _ = apart.shape
    if scale is not None:
        apart[..., :2] = scale.half().reshape(rows, count, 1).contiguous().view(torch.uint8)
    held = codes.reshape(rows, count, TYPES[name].size)
    if name == "Q8_0":
        apart[..., 2:] = (held.to(torch.int16) - 128).to(torch.int8).view(torch.uint8)
    elif name in FREE:
        first, second = held.reshape(rows, count, 2, -1).unbind(2)
        apart[..., -GROUP // 2 :] = (first & 15) | (second & 15) << 4
        if name == "Q5_0":
            bits = (held >> 4).reshape(rows, count, 4, 8)
            apart[..., 2:6] = (bits << torch.arange(8, dtype=torch.uint8)).sum(3).to(torch.uint8)
    else:
        pairs = held.reshape(rows, count, 4, 2, GROUP)
        first, second = pairs.unbind(3)
        apart[..., -4 * GROUP :] = ((first & 15) | (second & 15) << 4).flatten(2)
        if name == "Q5_K":
            bits = (held >> 4).reshape(rows, count, 8, GROUP) << torch.arange(8, dtype=torch.uint8)[:, None]
            apart[..., HEAD + PACKED : HEAD + PACKED + GROUP] = bits.sum(2).to(torch.uint8)
    return apart.reshape(rows, -1)


def _apart(blocks: Tensor, name: str) -> Tensor:
    """(rows, blocks, bytes of one)."""
    return blocks.reshape(len(blocks), -1, TYPES[name].bytes)


def _halves(raw: Tensor) -> Tensor:
    """float32 (rows, blocks, 1) of two bytes each."""
    return raw.contiguous().view(torch.float16).float()


def _divisible(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, NOTHING, scale)


def _packed(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and minimums of 8 parts of a block, float32 (rows, blocks, 8), of 12 bytes: four of each have 6 bits of
    a byte, whose upper two belong to the other four (`get_scale_min_k4`)."""
    first, second, third = raw.split(4, 2)  # type: ignore[no-untyped-call]
    scales = torch.cat([first & 63, (third & 15) | (first >> 6) << 4], 2)
    mins = torch.cat([second & 63, (third >> 4) | (second >> 6) << 4], 2)
    return scales.float(), mins.float()

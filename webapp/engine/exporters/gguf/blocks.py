"""The number formats of llama.cpp, and which of them holds a weight with the least loss.

A block is 32 neighbours of a row with a scale d, float16, in front (and a lowest value m, in Q4_1):

    Q8_0   d · q        q of 8 bits with sign     34 bytes
    Q4_0   d · (q − 8)  two q a byte              18 bytes; byte j holds values j and j + 16
    Q4_1   d · q + m    the same                  20 bytes

So integers of up to 8 bits with a float16 scale and no zero point go over as they are, and so do blocks that are stored
as llama.cpp has them. Everything else is rounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from webapp.engine.facts import DTYPE_BYTES
from webapp.engine.lazy import Tensor, torch
from webapp.engine.math.ggml import TYPES
from webapp.engine.math.quantizers import LARGEST_HALF
from webapp.engine.weights import (
    Dense,
    Encoded,
    GgmlBlocks,
    GgmlPlan,
    Quantized,
    QuantizedPlan,
    StoragePlan,
    dtype_of,
    furthest,
    half_dtype,
)

BLOCK, ALIGNMENT = 32, 32
ZERO_POINTS = 4  # bits up to which there are any
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Choice:
    """`codes`: the weight's own integers are kept; `note` where more is lost than the kind's name tells."""

    kind: str  # one of DTYPES or of ggml.TYPES
    codes: bool = False
    note: str = ""

    def bytes(self, shape: tuple[int, ...]) -> int:
        if self.kind in DTYPES:
            return math.prod(shape) * DTYPE_BYTES[DTYPES[self.kind]]
        return TYPES[self.kind].row_bytes(math.prod(shape))


def choose(encoded: Encoded) -> Choice:
    """The kind for a weight (out, in); vectors stay float32."""
    if len(encoded.shape) != 2:
        return Choice("F32")
    if isinstance(encoded, Dense):
        return Choice(_float_kind(encoded))
    if isinstance(encoded, GgmlBlocks) and not encoded.layout.transposed:
        return Choice(encoded.type, codes=True)
    if not isinstance(encoded, Quantized):
        note = f"there is no {encoded.plan.label} in GGUF, so it was rounded to 16-bit floats"
        return Choice(_float_kind(encoded), note=note)
    grid, columns = encoded.grid, encoded.codes.shape[1]
    if columns % BLOCK:
        return Choice(_float_kind(encoded), note=f"its rows of {columns} are no whole blocks of {BLOCK}")
    whole = grid.group % BLOCK == 0 and grid.scale.dtype == torch.float16
    if grid.zero_point is not None:  # the lowest value m of a block is float16 too
        whole = whole and float((grid.zero_point * grid.scale.float()).abs().max()) <= LARGEST_HALF
    if grid.levels is not None or not whole or (grid.zero_point is not None and grid.bits > ZERO_POINTS):
        what = "a codebook" if grid.levels is not None else "its zero points" if whole else "its groups or scales"
        if furthest(encoded) > 127 * LARGEST_HALF:  # beyond what a block's scale can be
            return Choice("BF16", note=f"{what} cannot be kept, and its values are beyond those of 8-bit blocks")
        return Choice("Q8_0", note=f"{what} cannot be kept, so it was rounded to 8 bits")
    if grid.zero_point is not None:
        return Choice("Q4_1", codes=True)
    return Choice("Q4_0" if grid.bits <= 4 else "Q8_0", codes=True)


def plainly(encoded: Encoded) -> Choice:
    """As a weight that nothing has changed is kept, without a look at its values."""
    return Choice("F32" if len(encoded.shape) != 2 else "F16")


def expected_bytes(plan: StoragePlan) -> int:
    """Of a weight that is stored like this, as `choose` decides; of one whose values decide, without their extremes."""
    if len(plan.shape) != 2:
        return 4 * plan.size
    if isinstance(plan, GgmlPlan) and not plan.layout.transposed:
        return plan.bytes
    if not isinstance(plan, QuantizedPlan) or plan.columns % BLOCK:
        return 2 * plan.size
    if plan.group % BLOCK or plan.codebook or plan.scale_dtype != "float16":
        kind = "Q8_0"
    elif not plan.symmetric:
        kind = "Q4_1" if plan.bits <= ZERO_POINTS else "Q8_0"
    else:
        kind = "Q4_0" if plan.bits <= 4 else "Q8_0"
    return TYPES[kind].row_bytes(plan.size)


def aligned(size: int) -> int:
    """With what a file holds behind it."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def packed(encoded: Encoded, choice: Choice) -> Tensor:
    """The rows as bytes: uint8 (out, bytes a row); of a vector each value is a row."""
    if choice.kind in DTYPES:
        values = encoded.decode().to(dtype_of(DTYPES[choice.kind])).contiguous()
        return values.view(torch.uint8).reshape(len(values), -1)
    if not choice.codes:
        import gguf

        raw = gguf.quantize(encoded.decode().float().numpy(), gguf.GGMLQuantizationType[choice.kind])
        return torch.from_numpy(raw)
    if isinstance(encoded, GgmlBlocks):
        return encoded.blocks
    assert isinstance(encoded, Quantized)
    rows, columns = encoded.codes.shape
    codes, scale, low = _units(encoded, choice.kind)
    heads = [scale.half()] if low is None else [scale.half(), low]
    if choice.kind == "Q8_0":
        body = codes.to(torch.int8).view(torch.uint8)
    else:
        first, second = codes.to(torch.uint8).reshape(rows, -1, 2, BLOCK // 2).unbind(2)
        body = first | second << 4
    body = body.reshape(rows, columns // BLOCK, -1)
    front = [head.contiguous().view(torch.uint8).reshape(rows, columns // BLOCK, 2) for head in heads]
    return torch.cat((*front, body), 2).reshape(rows, -1)


def rounded(encoded: Encoded, choice: Choice) -> Encoded:
    """The weight with the values that the kind leaves it, worked out without what writes the file."""
    if choice.kind == "Q4_1" and isinstance(encoded, Quantized):
        codes, scale, low = _units(encoded, choice.kind)
        assert low is not None
        across = [part.float().repeat_interleave(BLOCK, 1) for part in (scale, low)]
        return Dense(codes.float() * across[0] + across[1])
    found, start = torch.empty(encoded.shape), 0
    for some in encoded.slices():
        values = some.float()
        if choice.kind in DTYPES:
            values = values.to(dtype_of(DTYPES[choice.kind])).float()
        elif not choice.codes:  # Q8_0
            parts = values.reshape(len(values), -1, BLOCK)
            scale = parts.abs().amax(2, keepdim=True) / 127
            steps = parts * torch.where(scale > 0, 1 / scale, 0.0)
            values = ((steps.abs() + 0.5).floor() * steps.sign() * scale.half().float()).reshape(values.shape)
        found[start : start + len(values)] = values
        start += len(values)
    return Dense(found)


def _float_kind(encoded: Encoded) -> str:
    return "BF16" if half_dtype(encoded) == torch.bfloat16 else "F16"


def _units(encoded: Quantized, kind: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """(codes int16 (out, in) as the kind counts them, d and m float16 (out, blocks a row))."""
    grid, columns = encoded.grid, encoded.codes.shape[1]
    every = torch.arange(columns // BLOCK) // ((grid.group or columns) // BLOCK)
    scale, codes = grid.scale[:, every], encoded.codes.to(torch.int16)
    if grid.zero_point is not None:
        return codes, scale, (-grid.zero_point.float()[:, every] * scale.float()).half()
    return codes - 2 ** (grid.bits - 1) + (8 if kind == "Q4_0" else 0), scale, None

"""Weights as a graph holds them: small on disk as they are stored, and decoded once, when a runtime loads the file.

What depends on constants alone is folded by every runtime, so a decoded weight costs no time afterwards. (It is not
DequantizeLinear that decodes: onnxruntime keeps that operator for integer kernels, and would do it in every run or
round the activations of its own accord.)
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from webapp.engine.lazy import Tensor, torch
from webapp.engine.weights import Encoded, Quantized

from .drawing import MICROSOFT, NUMBERS, Drawing
from .products import Use

BLOCKS = (256, 128, 64, 32, 16)  # columns that share a scale in MatMulNBits
ROW_BLOCK = 128  # where a whole row shares one
FLOAT32_ARITHMETIC = 1  # MatMulNBits' accuracy_level


def decoded(drawing: Drawing, name: str, leaf: Encoded, transposed: bool) -> ir.Value:
    """The weight's values in float32, `transposed` where the module wants (out, in) of what is stored as (in, out)."""
    if not isinstance(leaf, Quantized):
        return _plain(drawing, name, leaf, transposed)
    values = _units(drawing, name, leaf)
    matrix = drawing.node("Mul", values, spread(drawing, name, leaf, scale_of(drawing, name, leaf)))
    if len(leaf.shape) == 2:
        return drawing.node("Transpose", matrix, perm=(1, 0)) if leaf.layout.transposed != transposed else matrix
    if leaf.layout.transposed:
        groups, inputs, outputs, places = leaf.layout.apart(leaf.shape)
        matrix = drawing.node("Reshape", matrix, drawing.axes(groups, outputs, inputs, places))
        matrix = drawing.node("Transpose", matrix, perm=(0, 2, 1, 3))
    return drawing.node("Reshape", matrix, drawing.axes(*leaf.shape))


def codes_of(drawing: Drawing, name: str, leaf: Quantized) -> ir.Value:
    """The stored integers, (out, in): signed where zero lies in the middle. Of fewer than 4 bits as 4."""
    small, signed = leaf.grid.bits <= 4, leaf.grid.zero_point is None and leaf.grid.levels is None
    numbers = ir.DataType
    dtype = (numbers.INT4 if signed else numbers.UINT4) if small else (numbers.INT8 if signed else numbers.UINT8)
    middle = 2 ** (leaf.grid.bits - 1)

    def read() -> Tensor:
        return (leaf.codes.to(torch.int16) - middle).to(torch.int8) if signed else leaf.codes

    return drawing.constant(f"{name}.codes", tuple(leaf.codes.shape), dtype, read)


def scale_of(drawing: Drawing, name: str, leaf: Quantized) -> ir.Value:
    """(out, groups) float32."""
    return drawing.cast(drawing.tensor(f"{name}.scale", leaf.grid.scale))


def spread(drawing: Drawing, name: str, leaf: Quantized, per_group: ir.Value) -> ir.Value:
    """(out, groups) -> (out, in); a whole row's is left to broadcasting."""
    if not leaf.grid.group:
        return per_group
    columns = torch.arange(leaf.codes.shape[1]) // leaf.grid.group
    return drawing.node("Gather", per_group, drawing.tensor(f"{name}.groups", columns), axis=1)


def looked_up(drawing: Drawing, name: str, leaf: Encoded, use: Use) -> ir.Value | None:
    """The rows that are asked for, decoded only then; None where each row's scale does not lie with its codes."""
    if (
        not isinstance(leaf, Quantized)
        or leaf.layout.transposed
        or leaf.grid.levels is not None
        or leaf.grid.bits <= 4
        or leaf.grid.group
    ):
        return None
    codes = drawing.node("Gather", codes_of(drawing, name, leaf), use.x, before=use.node, axis=0)
    rows = drawing.node("Cast", codes, before=use.node, to=int(ir.DataType.FLOAT))
    if leaf.grid.zero_point is not None:
        zero = drawing.tensor(f"{name}.zero_point", leaf.grid.zero_point)
        zero = drawing.node("Gather", drawing.cast(zero), use.x, before=use.node, axis=0)
        rows = drawing.node("Sub", rows, zero, before=use.node)
    scale = drawing.node("Gather", scale_of(drawing, name, leaf), use.x, before=use.node, axis=0)
    return drawing.node("Mul", rows, scale, before=use.node)


def few_bits(drawing: Drawing, name: str, leaf: Encoded, use: Use) -> ir.Value | None:
    """The product with a matrix of at most 4 bits, as onnxruntime does it; None where the groups do not suit that."""
    if not isinstance(leaf, Quantized) or leaf.grid.bits > 4 or leaf.grid.levels is not None:
        return None
    group = leaf.grid.group
    block = next((size for size in BLOCKS if group % size == 0), None) if group else ROW_BLOCK
    if block is None:
        return None
    rows, columns = leaf.codes.shape
    blocks = -(-columns // block)

    def repeated(per_group: Tensor) -> Tensor:
        times = group // block if group else blocks
        return per_group.repeat_interleave(times, dim=1)[:, :blocks].contiguous()

    packed = drawing.constant(f"{name}.blocks", (rows, blocks, block // 2), NUMBERS[torch.uint8], _packed(leaf, block))
    given = [use.x, packed, drawing.cast(drawing.tensor(f"{name}.block_scale", repeated(leaf.grid.scale)))]
    if leaf.grid.zero_point is not None:
        given.append(drawing.tensor(f"{name}.block_zero_point", _nibbles(repeated(leaf.grid.zero_point))))
    about = {"K": columns, "N": rows, "bits": 4, "block_size": block, "accuracy_level": FLOAT32_ARITHMETIC}
    product = drawing.node("MatMulNBits", *given, before=use.node, domain=MICROSOFT, **about)
    return product if use.bias is None else drawing.node("Add", product, use.bias, before=use.node)


def _plain(drawing: Drawing, name: str, leaf: Encoded, transposed: bool) -> ir.Value:
    """Its values as they are decoded: of a form that a graph has nothing smaller for."""
    dtype = torch.float32 if leaf.value_dtype == torch.float64 else leaf.value_dtype

    def read() -> Tensor:
        return (leaf.decode().t() if transposed else leaf.decode()).to(dtype)

    shape = tuple(reversed(leaf.shape)) if transposed else leaf.shape
    value = drawing.constant(name, shape, NUMBERS[dtype], read)
    return drawing.cast(value) if dtype.is_floating_point else value


def _units(drawing: Drawing, name: str, leaf: Quantized) -> ir.Value:
    """Whole numbers, or levels of a codebook, before they are scaled: float32 (out, in)."""
    codes = codes_of(drawing, name, leaf)
    if leaf.grid.levels is not None:
        places = drawing.cast(codes, ir.DataType.INT32)
        return drawing.node("Gather", drawing.tensor(f"{name}.levels", leaf.grid.levels), places, axis=0)
    units = drawing.cast(codes)
    if leaf.grid.zero_point is None:
        return units
    zero = drawing.cast(drawing.tensor(f"{name}.zero_point", leaf.grid.zero_point))
    return drawing.node("Sub", units, spread(drawing, name, leaf, zero))


def _packed(leaf: Quantized, block: int) -> Callable[[], Tensor]:
    """Two codes in a byte, the first in its lower half; (out, blocks, block / 2). Zero is 8 unless it is told."""
    shift = 8 - 2 ** (leaf.grid.bits - 1) if leaf.grid.zero_point is None else 0

    def read() -> Tensor:
        codes = torch.nn.functional.pad(leaf.codes + shift, (0, -leaf.codes.shape[1] % block), value=8)
        return _nibbles(codes).reshape(len(codes), -1, block // 2)

    return read


def _nibbles(codes: Tensor) -> Tensor:
    """uint8 (rows, n) below 16 -> (rows, ceil(n / 2))."""
    codes = torch.nn.functional.pad(codes, (0, codes.shape[1] % 2))
    return codes[:, 0::2] | (codes[:, 1::2] << 4)

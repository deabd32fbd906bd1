"""Numbers of kinds that nothing here computes with, as such that everything does, on the way in.

Floats of 8 bits become bfloat16, which holds each of them exactly, or, where a scale stands beside them, the product
in float32 (or in the scale's own dtype): one scale for a tensor or for each of its rows, as compressed-tensors and
FBGEMM publish, or for each block, as DeepSeek does. Unsigned integers become wider signed ones.
"""

from __future__ import annotations

import math
from collections import Counter

from webapp.engine.errors import CheckpointRefused
from webapp.engine.lazy import Tensor, torch
from webapp.engine.weights.safetensors import LazyTensor, dtype_name, dtype_of

from .base import Opened

SMALL_FLOATS = (
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
)
WIDER = {
    **dict.fromkeys(SMALL_FLOATS, "bfloat16"),
    "uint16": "int32",
    "uint32": "int64",
    "uint64": "int64",
}
SCALES = ("weight_scale_inv", "weight_scale", "scale_weight")  # all of them are multiplied with
OF_ACTIVATIONS = (
    *("input_scale", "output_scale", "input_scale_ub", "scale_input", "input_zero_point", "output_zero_point"),
    *("k_scale", "v_scale", "q_scale"),
)
BLOCK = 128  # of DeepSeek's scales, where nothing says another
Block = tuple[int, int]


def widen(opened: Opened, filename: str, block: Block | None = None) -> int:
    """Puts the wider tensors into `opened`, in place, with a note; returns how many were scaled.

    `block` is the rows and columns of one scale, where a config tells it. Raises CheckpointRefused for a scale that
    does not fit its weight.
    """
    tensors, found, kinds = opened.tensors, dict(opened.tensors), Counter[str]()
    scaled = 0
    for name, tensor in tensors.items():
        path, _, own = name.rpartition(".")
        dot = f"{path}." if path else ""
        scale_name = next((f"{dot}{s}" for s in SCALES if own == "weight" and f"{dot}{s}" in tensors), None)
        integers = tensor.dtype == torch.int8 and f"{dot}weight_zero_point" not in tensors
        if scale_name is not None and (dtype_name(tensor.dtype) in SMALL_FLOATS or integers):
            found[name] = _scaled(name, tensor, scale_name, tensors[scale_name], filename, block)
            for beside in (*SCALES, *OF_ACTIVATIONS):
                found.pop(f"{dot}{beside}", None)
            scaled += 1
        elif dtype_name(tensor.dtype) in WIDER and name in found:
            found[name] = wider(name, tensor, filename)
        else:
            continue
        kinds[dtype_name(tensor.dtype)] += 1
    opened.tensors = found
    if kinds:
        told = ", ".join(f"{count} of {kind}" for kind, count in kinds.most_common())
        by = f", {scaled} of them times the scales that stand beside them" if scaled else ""
        opened.notes.append(f"Tensors were widened to numbers that can be computed with ({told}){by}.")
    return scaled


def scales_block(given: object, filename: str) -> Block | None:
    """`weight_block_size` of a config. Raises CheckpointRefused where it is something else than two numbers."""
    if given is None:
        return None
    if isinstance(given, list) and len(given) == 2 and all(type(n) is int and 0 < n < 10_000 for n in given):
        return given[0], given[1]
    raise CheckpointRefused(f"the weight_block_size of {filename} is not two numbers of rows and columns")


def wider(name: str, tensor: LazyTensor, filename: str) -> LazyTensor:
    """The tensor in the dtype that WIDER has for its own. Raises CheckpointRefused, once loaded, beyond 2^63."""
    dtype = dtype_of(WIDER[dtype_name(tensor.dtype)])

    def load() -> Tensor:
        value = tensor.load()
        if value.dtype == torch.uint64 and value.numel() and int(value.view(torch.int64).min()) < 0:
            raise CheckpointRefused(f"{name} in {filename} holds whole numbers beyond 2^63, which Pare does not take")
        return value.to(dtype)

    return LazyTensor(tensor.shape, dtype, load)


def _scaled(
    name: str, tensor: LazyTensor, scale_name: str, scale: LazyTensor, filename: str, block: Block | None
) -> LazyTensor:
    repeats = _repeats(tensor.shape, scale.shape, block)
    if repeats is None or dtype_name(scale.dtype) in (*SMALL_FLOATS[:-1], "int8") or not scale.dtype.is_floating_point:
        raise CheckpointRefused(
            f"{scale_name} in {filename} is {dtype_name(scale.dtype)} of shape {list(scale.shape)}; {name} of "
            f"{list(tensor.shape)} takes one float for the whole, for each row, or for each block of rows and columns"
        )
    dtype = scale.dtype if scale.dtype in (torch.float16, torch.bfloat16) else torch.float32

    def load() -> Tensor:
        factors = scale.load().float().reshape([size for size, _ in repeats])
        for axis, (_, times) in enumerate(repeats):
            if times > 1 and factors.shape[axis] > 1:
                factors = factors.repeat_interleave(times, axis).narrow(axis, 0, tensor.shape[axis])
        return tensor.load().float().mul_(factors).to(dtype)

    return LazyTensor(tensor.shape, dtype, load)


def _repeats(shape: tuple[int, ...], scale: tuple[int, ...], block: Block | None) -> list[tuple[int, int]] | None:
    """For each axis of the weight the scale's size and how many places one scale is for; None where they do not fit."""
    if math.prod(scale) == 1:
        return [(1, size) for size in shape]
    if len(scale) == 1 and shape and scale[0] == shape[0]:
        scale = (*scale, *(1 for _ in shape[1:]))
    if len(scale) != len(shape):
        return None
    told = dict(zip((len(shape) - 2, len(shape) - 1), block or (BLOCK, BLOCK), strict=True))
    found = []
    for axis, (size, scales) in enumerate(zip(shape, scale, strict=True)):
        wanted = told.get(axis, 1)
        if scales in (1, size):
            times = size if scales == 1 else 1
        elif -(-size // wanted) == scales:
            times = wanted
        elif block is None and size % scales == 0:
            times = size // scales
        else:
            return None
        found.append((scales, times))
    return found

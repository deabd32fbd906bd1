"""The integers of compressed-tensors, kept as they are: codes with scales, which is how Pare stores them too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from webapp.engine.errors import CheckpointRefused
from webapp.engine.lazy import Tensor, torch
from webapp.engine.math.quantizers import Grid
from webapp.engine.weights import Quantized, dtype_name, dtype_of
from webapp.engine.weights.held import FiledWeight
from webapp.engine.weights.safetensors import LazyTensor

from .stored_forms import MALFORMED

SCALES = ("float16", "bfloat16", "float32")
INTEGERS = ("pack-quantized", "int-quantized")
UNKNOWN_HERE = ("weight_g_idx", "weight_global_scale", "weight_packed_t")
Module = Mapping[str, LazyTensor]  # a module's tensors by their own names


def kept_integers(path: str, module: Module, scheme: Any, form: str, told: object, filename: str) -> FiledWeight | None:
    """The weight of a linear layer in its integers; None for one that is not stored in such a way here.

    `told` is the dtype that the config names for the model. Raises CheckpointRefused for parts that do not fit.
    """
    given, scale = scheme.weights, module["weight_scale"]
    bits, strategy = int(given.num_bits), str(getattr(given.strategy, "value", given.strategy))
    group = int(given.group_size or 0) if strategy == "group" else 0
    known = form in INTEGERS and str(getattr(given.type, "value", given.type)) == "int" and 2 <= bits <= 8
    if not known or strategy not in ("group", "channel") or dtype_name(scale.dtype) not in SCALES:
        return None
    if any(name in module for name in UNKNOWN_HERE) or (form == "pack-quantized" and "weight_zero_point" in module):
        return None
    if not given.symmetric and "weight_zero_point" not in module:
        return None
    shape = _shape(module, form)
    if shape is None or tuple(scale.shape) != (shape[0], math.ceil(shape[1] / group) if group else 1):
        return None
    dtype = dtype_of(told) if isinstance(told, str) and told in SCALES else scale.dtype

    def encoded() -> Quantized:
        zero = None if given.symmetric else _unsigned(module["weight_zero_point"].load(), bits).reshape(scale.shape)
        codes = _unsigned(_integers(module, form, bits, shape), bits)
        return Quantized(codes, Grid(bits, group, scale.load(), zero), shape, dtype)

    try:
        plan = encoded().plan
    except MALFORMED as error:
        raise CheckpointRefused(f"{path} in {filename} holds integers that cannot be read: {error}") from None

    def reader(suffix: str) -> Callable[[], Tensor]:
        return lambda: encoded().parts()[suffix]

    parts = {part.name: LazyTensor(part.shape, dtype_of(part.dtype), reader(part.name)) for part in plan.parts}
    return FiledWeight(parts, plan.meta, f"{path} in {filename}")


def _shape(module: Module, form: str) -> tuple[int, int] | None:
    """(rows, columns)."""
    if form == "int-quantized":
        found = module.get("weight")
        return (found.shape[0], found.shape[1]) if found is not None and len(found.shape) == 2 else None
    told, packed = module.get("weight_shape"), module.get("weight_packed")
    if told is None or packed is None or math.prod(told.shape) != 2 or len(packed.shape) != 2:
        return None
    rows, columns = (int(size) for size in told.load().reshape(-1))
    return (rows, columns) if packed.shape[0] == rows and 0 < columns <= 32 * packed.shape[1] else None


def _integers(module: Module, form: str, bits: int, shape: tuple[int, int]) -> Tensor:
    """int8 (rows, columns), zero in the middle."""
    if form == "int-quantized":
        return module["weight"].load()
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

    found: Tensor = unpack_from_int32(module["weight_packed"].load(), bits, torch.Size(shape))
    return found


def _unsigned(values: Tensor, bits: int) -> Tensor:
    """uint8 codes. Raises ValueError for integers that so many bits do not hold."""
    codes = values.to(torch.int16) + 2 ** (bits - 1)
    if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= 2**bits):
        raise ValueError(f"it has integers beyond {bits} bits")
    found: Tensor = codes.to(torch.uint8)
    return found

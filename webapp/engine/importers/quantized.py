"""The weights of a Hugging Face folder that is quantized already, as floats again: only when that was asked for.

Compressed-tensors (integers, packed or not, and 8-bit floats; unpacked by the library of that name) and 8-bit floats
with their scales, as DeepSeek and FBGEMM have them. One weight at a time; what rounding took away does not come back.

Numbers of kinds that nothing here computes with become such that everything does, also where nobody asks: floats of 8
bits bfloat16, which holds each of them exactly, or, where a scale stands beside them, the product in float32 (or in the
scale's own dtype): one scale for a tensor or for each of its rows, as compressed-tensors and FBGEMM publish, or for
each block, as DeepSeek does; unsigned integers wider signed ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from webapp.engine.errors import CheckpointRefused, quoted
from webapp.engine.lazy import Tensor, torch
from webapp.engine.weights.held import FiledWeight
from webapp.engine.weights.safetensors import LazyTensor, dtype_name, dtype_of

from .base import Opened
from .packed_integers import kept_integers

PARTS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")
SCALED = ("fp8", "fbgemm_fp8")  # methods whose scales are multiplied with, and no more
CLASSES = ("Linear", "Embedding")  # that a target may name instead of a layer
FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")
UPLOAD_INSTEAD = "upload the weights it was made from"
ASK = "ask for its weights to be dequantized (the box in the form, ?dequantize=1, --dequantize)"
Module = Mapping[str, LazyTensor]  # a module's tensors by their own names
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


def quantization_of(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """What config.json says of integers or 8-bit floats in the weights; None where it says nothing."""
    found = config.get("quantization_config") or config.get("compression_config")
    return None if not found else found if isinstance(found, dict) else {}


def turn_into_floats(opened: Opened, filename: str, asked: bool) -> None:
    """Puts lazily dequantized weights into `opened`, in place, and takes the quantization out of its config.

    Raises CheckpointRefused where that was not `asked` for, or the format is not one of those that are known here.
    """
    config = opened.config or {}
    about = quantization_of(config)
    if about is None:
        return
    method = str(about.get("quant_method", "unknown"))[:40]
    if method not in ("compressed-tensors", *SCALED):
        raise CheckpointRefused(
            f"{filename} is quantized already (quantization_config: {method}), in a form that Pare does not turn back; "
            f"{UPLOAD_INSTEAD}"
        )
    if not asked and method == "compressed-tensors" and _keep_integers(opened, about, filename):
        opened.config = {k: v for k, v in config.items() if k not in ("quantization_config", "compression_config")}
        return
    if not asked:
        raise CheckpointRefused(
            f"{filename} is quantized already (quantization_config: {method}); {UPLOAD_INSTEAD}, or upload it again "
            f"and {ASK}"
        )
    if method in SCALED:
        count = widen(opened, filename, scales_block(about.get("weight_block_size"), filename))
        if not count:
            raise CheckpointRefused(f"{filename} says that it is quantized, and no tensor of it has a weight_scale")
    else:
        count = _decompress(opened, about, filename)
    opened.config = {k: v for k, v in config.items() if k not in ("quantization_config", "compression_config")}
    opened.notes.append(
        f"{count} weights were dequantized from {method} as asked: they are the rounded values, as floats, and every "
        "figure compares with these, not with the model before it was quantized."
    )


def _keep_integers(opened: Opened, about: dict[str, Any], filename: str) -> bool:
    """Moves the weights into `opened.stored`, as they are; False, and nothing is moved, where one cannot be."""
    config, groups = opened.config or {}, _groups(about, filename)
    kept: dict[str, FiledWeight] = {}
    rest: dict[str, LazyTensor] = {}
    for path, module in _modules(opened).items():
        dot = f"{path}." if path else ""
        scheme = _scheme(path, groups) if "weight_scale" in module else None
        if "weight_scale" in module:
            told = config.get("dtype") or config.get("torch_dtype")
            weight = scheme and kept_integers(path, module, scheme, _form(scheme, about), told, filename)
            if not weight:
                return False
            kept[f"{dot}weight"] = weight
        own = () if scheme is None else (*PARTS, *OF_ACTIVATIONS, "weight")
        rest |= {dot + name: tensor for name, tensor in module.items() if name not in own}
    if not kept:
        return False
    opened.tensors, opened.stored = rest, kept
    opened.notes.append(
        f"{len(kept):,} weights stay in the integers of compressed-tensors that they came in, and every figure "
        "compares with these. Ask for them to be dequantized to have floats."
    )
    return True


def _modules(opened: Opened) -> dict[str, dict[str, LazyTensor]]:
    """The tensors of each by their own names."""
    modules: dict[str, dict[str, LazyTensor]] = {}
    for name, tensor in opened.tensors.items():
        path, _, own = name.rpartition(".")
        modules.setdefault(path, {})[own] = tensor
    return modules


def _scheme(path: str, groups: list[Any]) -> Any:
    """How a module is quantized; None where the groups do not name it."""
    return next((g for g in groups if path in g.targets), None) or next(
        (g for g in groups if any(target in CLASSES for target in g.targets)),
        groups[0] if len(groups) == 1 else None,
    )


def _decompress(opened: Opened, about: dict[str, Any], filename: str) -> int:
    """Puts the weights of compressed-tensors into `opened`, lazily; returns how many."""
    modules = _modules(opened)
    groups = _groups(about, filename)
    found: dict[str, LazyTensor] = {}
    count = 0
    for path, module in modules.items():
        dot = f"{path}." if path else ""
        found |= {dot + own: tensor for own, tensor in module.items()}
        if "weight_scale" not in module:
            continue
        scheme = _scheme(path, groups)
        if scheme is None:
            raise CheckpointRefused(f"the quantization_config of {filename} does not name {path}; {UPLOAD_INSTEAD}")
        found[f"{dot}weight"] = _decompressed(path, module, scheme, _form(scheme, about), filename)
        count += 1
    if not count:
        raise CheckpointRefused(f"{filename} says that it is quantized, and no tensor of it has a weight_scale")
    opened.tensors = {
        name: tensor for name, tensor in found.items() if name.rpartition(".")[2] not in (*PARTS, *OF_ACTIVATIONS)
    }
    return count


def _groups(about: dict[str, Any], filename: str) -> list[Any]:
    """The ways in which layers are quantized. Raises CheckpointRefused for one that is not turned back here."""
    from compressed_tensors.quantization import QuantizationConfig
    from pydantic import ValidationError

    if about.get("sparsity_config") or about.get("transform_config"):
        raise CheckpointRefused(f"{filename} is sparse or rotated as well as quantized; {UPLOAD_INSTEAD}")
    try:
        every = QuantizationConfig.model_validate(about).config_groups.values()
    except (ValidationError, ValueError, TypeError, AttributeError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise CheckpointRefused(
            f"the quantization_config of {filename} is not one of compressed-tensors: {first}"
        ) from error
    groups = [group for group in every if getattr(group, "weights", None) is not None]
    if unknown := {_form(group, about) for group in groups} - set(FORMATS):
        known = ", ".join(FORMATS)
        raise CheckpointRefused(
            f"{filename} is quantized as {quoted(sorted(unknown)[0])}; Pare turns back {known}; {UPLOAD_INSTEAD}"
        )
    if len(groups) > 1 and any(target.startswith("re:") for group in groups for target in group.targets):
        raise CheckpointRefused(
            f"{filename} is quantized in several ways, told apart by patterns of names, which Pare does not follow; "
            f"{UPLOAD_INSTEAD}"
        )
    return groups


def _form(group: Any, about: Mapping[str, Any]) -> str:
    return str(getattr(group.format, "value", group.format) or about.get("format"))[:40]


def _decompressed(path: str, module: Module, scheme: Any, form: str, filename: str) -> LazyTensor:
    scale = module["weight_scale"]
    if form == "pack-quantized":
        shape = _packed_shape(path, module, int(scheme.weights.num_bits), filename)
    elif "weight" not in module or len(module["weight"].shape) != 2:
        raise CheckpointRefused(f"{path} in {filename} has a weight_scale and no matrix that it scales")
    else:
        shape = module["weight"].shape
    if not scale.dtype.is_floating_point or scale.dtype.itemsize < 2:
        raise CheckpointRefused(f"{path}.weight_scale in {filename} is {scale.dtype}; scales are floats")

    def load() -> Tensor:
        from compressed_tensors.compressors.base import BaseCompressor

        given = {name: tensor.load() for name, tensor in module.items() if name in (*PARTS, "weight")}
        compressor = BaseCompressor.get_value_from_registry(form)
        value: Tensor = compressor.decompress(given, scheme)["weight"]
        return value.to(scale.dtype)

    return LazyTensor(tuple(shape), scale.dtype, _named(load, path, tuple(shape), filename))


def _packed_shape(path: str, module: Module, bits: int, filename: str) -> tuple[int, int]:
    """(rows, columns) by weight_shape, held against the bytes that are there: the header may lie."""
    told = module.get("weight_shape")
    packed = module.get("weight_packed")
    if told is None or packed is None or math.prod(told.shape) != 2 or len(packed.shape) != 2:
        raise CheckpointRefused(f"{path} in {filename} lacks weight_packed or weight_shape, which pack-quantized has")
    rows, columns = (int(size) for size in told.load().reshape(-1))
    per_word = 32 // bits
    if packed.shape != (rows, -(-columns // per_word)) or columns < 1:
        raise CheckpointRefused(
            f"{path}.weight_packed in {filename} has shape {list(packed.shape)}; {rows} rows of {columns} values of "
            f"{bits} bits take [{rows}, {-(-columns // per_word)}]"
        )
    return rows, columns


def _named(load: Callable[[], Tensor], path: str, shape: tuple[int, ...], filename: str) -> Callable[[], Tensor]:
    """`load`, whose errors on parts that do not fit each other are a sentence."""

    def checked() -> Tensor:
        try:
            value = load()
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError, KeyError) as error:
            first = (str(error).splitlines() or [""])[0]
            raise CheckpointRefused(f"{path} in {filename} cannot be dequantized: {first}") from error
        if tuple(value.shape) != shape:
            raise CheckpointRefused(f"{path} in {filename} gives {list(value.shape)} and should give {list(shape)}")
        return value

    return checked

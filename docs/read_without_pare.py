"""Reads a file that Pare made with NumPy alone: python read_without_pare.py model.safetensors weights.npz

Where there are blocks of llama.cpp's in it, also with gguf, which is NumPy too.
The whole format in one page (docs/the-file-format.md); copy it into whatever has to read such a file.
"""

import json
import struct
import sys

import numpy as np

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}


def stored(path):
    """(metadata, name -> array) of any safetensors file; floats of 16 bits widened to float32."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    metadata = header.pop("__metadata__", {})
    arrays = {}
    for name, about in header.items():
        raw = data[slice(*about["data_offsets"])]
        if about["dtype"] == "BF16":
            array = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
        else:
            array = np.frombuffer(raw, DTYPES[about["dtype"]])
            array = array.astype("f4") if about["dtype"] == "F16" else array
        arrays[name] = array.reshape(about["shape"])
    return metadata, arrays


def bits(packed, count, width):
    """`count` unsigned integers of `width` bits, lowest bit first."""
    spread = np.unpackbits(packed, count=count * width, bitorder="little").reshape(count, width)
    return (spread << np.arange(width, dtype=np.uint8)).sum(1, dtype=np.int64)


def widened(per_group, group, columns):
    """(rows, groups) -> (rows, columns): what a group has in common, beside each of its values."""
    return per_group.repeat(group or columns, axis=1)[:, :columns]


def filled(mask, basis, mix, shape, transposed):
    """Rows of the basis where the mask's bit is 1, elsewhere what `mix` makes of them; of a transposed one columns."""
    if transposed:
        outputs_first = (shape[1], shape[0], *shape[2:])
        return filled(mask, basis.swapaxes(0, 1), mix.swapaxes(0, 1), outputs_first, False).swapaxes(0, 1)
    rows = basis.reshape(len(basis), -1)
    pivots = bits(mask, shape[0], 1).astype(bool)
    whole = np.empty((shape[0], rows.shape[1]), rows.dtype)
    whole[pivots], whole[~pivots] = rows, mix.reshape(-1, len(rows)) @ rows
    return whole.reshape(shape)


def inputs_first(matrix, about):
    """(outputs, inputs x kernel), group below group, as it is stored: (inputs, outputs of a group, *kernel)."""
    shape, groups = about["shape"], about.get("groups", 1)
    inputs = shape[1] if about.get("stacked") else shape[0] // groups
    return matrix.reshape(groups, len(matrix) // groups, inputs, -1).swapaxes(1, 2)


def decode(arrays, name, about):
    """One weight, put together from its parts."""
    shape = about["shape"]
    if about["kind"] == "dense":
        return arrays[name]
    if about["kind"] == "factored":
        return decode(arrays, name + ".left", about["left"]) @ decode(arrays, name + ".right", about["right"])
    if about["kind"] == "compensated":
        base, down, up = (decode(arrays, f"{name}.{factor}", about[factor]) for factor in ("base", "down", "up"))
        letters = "ir...,ro...->io..." if about.get("transposed") else "ri...,or...->oi..."
        return base + np.einsum(letters, down, up)
    if about["kind"] == "pivoted":
        basis, mix = (decode(arrays, f"{name}.{factor}", about[factor]) for factor in ("basis", "mix"))
        return filled(arrays[name + ".pivots"], basis, mix, shape, about.get("transposed"))
    if about["kind"] == "factored_conv":
        whole, *later = (decode(arrays, f"{name}.{n}", about[n]) for n in sorted(filter(str.isdigit, about), key=int))
        letters = "ro...,ir...->io..." if about.get("transposed") else "or...,ri...->oi..."
        for kernel in later:
            whole = np.einsum(letters, kernel, whole)
        return whole
    if about["kind"] == "ggml":
        import gguf

        matrix = gguf.dequantize(arrays[name + ".blocks"], gguf.GGMLQuantizationType[about["type"]])
        return (inputs_first(matrix, about) if about.get("transposed") else matrix).reshape(shape)
    mask = bits(arrays[name + ".mask"], int(np.prod(shape)), 1).astype(bool) if name + ".mask" in arrays else None
    if about["kind"] == "sparse":
        values = np.zeros(len(mask), arrays[name + ".values"].dtype)
        values[mask] = arrays[name + ".values"]
        return values.reshape(shape)
    scale, width = arrays[name + ".scale"], about["bits"]  # (rows, groups)
    levels = arrays.get(name + ".levels", np.arange(2**width))
    if name + ".zero_point" in arrays:
        zero = bits(arrays[name + ".zero_point"], scale.size, width).reshape(scale.shape)
    else:
        middle = 2 ** (width - 1) if name + ".levels" not in arrays else np.flatnonzero(levels == 0)[0]
        zero = np.full(scale.shape, middle)
    group, columns = about["group"], int(np.prod(shape)) // len(scale)
    zero = widened(zero, group, columns)
    codes = zero.reshape(-1).copy()
    chosen = np.ones(len(codes), bool) if mask is None else mask
    codes[chosen] = bits(arrays[name + ".codes"], int(chosen.sum()), width)
    matrix = (levels[codes.reshape(zero.shape)] - levels[zero]) * widened(scale, group, columns)
    return (inputs_first(matrix, about) if about.get("transposed") else matrix).reshape(shape).astype("f4")


def read(path):
    """Every weight by its name, tied ones under each of their names."""
    metadata, arrays = stored(path)
    pare = json.loads(metadata["pare"])
    parts = tuple(name + "." for name in pare["weights"])
    weights = {name: array for name, array in arrays.items() if not name.startswith(parts)}
    weights |= {name: decode(arrays, name, about) for name, about in pare["weights"].items()}
    return weights | {alias: weights[name] for alias, name in pare["tied"].items()}


if __name__ == "__main__":
    np.savez(sys.argv[2], **read(sys.argv[1]))

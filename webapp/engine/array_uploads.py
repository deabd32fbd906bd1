"""An .npz of arrays: x and y, or x_train and y_train beside x_test and y_test. Nothing in it is unpickled."""

from __future__ import annotations

import math
import tokenize
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from .datasets import Arrays
from .errors import DatasetRefused, is_text, quoted
from .formats import Accepted
from .formats.archive import damage_named, members
from .safetensors_file import MOST_AXES

EVALUATION_NAMES = ("test", "eval", "evaluation", "val", "valid", "validation")
NO_HEADER = (TypeError, RecursionError, MemoryError, OverflowError, SyntaxError, tokenize.TokenError)
LABEL_LIMIT = 100_000
ACCEPTS = Accepted(
    (".npz",),
    "NumPy arrays",
    "x, with y as labels; x_train and y_train beside x_test and y_test keep their own split.",
)
Array = np.ndarray[Any, np.dtype[Any]]


def read_arrays(upload: Path, filename: str, notes: list[str]) -> tuple[Arrays, Arrays | None, tuple[str, ...] | None]:
    """(all of it or the part that evaluates, the part given to train, class names). Raises DatasetRefused."""
    archive, found = members(upload, filename, DatasetRefused)
    with archive:
        names = {name.removesuffix(".npy"): info for name, info in found.items() if name.endswith(".npy")}
        if not names:
            raise DatasetRefused(
                f"{filename} is a zip without NumPy arrays; save one with np.savez(path, x=..., y=...)"
            )
        parts = _parts(names, filename)
        arrays = {part: _pair(archive, names, pair, filename) for part, pair in parts.items()}
    if unused := sorted(set(names) - {name for pair in parts.values() for name in pair}):
        notes.append(f"Not used: {', '.join(unused[:8])}.")
    labels = _name_labels(arrays, filename, notes)
    halves = {part: _half(x, y, parts[part], filename) for part, (x, y) in arrays.items()}
    evaluation, training = halves["evaluation"], halves.get("training")
    if training is not None and training.x.shape[1:] != evaluation.x.shape[1:]:
        raise DatasetRefused(
            f"{filename} has training samples of shape {list(training.x.shape[1:])} "
            f"and evaluation samples of shape {list(evaluation.x.shape[1:])}; they must be alike"
        )
    if evaluation.x.dtype == torch.uint8:
        notes.append("x holds bytes (0 to 255), which the model is given as they are, not scaled to 0 to 1.")
    return evaluation, training, labels


def _parts(names: Mapping[str, zipfile.ZipInfo], filename: str) -> dict[str, tuple[str, str]]:
    """ "evaluation" (and "training") -> the names of its x and y."""
    evaluation = next((end for end in EVALUATION_NAMES if f"x_{end}" in names), None)
    if "x_train" in names and evaluation:
        return {"evaluation": (f"x_{evaluation}", f"y_{evaluation}"), "training": ("x_train", "y_train")}
    for x, y in (("x", "y"), ("X", "y"), ("x_train", "y_train"), (f"x_{evaluation}", f"y_{evaluation}")):
        if x in names:
            return {"evaluation": (x, y)}
    raise DatasetRefused(
        f"{filename} holds {', '.join(sorted(names)[:6])}; it needs x (and y, for labels), or x_train and x_test"
    )


def _pair(
    archive: zipfile.ZipFile, names: Mapping[str, zipfile.ZipInfo], pair: tuple[str, str], filename: str
) -> tuple[Array, Array | None]:
    x, y = (_array(archive, names[name], name, filename) if name in names else None for name in pair)
    assert x is not None
    if x.ndim < 2 or not x.size:
        raise DatasetRefused(f"{pair[0]} in {filename} has shape {list(x.shape)}; it needs samples first: (N, ...)")
    if y is not None and len(y) != len(x):
        raise DatasetRefused(f"{filename} has {len(x)} samples in {pair[0]} and {len(y)} labels in {pair[1]}")
    return x, y


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, filename: str) -> Array:
    """One array, whose declared shape is held against its bytes before memory is taken for it."""
    with damage_named(name, DatasetRefused):
        with archive.open(info) as file:
            dtype, shape, header_bytes = _header(file)
        if len(shape) > MOST_AXES or any(type(size) is not int or not 0 <= size < 2**63 for size in shape):
            raise DatasetRefused(f"{name} in {filename} declares the shape {quoted(shape)}, which no array has")
        declared = math.prod(shape)
        if dtype.hasobject:
            raise DatasetRefused(f"{name} in {filename} holds Python objects (a pickle), which are never read")
        if declared * dtype.itemsize != info.file_size - header_bytes:
            raise DatasetRefused(
                f"{name} in {filename} declares {declared * dtype.itemsize} bytes "
                f"and {info.file_size - header_bytes} are there"
            )
        with archive.open(info) as file:
            array: Array = np.lib.format.read_array(file, allow_pickle=False)
    return array if array.ndim else array.reshape(1)


def _header(file: IO[bytes]) -> tuple[np.dtype[Any], tuple[Any, ...], int]:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError("its columns have names; save plain arrays")
    try:
        shape, _, dtype = readers[version](file)
    except NO_HEADER as error:
        raise ValueError("it has no header that describes an array") from error
    return dtype, shape, file.tell()


def _half(x: Array, y: Array | None, names: tuple[str, str], filename: str) -> Arrays:
    if x.dtype.kind not in "fiub":
        raise DatasetRefused(f"{names[0]} in {filename} is of type {x.dtype}; it must hold real numbers")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).sum())
        first = int(np.argmax(~np.isfinite(x).reshape(len(x), -1).all(1)))
        raise DatasetRefused(
            f"{names[0]} in {filename} holds {bad} NaN or infinite values, the first in sample {first}"
        )
    with np.errstate(over="ignore"):  # told with its sentence below
        values = x if x.dtype == np.uint8 else x.astype(np.float32)
    if not np.isfinite(values).all():
        raise DatasetRefused(f"{names[0]} in {filename} holds values that are too large for float32")
    labels = torch.from_numpy(np.ascontiguousarray(y, dtype=np.int64)) if y is not None else None
    return Arrays(torch.from_numpy(np.ascontiguousarray(values)), labels)


def _name_labels(
    arrays: dict[str, tuple[Array, Array | None]], filename: str, notes: list[str]
) -> tuple[str, ...] | None:
    """Turns every y into class indices in place. Returns the classes' names, or None without labels."""
    labelled = {part: y for part, (_, y) in arrays.items() if y is not None}
    if not labelled:
        return None
    if len(labelled) < len(arrays):
        raise DatasetRefused(f"{filename} has labels for one part only; give y for both, or for none")
    flat = {part: _flat(y, filename, notes) for part, y in labelled.items()}
    if any(y.dtype.kind in "US" for y in flat.values()):
        try:
            names = sorted({str(label) for y in flat.values() for label in np.unique(y.astype(str))})
        except (ValueError, SystemError) as error:  # four bytes that are no character
            raise DatasetRefused(f"y in {filename} holds labels that are no text") from error
        if odd := next((name for name in names if not is_text(name) or "\0" in name), None):
            raise DatasetRefused(f"y in {filename} holds the label {quoted(odd)}, which is no text")
        flat = {part: np.searchsorted(np.array(names), y.astype(str)) for part, y in flat.items()}
    else:
        low, high = min(int(y.min()) for y in flat.values()), max(int(y.max()) for y in flat.values())
        if low < 0 or high >= LABEL_LIMIT:
            raise DatasetRefused(f"y in {filename} runs from {low} to {high}; labels are class numbers from 0 up")
        names = [str(index) for index in range(high + 1)]
    for part, y in flat.items():
        arrays[part] = (arrays[part][0], y)
    return tuple(names)


def _flat(y: Array, filename: str, notes: list[str]) -> Array:
    """(N,) class numbers or names, from (N,), (N, 1) or one-hot (N, C)."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and y.dtype.kind in "fiub" and set(np.unique(y)) <= {0, 1} and (y.sum(1) == 1).all():
        notes.append("y was one-hot.")
        y = y.argmax(1)
    if y.ndim != 1 or y.dtype.kind not in "fiubUS":
        raise DatasetRefused(f"y in {filename} has shape {list(y.shape)} of {y.dtype}; it needs one label per sample")
    if y.dtype.kind == "f" and not (np.isfinite(y).all() and (y == np.floor(y)).all()):
        raise DatasetRefused(f"y in {filename} holds fractions; labels are class numbers from 0 up")
    return y if y.dtype.kind in "US" else y.astype(np.int64)

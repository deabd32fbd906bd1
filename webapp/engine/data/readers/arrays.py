"""An .npz of arrays: x and y (classes, masks or numbers), or x_train and y_train beside x_test and y_test.

Nothing in it is unpickled.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from webapp.engine.archive import damage_named, members
from webapp.engine.data.datasets import Arrays
from webapp.engine.errors import DatasetRefused, is_text, quoted
from webapp.engine.lazy import torch
from webapp.engine.plugins import Accepted
from webapp.engine.weights.safetensors import MOST_AXES

EVALUATION_NAMES = ("test", "eval", "evaluation", "val", "valid", "validation")
NO_HEADER = (TypeError, RecursionError, MemoryError, OverflowError, SyntaxError, tokenize.TokenError)
LABEL_LIMIT = 100_000
MOST_MASKED = 1000  # classes of a mask; what goes beyond are amounts
MOST_BESIDE_VOID = 254  # the largest class of a mask in which 255 is no class
VOID = -1  # of a mask: not evaluated
ACCEPTS = Accepted(
    (".npz",),
    "NumPy arrays",
    "x, perhaps with y: labels, masks or numbers; x_train and y_train beside x_test and y_test keep their own split.",
)
Array = np.ndarray[Any, np.dtype[Any]]


def read_arrays(upload: Path, filename: str, notes: list[str]) -> tuple[Arrays, Arrays | None, tuple[str, ...] | None]:
    """(all of it or the evaluation split, the part given to train, class names). Raises DatasetRefused."""
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
    labels = _read_targets(arrays, filename, notes)
    splits = {part: _samples(x, y, parts[part], filename) for part, (x, y) in arrays.items()}
    evaluation, training = splits["evaluation"], splits.get("training")
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
        f"{filename} holds {', '.join(sorted(names)[:6])}; it needs x (and perhaps y), or x_train and x_test"
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


def _samples(x: Array, y: Array | None, names: tuple[str, str], filename: str) -> Arrays:
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
    targets = torch.from_numpy(np.ascontiguousarray(y)) if y is not None else None
    return Arrays(torch.from_numpy(np.ascontiguousarray(values)), targets)


def _read_targets(
    arrays: dict[str, tuple[Array, Array | None]], filename: str, notes: list[str]
) -> tuple[str, ...] | None:
    """Turns every y in place into class numbers (N,), masks of them, or floats. Returns the classes' names."""
    given = {part: y for part, (_, y) in arrays.items() if y is not None}
    if not given:
        return None
    if len(given) < len(arrays):
        raise DatasetRefused(f"{filename} has labels for one part only; give y for both, or for none")
    told = {part: _plain(y, filename) for part, y in given.items()}
    if len({(y.shape[1:], y.dtype.kind in "US") for y in told.values()}) > 1:
        shapes = " and ".join(f"{list(y.shape[1:])} of {y.dtype}" for y in told.values())
        raise DatasetRefused(f"{filename} has y of {shapes} in its two parts; they must be alike")
    if all(map(_one_hot, told.values())):
        notes.append("y was one-hot.")
        told = {part: y.argmax(1) for part, y in told.items()}
    found, names = _classes(told, filename, notes)
    for part, y in found.items():
        arrays[part] = (arrays[part][0], y)
    return names


def _plain(y: Array, filename: str) -> Array:
    """Without an axis of one: (N, 1) is (N,), and masks (N, 1, H, W) are (N, H, W)."""
    if y.dtype.kind not in "fiubUS" or (y.dtype.kind in "US" and y.reshape(len(y), -1).shape[1] != 1):
        raise DatasetRefused(
            f"y in {filename} has shape {list(y.shape)} of {y.dtype}; each sample needs a label, a mask or numbers"
        )
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        first = int(np.argmax(~np.isfinite(y).reshape(len(y), -1).all(1)))
        raise DatasetRefused(
            f"y in {filename} holds {int((~np.isfinite(y)).sum())} NaN or infinite values, the first in sample {first}"
        )
    squeezed = y.ndim > 1 and y.shape[1] == 1 and (y.ndim == 2 or y.dtype.kind in "iub")
    return y[:, 0] if squeezed else y


def _one_hot(y: Array) -> bool:
    return y.ndim == 2 and y.dtype.kind in "fiub" and set(np.unique(y)) <= {0, 1} and bool((y.sum(1) == 1).all())


def _classes(
    told: dict[str, Array], filename: str, notes: list[str]
) -> tuple[dict[str, Array], tuple[str, ...] | None]:
    """(y of each part, the classes' names); y is of floats, and there are no names, where it holds no class numbers."""
    first = next(iter(told.values()))
    if first.dtype.kind in "US":
        try:
            names = sorted({str(label) for y in told.values() for label in np.unique(y.astype(str))})
        except (ValueError, SystemError) as error:  # four bytes that are no character
            raise DatasetRefused(f"y in {filename} holds labels that are no text") from error
        if odd := next((name for name in names if not is_text(name) or "\0" in name), None):
            raise DatasetRefused(f"y in {filename} holds the label {quoted(odd)}, which is no text")
        return {part: np.searchsorted(np.array(names), y.astype(str)) for part, y in told.items()}, tuple(names)
    whole = all(y.dtype.kind in "iub" or (y.ndim == 1 and (y == np.floor(y)).all()) for y in told.values())
    if whole and first.ndim != 2:
        numbers = {part: y.astype(np.int64) for part, y in told.items()}
        if first.ndim > 2:
            numbers = {part: _mask(y, notes) for part, y in numbers.items()}
        low, high = min(int(y.min()) for y in numbers.values()), max(int(y.max()) for y in numbers.values())
        if low >= (0 if first.ndim == 1 else VOID) and 0 <= high < (LABEL_LIMIT if first.ndim == 1 else MOST_MASKED):
            if first.dtype.kind == "f":
                notes.append(
                    "y holds whole numbers, which are taken as classes; if they are amounts, set the checkpoint's task "
                    "to regression."
                )
            return numbers, tuple(str(index) for index in range(high + 1))
    wide = {part: y if y.dtype in (np.float16, np.float32) else y.astype(np.float64) for part, y in told.items()}
    return {part: y.astype(np.float32) if y.dtype == np.float16 else y for part, y in wide.items()}, None


def _mask(y: Array, notes: list[str]) -> Array:
    """A mask's class numbers; where nothing is to be evaluated (255, or a negative number) it becomes -1."""
    values = np.unique(y)
    if set(values) == {0, 255}:
        notes.append("y holds masks of 0 and 255, read as the classes 0 and 1.")
        return y // 255
    if len(values) > 1 and (values[0] < 0 or (values[-1] == 255 and values[-2] < MOST_BESIDE_VOID)):
        notes.append("Where y is negative or 255 nothing is evaluated.")
        return np.where((y < 0) | (y == 255), VOID, y)
    return y

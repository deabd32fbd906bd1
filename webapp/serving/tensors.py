"""From what a request holds to the arrays that a model takes; what does not fit its signature is named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from webapp.engine.exporters.onnx.signature import TensorSignature

from .errors import Refused

Array = np.ndarray[Any, Any]
WHOLE = {"attention_mask": 1, "token_type_ids": 0}  # inputs that may be left out: of these values everywhere
KINDS = {"b": "true or false", "i": "whole numbers", "u": "whole numbers", "f": "numbers"}
CASTS = {"f": "iuf", "i": "iu", "u": "iu", "b": "b"}  # what may be given for a kind


def required(inputs: Iterable[TensorSignature]) -> list[str]:
    return [given.name for given in inputs if given.name not in WHOLE]


def array_of(value: Any, wanted: TensorSignature) -> Array:
    """Nested lists as an array of the input's dtype. Raises Refused."""
    try:
        found = np.asarray(value)
    except ValueError:
        raise Refused(f"The input {wanted.name} is ragged: its rows are not of one length.", wanted.name) from None
    kind = np.dtype(wanted.dtype).kind
    if found.dtype.kind not in CASTS[kind] and found.size:
        what = {"O": "null or mixed values", "U": "text", "f": "numbers with a fraction"}.get(found.dtype.kind, "")
        what = what or KINDS.get(found.dtype.kind, str(found.dtype))
        raise Refused(f"The input {wanted.name} takes {wanted.dtype}; got {what}.", wanted.name)
    if kind in "iu" and found.size:
        low, high = np.iinfo(wanted.dtype).min, np.iinfo(wanted.dtype).max
        if found.min() < low or found.max() > high:
            raise Refused(f"The input {wanted.name} takes {wanted.dtype}, {low} to {high}.", wanted.name)
    return found.astype(wanted.dtype)


def checked(given: Mapping[str, Array], inputs: Iterable[TensorSignature]) -> dict[str, Array]:
    """The arrays of all inputs, those that may be left out filled in. Raises Refused for names and shapes."""
    wanted = {each.name: each for each in inputs}
    for name in given:
        if name not in wanted:
            raise Refused(f"There is no input {name[:80]!r}; the model takes {', '.join(wanted)}.", name[:80])
    for name in required(wanted.values()):
        if name not in given:
            raise Refused(f"The input {name} is missing; the model takes {', '.join(wanted)}.", name)
    feeds, sizes = dict(given), dict[str, tuple[str, int]]()
    first = feeds[required(wanted.values())[0]]
    for name in WHOLE.keys() & wanted.keys() - feeds.keys():
        feeds[name] = np.full(first.shape, WHOLE[name], wanted[name].dtype)
    for name, array in feeds.items():
        _check_shape(name, array.shape, wanted[name].shape, sizes)
    return feeds


def _check_shape(
    name: str, found: tuple[int, ...], wanted: tuple[int | str, ...], sizes: dict[str, tuple[str, int]]
) -> None:
    fits = len(found) == len(wanted) and all(
        isinstance(want, str) or want == have for want, have in zip(wanted, found, strict=False)
    )
    if not fits or 0 in found:
        expected = f"[{', '.join(map(str, wanted))}]"
        raise Refused(f"The input {name} has shape {list(found)}; expected {expected}.", name)
    for axis, size in zip(wanted, found, strict=True):
        if isinstance(axis, str):
            other, same = sizes.setdefault(axis, (name, size))
            if same != size:
                raise Refused(f"The inputs {other} and {name} differ in {axis}: {same} and {size}.", name)

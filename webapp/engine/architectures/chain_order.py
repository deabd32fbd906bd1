"""The order of a chain's layers, where the file does not keep it.

A state dict keeps the order in which the layers were made; a safetensors file is sorted by name, so that conv10 comes
before conv2, and bn1 before conv1. Then the numbers in the names are asked first, and after them the shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from webapp.engine.facts import TensorFacts

Shapes = Mapping[str, tuple[int, ...]]
MOST_LAYERS = 200  # of a chain; the experts of a mixture are 100,000 matrices of equal shape
SEARCH_LIMIT = 20_000  # steps; a chain of ten layers of equal width has more orders than anyone can tell apart


def in_chain(kinds: Mapping[str, str], tensors: Mapping[str, TensorFacts]) -> list[str] | None:
    """The module paths in an order in which each layer takes what the one before gives; None if there is none.

    `kinds` has "conv2d", "linear" or "batch_norm" per path. Convolutions come before linear layers, a norm right after
    the layer whose outputs it norms. Where only shapes could tell and they allow two orders, the answer is None.
    """
    given = list(kinds)
    if len(given) > MOST_LAYERS:
        return None
    shapes = {path: tensors[f"{path}.{_main(kinds[path])}"].shape for path in kinds}
    if given != sorted(given) and _fits(given, kinds, shapes):
        return given
    layers = [path for path in given if kinds[path] != "batch_norm"]
    norms = sorted((path for path in given if kinds[path] == "batch_norm"), key=natural)
    by_name = sorted(layers, key=lambda path: (kinds[path] == "linear", natural(path)))
    for order in (by_name, _only_order(layers, kinds, shapes)):
        placed = _with_norms(order, norms, shapes) if order else None
        if placed and _fits(placed, kinds, shapes):
            return placed
    return None


def numbered(order: list[str]) -> bool:
    """Whether these are the names that nn.Sequential gives: it runs its layers in the order of their numbers."""
    return all(path.isdecimal() for path in order) and order == sorted(order, key=int)


def _main(kind: str) -> str:
    return "running_mean" if kind == "batch_norm" else "weight"


def natural(name: str) -> list[tuple[int, int, str]]:
    """A sort key by which fc2 comes before fc10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _fits(order: list[str], kinds: Mapping[str, str], shapes: Shapes) -> bool:
    width, previous = 0, ""
    for path in order:
        shape = shapes[path]
        if kinds[path] == "batch_norm":
            if shape != (width,):
                return False
            continue
        if previous and not _follows(previous, path, kinds, shapes):
            return False
        width, previous = shape[0], path
    return bool(previous) and kinds[previous] == "linear"


def _follows(before: str, after: str, kinds: Mapping[str, str], shapes: Shapes) -> bool:
    width, inputs = shapes[before][0], shapes[after][1]
    if kinds[before] == kinds[after]:
        return inputs == width
    return kinds[before] == "conv2d" and inputs % max(width, 1) == 0  # flattened: (B, C, H, W) -> (B, C * H * W)


def _only_order(layers: list[str], kinds: Mapping[str, str], shapes: Shapes) -> list[str] | None:
    """The one order that the shapes allow, convolutions first; None if there is none, or more than one."""
    steps = 0

    def orders(path: list[str], left: set[str]) -> Iterator[list[str]]:
        nonlocal steps
        steps += 1
        if not left:
            yield path
        if steps > SEARCH_LIMIT:
            return
        convs_left = any(kinds[name] == "conv2d" for name in left)
        for name in sorted(left):
            if convs_left and kinds[name] == "linear":
                continue
            if not path or _follows(path[-1], name, kinds, shapes):
                yield from orders([*path, name], left - {name})

    found: list[list[str]] = []
    for order in orders([], set(layers)):
        found.append(order)
        if len(found) > 1:
            return None
    return found[0] if found and steps <= SEARCH_LIMIT else None


def _with_norms(order: list[str], norms: list[str], shapes: Shapes) -> list[str] | None:
    """Each norm after a layer of its width: one with the same numbers (conv1, bn1), the one numbered just before it
    (features.0, features.1), or the first that has none yet."""
    after: dict[str, str] = {}
    for norm in norms:
        free = [path for path in order if path not in after and shapes[path][0] == shapes[norm][0]]
        numbers = re.findall(r"\d+", norm)
        one_less = [*numbers[:-1], str(int(numbers[-1]) - 1)] if numbers else []
        same = [path for path in free if re.findall(r"\d+", path) == numbers and numbers]
        before = [path for path in free if re.findall(r"\d+", path) == one_less and numbers]
        if not free:
            return None
        after[(same or before or free)[0]] = norm
    return [name for path in order for name in (path, after.get(path)) if name is not None]

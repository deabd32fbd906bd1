"""A module that is a list of steps, one after the other: what plain CNNs and chains of linear layers are built from.

A step is {"op": NAME, ...}; a safetensors file may carry such a list in its metadata, under `pare_architecture`:

    {"family": "cnn", "input": [1, 8, 8], "steps": [
        {"op": "conv2d", "name": "features.conv1", "stride": 1, "padding": 1}, {"op": "relu"},
        {"op": "max_pool2d", "size": 2}, {"op": "flatten"}, {"op": "linear", "name": "classifier.fc1"}]}
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from webapp.engine.errors import CheckpointRefused, quoted
from webapp.engine.facts import TensorFacts

from .program.module import put

Step = dict[str, Any]

PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "flatten": lambda x: x.flatten(1),  # (B, ...) -> (B, prod)
    "global_avg_pool": lambda x: x.mean(tuple(range(2, x.ndim))),  # (B, C, H, W) -> (B, C)
    "identity": lambda x: x,  # dropout, for one
}
POOLS: dict[str, Callable[..., Tensor]] = {
    "max_pool2d": functional.max_pool2d,
    "avg_pool2d": functional.avg_pool2d,
}
WITH_TENSORS = ("linear", "conv2d", "batch_norm")
FEW_PRODUCTS = 50_000_000
SIZES = {"conv2d": ("stride", "padding", "dilation", "groups"), **dict.fromkeys(POOLS, ("size", "stride", "padding"))}
Shapes = Mapping[str, tuple[int, ...]]
MOST_LAYERS = 200  # of a chain; the experts of a mixture are 100,000 matrices of equal shape
SEARCH_LIMIT = 20_000  # steps; a chain of ten layers of equal width has more orders than anyone can tell apart


class Chain(nn.Module):
    """Runs its steps in order on x (B, *input). Submodules keep the names of the checkpoint and may be replaced."""

    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.operations = steps
        for step in steps:
            if step["op"] in WITH_TENSORS:
                put(self, step["name"], _layer(step))

    def forward(self, x: Tensor) -> Tensor:
        for step in self.operations:
            operation = step["op"]
            if operation in PLAIN:
                x = PLAIN[operation](x)
            elif operation in POOLS:
                size = step["size"]
                x = POOLS[operation](x, size, step.get("stride", size), step.get("padding", 0))
            else:
                x = self.get_submodule(step["name"])(x)
        return x


def _layer(step: Step) -> nn.Module:
    match step["op"]:
        case "linear":
            return nn.Linear(step["in"], step["out"], bias=step["bias"])
        case "conv2d":
            sizes = {key: step[key] for key in SIZES["conv2d"] if key in step}
            return nn.Conv2d(step["in"], step["out"], tuple(step["kernel"]), bias=step["bias"], **sizes)
        case _:
            kind = nn.BatchNorm2d if step["dims"] == 2 else nn.BatchNorm1d
            norm = kind(step["features"], affine=step["affine"])
            if not step["counted"]:
                norm.num_batches_tracked = None
            return norm


def completed(steps: Any, tensors: Mapping[str, TensorFacts]) -> list[Step]:
    """The steps with the sizes that the tensors tell. Raises CheckpointRefused where the two do not agree."""
    if not isinstance(steps, list) or not all(isinstance(step, dict) and "op" in step for step in steps):
        raise CheckpointRefused('pare_architecture has no "steps": it needs a list of {"op": ...}')
    found: list[Step] = []
    used: set[str] = set()
    rank = 2 if any(step["op"] == "conv2d" for step in steps) else 1
    for given in steps:
        step = dict(given)
        if step["op"] not in (*WITH_TENSORS, *PLAIN, *POOLS):
            known = ", ".join((*WITH_TENSORS, *PLAIN, *POOLS))
            raise CheckpointRefused(f"pare_architecture names the step {quoted(step['op'])}; there are {known}")
        rank = 1 if step["op"] in ("flatten", "global_avg_pool") else rank
        for key in SIZES.get(step["op"], ()):
            if type(step.get(key, 1)) is not int or not 0 <= step.get(key, 1) < 1000:
                raise CheckpointRefused(f"pare_architecture has {key} {quoted(step[key])}; it is a small whole number")
        if step["op"] in POOLS and not step.get("size"):
            raise CheckpointRefused(f"pare_architecture has a {step['op']} without a size")
        if step["op"] in WITH_TENSORS:
            used |= _measure(step, tensors, rank)
        found.append(step)
    if left := sorted(set(tensors) - used):
        raise CheckpointRefused(f"the file holds {', '.join(left[:5])}, which pare_architecture does not name")
    return found


def _measure(step: Step, tensors: Mapping[str, TensorFacts], rank: int) -> set[str]:
    """Fills in a step's sizes from its tensors. Returns the names of the tensors it uses."""
    name = str(step.get("name"))
    parts = {part: tensors[f"{name}.{part}"].shape for part in PARTS if f"{name}.{part}" in tensors}
    main = "running_mean" if step["op"] == "batch_norm" else "weight"
    ranks = {"linear": 2, "conv2d": 4, "batch_norm": 1}
    if main not in parts:
        raise CheckpointRefused(f"pare_architecture names {name}, but there is no {name}.{main} in the file")
    shape = parts[main]
    if len(shape) != ranks[step["op"]]:
        raise CheckpointRefused(f"{name}.{main} has shape {list(shape)}; a {step['op']} has {ranks[step['op']]} axes")
    if wrong := [
        part for part, size in parts.items() if part not in (main, "num_batches_tracked") and size != shape[:1]
    ]:
        raise CheckpointRefused(
            f"{name}.{wrong[0]} has shape {list(parts[wrong[0]])}; {name} of {shape[0]} outputs expects [{shape[0]}]"
        )
    if step["op"] == "batch_norm":
        counted = "num_batches_tracked" in parts
        step |= {"features": shape[0], "affine": "weight" in parts, "dims": rank, "counted": counted}
    else:
        step |= {"in": shape[1] * step.get("groups", 1), "out": shape[0], "bias": "bias" in parts}
        if step["op"] == "conv2d":
            step["kernel"] = list(shape[2:])
    return {f"{name}.{part}" for part in parts}


PARTS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def grouped(tensors: Mapping[str, TensorFacts]) -> dict[str, str] | None:
    """Module path -> "linear", "conv2d" or "batch_norm", in the tensors' order; None if there is anything else."""
    parts: dict[str, dict[str, TensorFacts]] = {}
    for name, tensor in tensors.items():
        path, _, part = name.rpartition(".")
        if part not in PARTS or not path:
            return None
        parts.setdefault(path, {})[part] = tensor
    kinds: dict[str, str] = {}
    for path, own in parts.items():
        rank = len(own["weight"].shape) if "weight" in own else 0
        if "running_mean" in own:
            kinds[path] = "batch_norm"
        elif rank in (2, 4) and set(own) <= {"weight", "bias"}:
            kinds[path] = "linear" if rank == 2 else "conv2d"
        else:
            return None
    return kinds


def skeleton(steps: list[Step]) -> Chain:
    with torch.device("meta"):
        return Chain(steps).eval()


def try_shapes(steps: list[Step], shape: list[int | None]) -> None:
    """Passes a batch of zeros through. Raises CheckpointRefused if the network does not take them.

    On the meta device nothing is computed, but the first operation imports torch's compiler: a second, which a small
    network does without.
    """
    sizes = [256 if side is None else side for side in shape]
    grown = 2 * sum(step.get("padding", 0) for step in steps)
    weights = sum(step["in"] * step["out"] * math.prod(step.get("kernel", ())) for step in steps if "in" in step)
    small = weights * math.prod(side + grown for side in sizes[1:]) < FEW_PRODUCTS
    try:
        with torch.no_grad(), torch.device("cpu" if small else "meta"):
            Chain(steps).eval()(torch.zeros(2, *sizes))
    except (RuntimeError, ValueError) as error:
        raise CheckpointRefused(f"an input of {shape} does not pass through the network: {error}") from error


def in_chain(kinds: Mapping[str, str], tensors: Mapping[str, TensorFacts]) -> list[str] | None:
    """The module paths in an order in which each layer takes what the one before gives; None if there is none.

    A safetensors file is sorted by name, so that conv10 comes before conv2, and bn1 before conv1: then the numbers in
    the names are asked first, and after them the shapes. `kinds` has "conv2d", "linear" or "batch_norm" per path.
    Convolutions come before linear layers, a norm right after the layer whose outputs it norms. Where only shapes could
    tell and they allow two orders, the answer is None.
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

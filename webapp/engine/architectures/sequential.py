"""A chain of linear layers (an MLP), recognised by shapes that follow one another. Names are kept as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from ..errors import CheckpointRefused
from ..facts import ArchitectureSpec, TensorFacts
from .base import Architecture
from .chain import Step, completed, grouped, skeleton, try_shapes
from .layers import EMBEDDING_NAME

ASSUMED = "The tensors do not tell what stands between the linear layers; ReLU is assumed."


class Sequential(Architecture):
    """Linear layers, each followed by ReLU but the last, a batch norm between where the file has one."""

    family: ClassVar[str] = "sequential"
    priority: ClassVar[int] = 60

    @classmethod
    def recognise(cls, tensors: Mapping[str, TensorFacts], config: dict[str, Any] | None) -> ArchitectureSpec | None:
        told = (config or {}).get("pare_architecture")
        if isinstance(told, dict) and told.get("family") == cls.family:
            return _spec(completed(told.get("steps"), tensors), assumed=None)
        kinds = None if config else grouped(tensors)
        if not kinds or "conv2d" in kinds.values() or any(EMBEDDING_NAME.search(name) for name in kinds):
            return None
        paths = in_chain(kinds, tensors)
        if paths is None:
            return None
        steps: list[Step] = [{"op": "flatten"}]
        last = [path for path in paths if kinds[path] == "linear"][-1]
        for index, path in enumerate(paths):
            steps.append({"op": kinds[path], "name": path})
            norm_follows = index + 1 < len(paths) and kinds[paths[index + 1]] == "batch_norm"
            if path != last and not norm_follows:
                steps.append({"op": "relu"})
        return _spec(completed(steps, tensors), assumed=ASSUMED if len(paths) > 1 else None)

    @classmethod
    def skeleton(cls, spec: ArchitectureSpec) -> nn.Module:
        return skeleton(spec.config["steps"])


def _spec(steps: list[Step], assumed: str | None) -> ArchitectureSpec:
    linears = [step for step in steps if step["op"] == "linear"]
    if not linears or any(step["op"] == "conv2d" for step in steps):
        raise CheckpointRefused("pare_architecture of family sequential must hold linear steps and no conv2d")
    try_shapes(steps, [linears[0]["in"]])
    widths = [linears[0]["in"], *(step["out"] for step in linears)]
    title = f"MLP {'-'.join(map(str, widths))}"
    return ArchitectureSpec(
        family=Sequential.family,
        title=f"{title} (ReLU assumed)" if assumed else title,
        task="classification" if widths[-1] > 1 else None,
        config={"steps": steps, "classes": widths[-1], "assumed": assumed},
        inputs={"shape": [widths[0]]},
    )


def in_chain(kinds: Mapping[str, str], tensors: Mapping[str, TensorFacts]) -> list[str] | None:
    """The module paths in an order in which each layer's inputs are the outputs before it; None if there is none.

    The file's own order is tried first, then the natural order of the names (fc2 before fc10).
    """
    for order in (list(kinds), sorted(kinds, key=_natural)):
        if _fits(order, kinds, tensors):
            return order
    return None


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _fits(order: list[str], kinds: Mapping[str, str], tensors: Mapping[str, TensorFacts]) -> bool:
    width: int | None = None
    previous = ""
    for path in order:
        if kinds[path] == "batch_norm":
            if tensors[f"{path}.running_mean"].shape != (width,):
                return False
            continue
        shape = tensors[f"{path}.weight"].shape
        turning = previous == "conv2d" and kinds[path] == "linear"  # flattened: checked by whoever flattens
        if previous == "linear" and kinds[path] == "conv2d":
            return False
        if width is not None and not turning and shape[1] != width:
            return False
        width, previous = shape[0], kinds[path]
    return previous == "linear"

"""A chain of linear layers (an MLP), recognised by shapes that follow one another. Names are kept as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from webapp.engine.errors import CheckpointRefused
from webapp.engine.facts import ArchitectureSpec, TensorFacts
from webapp.engine.lazy import nn

from .base import Architecture
from .chain import Step, completed, grouped, in_chain, numbered, skeleton, try_shapes

BRANCHING = re.compile(r"embed|wte|wpe|token|att(entio)?n|[qkv]_proj|lora", re.IGNORECASE)  # not a chain, by its name
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
        if not kinds or "conv2d" in kinds.values() or any(BRANCHING.search(name) for name in kinds):
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
        assumed = ASSUMED if len(paths) > 1 else None
        return _spec(completed(steps, tensors), assumed, numbered(paths))

    @classmethod
    def skeleton(cls, spec: ArchitectureSpec) -> nn.Module:
        return skeleton(spec.config["steps"])


def _spec(steps: list[Step], assumed: str | None, in_order: bool = True) -> ArchitectureSpec:
    linears = [step for step in steps if step["op"] == "linear"]
    if not linears or any(step["op"] == "conv2d" for step in steps):
        raise CheckpointRefused("pare_architecture of family sequential must hold linear steps and no conv2d")
    try_shapes(steps, [linears[0]["in"]])
    widths = [linears[0]["in"], *(step["out"] for step in linears)]
    title = f"MLP {'-'.join(map(str, widths))}"
    return ArchitectureSpec(
        family=Sequential.family,
        title=f"{title} (ReLU assumed)" if assumed else title,
        task=None,  # a row of numbers may be classes, an embedding or amounts
        config={"steps": steps, "classes": widths[-1], "assumed": assumed, "in_order": in_order},
        inputs={"shape": [widths[0]]},
    )

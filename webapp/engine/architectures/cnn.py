"""A plain CNN: convolutions (each with a batch norm, perhaps), then linear layers. No branches.

Strides, pooling and activations are not in the tensors. They are exact where the safetensors metadata carries them
(see `chain.py`); else they are assumed, and the checkpoint's notes say so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from webapp.engine.errors import CheckpointRefused
from webapp.engine.facts import ArchitectureSpec, TensorFacts
from webapp.engine.lazy import nn

from .base import Architecture
from .chain import Step, completed, grouped, in_chain, numbered, skeleton, try_shapes

ASSUMED = (
    "The tensors do not tell strides, pooling and activations; assumed are stride 1 with padding that keeps the size, "
    "ReLU and a 2 × 2 max pool after each convolution, then {end}. If its accuracy is that of guessing, the "
    "assumption is wrong."
)


class Cnn(Architecture):
    family: ClassVar[str] = "cnn"
    priority: ClassVar[int] = 50

    @classmethod
    def recognise(cls, tensors: Mapping[str, TensorFacts], config: dict[str, Any] | None) -> ArchitectureSpec | None:
        told = (config or {}).get("pare_architecture")
        if isinstance(told, dict) and told.get("family") == cls.family:
            return _spec(completed(told.get("steps"), tensors), told.get("input"), assumed=None)
        kinds = None if config else grouped(tensors)
        if not kinds or not {"conv2d", "linear"} <= set(kinds.values()):
            return None
        paths = in_chain(kinds, tensors)
        ending = _ending(paths, kinds, tensors) if paths else None
        if paths is None or ending is None:
            return None
        end, size = ending
        convs = [path for path in paths if kinds[path] == "conv2d"]
        steps: list[Step] = []
        for index, path in enumerate(paths):
            if kinds[path] == "linear" and steps[-1]["op"] == "max_pool2d":
                steps.append({"op": end})
            step: Step = {"op": kinds[path], "name": path}
            if kinds[path] == "conv2d":
                step["padding"] = tensors[f"{path}.weight"].shape[2] // 2
            steps.append(step)
            following = kinds[paths[index + 1]] if index + 1 < len(paths) else None
            if following not in (None, "batch_norm"):
                steps.append({"op": "relu"})
                if "linear" not in (kinds[before] for before in paths[: index + 1]):
                    steps.append({"op": "max_pool2d", "size": 2})
        channels = tensors[f"{convs[0]}.weight"].shape[1]
        words = "a global average pool" if end == "global_avg_pool" else "flattening"
        assumed = ASSUMED.format(end=words)
        return _spec(completed(steps, tensors), [channels, size, size], assumed, numbered(paths))

    @classmethod
    def skeleton(cls, spec: ArchitectureSpec) -> nn.Module:
        return skeleton(spec.config["steps"])


def _ending(
    paths: list[str], kinds: Mapping[str, str], tensors: Mapping[str, TensorFacts]
) -> tuple[str, int | None] | None:
    """("global_avg_pool", None: any size) or ("flatten", the input's height and width); None if neither fits."""
    convs = [tensors[f"{path}.weight"].shape for path in paths if kinds[path] == "conv2d"]
    features = next(tensors[f"{path}.weight"].shape[1] for path in paths if kinds[path] == "linear")
    channels = convs[-1][0]
    if any(shape[2] != shape[3] or shape[2] % 2 == 0 for shape in convs):
        return None  # padding cannot keep the size
    if features == channels:
        return "global_avg_pool", None
    side = math.isqrt(features // channels)
    return ("flatten", side * 2 ** len(convs)) if channels * side * side == features else None


def _spec(steps: list[Step], given: Any, assumed: str | None, in_order: bool = True) -> ArchitectureSpec:
    layers = [step for step in steps if step["op"] in ("conv2d", "linear")]
    if not layers or layers[0]["op"] != "conv2d" or layers[-1]["op"] != "linear":
        raise CheckpointRefused("pare_architecture of family cnn must begin with a conv2d and end with a linear")
    sized = isinstance(given, list) and all(side is None or (type(side) is int and 0 < side < 1e5) for side in given)
    if not (sized and len(given) == 3 and given[0] == layers[0]["in"]):
        raise CheckpointRefused(
            f"pare_architecture has input {given}; the first convolution expects [{layers[0]['in']}, height, width]"
        )
    shape: list[int | None] = given
    classes = layers[-1]["out"]
    try_shapes(steps, shape)
    widths = "-".join(str(step["out"]) for step in layers)
    size = "×".join("any" if side is None else str(side) for side in shape)
    return ArchitectureSpec(
        family=Cnn.family,
        title=f"CNN {size}, {widths}{' (pooling and ReLU assumed)' if assumed else ''}",
        task="classification" if classes > 1 else None,
        config={"steps": steps, "classes": classes, "assumed": assumed, "in_order": in_order, "size": 32},
        inputs={"shape": shape},
    )

"""Every classifier that torchvision has, where it is installed, by the names and shapes of its tensors.

torchvision is not among Pare's own dependencies: whoever runs the installation may add it. The families with files of
their own come first, and answer alike.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

from webapp.engine.facts import ArchitectureSpec, TensorFacts
from webapp.engine.lazy import nn, torch

from .base import Architecture
from .comparing import COUNTER, counted, without_counters


class Torchvision(Architecture):
    family: ClassVar[str] = "torchvision"
    priority: ClassVar[int] = 45

    @classmethod
    def recognise(cls, tensors: Mapping[str, TensorFacts], config: dict[str, Any] | None) -> ArchitectureSpec | None:
        if config or importlib.util.find_spec("torchvision") is None:
            return None
        names = frozenset(name for name in tensors if not name.endswith(COUNTER))
        for name in _names():
            known, last = _signature(name)
            if known != names or len(tensors[last].shape) != 1:
                continue
            module, classes = _module(name, tensors[last].shape[0]), tensors[last].shape[0]
            shapes = {key: tuple(value.shape) for key, value in module.state_dict().items() if key in names}
            if shapes != {key: tensors[key].shape for key in names}:
                continue  # another width of the same network
            size = _size(name)
            settings = {"model": name, "classes": classes, "counted": counted(tensors), "size": size, "assumed": None}
            return ArchitectureSpec(
                family=cls.family,
                title=f"torchvision's {name}",
                task="classification" if classes > 1 else None,
                config=settings,
                inputs={"shape": [3, size, size]},
            )
        return None

    @classmethod
    def skeleton(cls, spec: ArchitectureSpec) -> nn.Module:
        module = _module(spec.config["model"], spec.config["classes"])
        return module if spec.config["counted"] else without_counters(module)


def _models() -> Any:
    return importlib.import_module("torchvision.models")


@cache
def _names() -> tuple[str, ...]:
    models = _models()
    return tuple(models.list_models(module=models))  # the classifiers, without detection, segmentation and video


@cache
def _signature(name: str) -> tuple[frozenset[str], str]:
    """The names of its tensors, and the last of them: the bias of the layer that puts out the classes."""
    names = [key for key in _module(name, 1000).state_dict() if not key.endswith(COUNTER)]
    return frozenset(names), names[-1]


def _module(name: str, classes: int) -> nn.Module:
    """In eval mode, its tensors on the meta device, other buffers real."""
    models = _models()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of initial values, which nobody uses
        with torch.device("meta"):
            module: nn.Module = models.get_model(name, weights=None, num_classes=classes)
        if missing := _not_stored(module):
            real = dict(models.get_model(name, weights=None, num_classes=classes).named_buffers())
            for path in missing:
                parent, _, own = path.rpartition(".")
                module.get_submodule(parent).register_buffer(own, real[path], persistent=False)
    return module.eval()


def _not_stored(module: nn.Module) -> list[str]:
    """Buffers that no checkpoint holds: the module computes them when it is made."""
    stored = module.state_dict()
    return [path for path, _ in module.named_buffers() if path not in stored]


def _size(name: str) -> int:
    """Height and width that its published weights take; some networks take no other."""
    weights = _models().get_model_weights(name).DEFAULT
    return int(weights.transforms().crop_size[0])

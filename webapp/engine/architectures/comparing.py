"""What an upload lacks, has too much of, or has in other shapes than the module that its tensors look like; and image
classifiers, which are told by their tensors alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from webapp.engine.errors import CheckpointRefused, some
from webapp.engine.facts import ArchitectureSpec, Task, TensorFacts
from webapp.engine.lazy import nn, torch

from .base import Architecture
from .resize import resize_to_weights

MALFORMED = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError)
TITLE_LENGTH, LARGEST_SIZE, LONGEST_LIST, TRIED = 100, 100_000, 1000, 64
COUNTER = "num_batches_tracked"  # of a batch norm: no checkpoint of before torch 0.4 has it, and no answer needs it


def compare(title: str, module: nn.Module, tensors: Mapping[str, TensorFacts]) -> None:
    """Raises CheckpointRefused that lists missing, unexpected and misshapen tensors apart."""
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    misshapen = [
        f"{name} has shape {list(tensors[name].shape)}; {title} expects {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    complaints = [
        *misshapen[:3],
        *([f"missing: {some(missing)}"] if missing else []),
        *([f"unexpected: {some(unexpected)}"] if unexpected else []),
    ]
    if complaints:
        raise CheckpointRefused(f"The tensors look like {title} and do not fit it. {'. '.join(complaints)}.")


def bounded(value: Any, depth: int = 4) -> bool:
    """Whether a configuration from outside holds nothing that makes a module too large to build."""
    if isinstance(value, dict | list):
        inner = list(value.values()) if isinstance(value, dict) else value
        return depth > 0 and len(inner) <= LONGEST_LIST and all(bounded(each, depth - 1) for each in inner)
    return not isinstance(value, int | float) or -1 <= value < LARGEST_SIZE


def counted(tensors: Mapping[str, TensorFacts]) -> bool:
    """Whether the batch norms of the upload count their batches."""
    return any(name.endswith(COUNTER) for name in tensors)


def without_counters(module: nn.Module) -> nn.Module:
    """The module whose batch norms do not, as an upload may have it."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.num_batches_tracked = None
    return module


class ImageClassifier(Architecture):
    """A family whose `module` is made from the configuration alone, for images of any size."""

    module: ClassVar[type[Any]]

    @classmethod
    def described(
        cls, tensors: Mapping[str, TensorFacts], title: str, channels: int, classes: int, **config: Any
    ) -> ArchitectureSpec:
        """The spec. Raises CheckpointRefused where the tensors are not those that its module has."""
        spec = ArchitectureSpec(
            family=cls.family,
            title=title,
            task="classification" if classes > 1 else None,
            config={**config, "channels": channels, "classes": classes, "counted": counted(tensors)},
            inputs={"shape": [channels, None, None]},
        )
        compare(title, cls.skeleton(spec), tensors)
        return spec

    @classmethod
    def told(cls, told: Mapping[str, Any], tensors: Mapping[str, TensorFacts]) -> ArchitectureSpec | None:
        """By the configuration before channels were cut: shapes that are left do not tell where it has shortcuts.

        Raises CheckpointRefused for one that is none of this family, or that the tensors do not fit.
        """
        given = told.get("config")
        title = str(told.get("title"))[:TITLE_LENGTH]
        wrong = CheckpointRefused(f"pare_architecture of family {cls.family} does not describe what the tensors are")
        if not isinstance(given, dict) or not bounded(given):
            raise wrong
        config = {**given, "counted": counted(tensors)}
        try:
            channels, classes = int(config["channels"]), int(config["classes"])
            task: Task | None = "classification" if classes > 1 else None
            inputs = {"shape": [channels, None, None]}
            spec = ArchitectureSpec(family=cls.family, title=title, task=task, config=config, inputs=inputs)
            module = cls.skeleton(spec)
            resize_to_weights(module, {name: tensor.shape for name, tensor in tensors.items()})
        except MALFORMED as error:
            raise wrong from error
        compare(title, module, tensors)
        try:
            answer = module(torch.empty(1, channels, TRIED, TRIED, device="meta"))
        except MALFORMED as error:
            raise wrong from error
        if tuple(answer.shape) != (1, classes):
            raise wrong
        return spec

    @classmethod
    def skeleton(cls, spec: ArchitectureSpec) -> nn.Module:
        with torch.device("meta"):
            module = cls.module(spec.config).eval()
        return module if spec.config["counted"] else without_counters(module)

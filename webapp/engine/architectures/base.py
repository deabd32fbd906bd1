"""What a file in this folder provides: one way to turn tensors into an nn.Module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from webapp.engine.facts import ArchitectureSpec, TensorFacts
from webapp.engine.lazy import nn


class Architecture(ABC):
    """One family. Found by being a file in this folder; recognised in the order of `priority`, lowest first."""

    family: ClassVar[str]
    priority: ClassVar[int] = 100

    @classmethod
    @abstractmethod
    def recognise(cls, tensors: Mapping[str, TensorFacts], config: dict[str, Any] | None) -> ArchitectureSpec | None:
        """The spec if these tensors (and this config.json, if any) are of this family, else None.

        Raises CheckpointRefused where the family is certain but a tensor is missing or has another shape.
        """

    @classmethod
    def told(cls, told: Mapping[str, Any], tensors: Mapping[str, TensorFacts]) -> ArchitectureSpec | None:
        """By what a file of Pare's tells of its model; None: as `recognise` finds. Raises CheckpointRefused."""
        return None

    @classmethod
    @abstractmethod
    def skeleton(cls, spec: ArchitectureSpec) -> nn.Module:
        """The module with every parameter and persistent buffer on the meta device, the rest real, in eval mode."""

    @classmethod
    def ties(cls, module: nn.Module) -> dict[str, str]:
        """Alias -> the parameter it shares, where the architecture itself ties them (a head to its embedding)."""
        return {}

    @classmethod
    def tokenizer(cls, spec: ArchitectureSpec, folder: Path) -> Any:
        """The tokenizer in a checkpoint's folder, or None."""
        return None

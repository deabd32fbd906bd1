"""The ways to turn tensors into a module: one file each, found by being there.

Whoever runs the installation adds others as installed packages, by entry points of the group `pare.architectures`:
docs/adding-an-architecture.md. Nothing that is uploaded can.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from webapp.engine.facts import ArchitectureSpec, TensorFacts
from webapp.engine.plugins import declared

from .base import Architecture


@cache
def architectures() -> dict[str, type[Architecture]]:
    """Every family by its name, those that recognise first before the others."""
    found = declared(sys.modules[__name__], Architecture, key="family")  # type: ignore[type-abstract]
    return dict(sorted(found.items(), key=lambda named: (named[1].priority, named[0])))


def architecture(spec: ArchitectureSpec) -> type[Architecture]:
    """The family that a spec names."""
    return architectures()[spec.family]


def recognise(tensors: Mapping[str, TensorFacts], config: dict[str, Any] | None) -> ArchitectureSpec | None:
    """The first family's spec that claims these tensors, else None. Raises CheckpointRefused as the families do.

    `tensors` holds aliases too. `config` is a Hugging Face config.json, or {"pare_architecture": {...}} where a
    safetensors file carried one in its metadata.
    """
    told = (config or {}).get("pare_architecture")
    named = architectures().get(str(told.get("family"))) if isinstance(told, dict) else None
    if named is not None and isinstance(told, dict) and (spec := named.told(told, tensors)) is not None:
        return spec
    for kind in architectures().values():
        if (spec := kind.recognise(tensors, config)) is not None:
            return spec
    return None


def classes(spec: ArchitectureSpec) -> int | None:
    """How many classes a classifier or a segmentation answers with; None for other tasks."""
    if spec.task not in ("classification", "text-classification", "segmentation"):
        return None
    if spec.family == "transformers":
        labels = spec.config.get("id2label")
        return len(labels) if labels else int(spec.config.get("num_labels", 2))
    found = spec.outputs[0][0] if spec.outputs else int(spec.config["classes"])
    return max(found, 2) if spec.task == "segmentation" else found  # one score tells two classes apart


def class_names(spec: ArchitectureSpec) -> tuple[str, ...] | None:
    """The names of the classes in order, where the checkpoint's config tells them and they are not LABEL_0, LABEL_1."""
    labels = spec.config.get("id2label") if spec.family == "transformers" else None
    if not labels or set(labels) != {str(index) for index in range(len(labels))}:
        return None
    names = tuple(str(labels[str(index)]) for index in range(len(labels)))
    return None if names == tuple(f"LABEL_{index}" for index in range(len(names))) else names

"""Pare's file: safetensors whose metadata says how each weight is stored and which architecture it belongs to.

A weight that is stored as it is keeps its name, so any safetensors reader finds it. Others are stored as parts
(`fc1.weight.codes`, `fc1.weight.scale`), described under `weights` in the manifest: docs/the-file-format.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from webapp.engine.errors import CheckpointRefused
from webapp.engine.facts import ArchitectureSpec
from webapp.engine.lazy import Tensor

from . import Dense, Encoded, StoragePlan
from .activations import Activations
from .base import TensorPart
from .held import FiledWeight, Weights
from .manifest import FORMAT, MANIFEST, filed_weights, manifest_in, stored_activations
from .model import Model
from .safetensors import LazyTensor, file_size, lazy_tensors, read_header, write_safetensors


def manifest(
    plans: Mapping[str, StoragePlan],
    tied: Mapping[str, str],
    spec: ArchitectureSpec | None,
    activations: Mapping[str, Activations] | None = None,
) -> dict[str, str]:
    """The metadata of the file: how each weight is stored that is not simply a tensor under its own name."""
    weights = {name: plan.meta for name, plan in plans.items() if not plan.plain}
    content: dict[str, Any] = {"format": FORMAT, "weights": weights, "tied": dict(tied)}
    if activations:
        content["activations"] = {path: plan.model_dump(exclude_none=True) for path, plan in activations.items()}
    if spec:
        content["architecture"] = spec.model_dump(mode="json")
    return {"format": "pt", MANIFEST: json.dumps(content, separators=(",", ":"), sort_keys=True)}


def write_model(model: Model, path: Path) -> int:
    """Writes the model, one weight in memory at a time; the same model gives the same bytes. Returns its size."""
    plans = {name: model.weights.plan(name) for name in sorted(model.weights)}
    tensors: dict[str, Tensor | LazyTensor] = {}
    for name, plan in plans.items():
        parts = model.weights.parts(name)
        tensors |= {name + part.name: parts[part.name] for part in plan.parts}
    return write_safetensors(path, tensors, manifest(plans, model.tied, model.architecture, model.activations))


def file_of(model: Model) -> Path | None:
    """The file that the model was read of, while nothing was changed: `write_model` would write the same bytes."""
    path = model.weights.file
    if path is None:
        return None
    said, says = _content(path), json.loads(manifest({}, model.tied, model.architecture, model.activations)["pare"])
    return path if {**said, "weights": {}} == says else None


def _content(path: Path) -> dict[str, Any]:
    """The manifest. Raises CheckpointRefused for a file that has none, or that of another version."""
    content = manifest_in(read_header(path)[0], path.name)
    if content is None:
        raise CheckpointRefused(f"{path.name} was not written by Pare: its metadata has no manifest.")
    return content


def read_model(path: Path) -> Model:
    """The model in a file that `write_model` made. Raises CheckpointRefused for any other file."""
    content = _content(path)
    stored, tensors = filed_weights(content, lazy_tensors(path), path.name)
    weights: dict[str, Encoded | FiledWeight] = {**stored, **{name: Dense(each) for name, each in tensors.items()}}
    spec = content.get("architecture")
    architecture = ArchitectureSpec.model_validate(spec) if spec else None
    return Model(Weights(weights, path), content["tied"], architecture, stored_activations(content))


def predicted_size(
    plans: Mapping[str, StoragePlan],
    tied: Mapping[str, str],
    spec: ArchitectureSpec | None,
    activations: Mapping[str, Activations] | None = None,
) -> tuple[int, int]:
    """(header bytes, file bytes) that `write_model` gives for weights of these plans."""

    ordered = {name: plans[name] for name in sorted(plans)}
    tensors = [
        TensorPart(name + part.name, part.shape, part.dtype) for name, plan in ordered.items() for part in plan.parts
    ]
    return file_size(tensors, manifest(ordered, tied, spec, activations))

"""Bytes and parameters of a file, read from the file: they add up to its size to the byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from webapp.engine.architectures.reshape import describe_model
from webapp.engine.facts import CheckpointFacts
from webapp.engine.weights import DensePlan, StoragePlan
from webapp.engine.weights.artifact import predicted_size
from webapp.engine.weights.model import Model
from webapp.engine.weights.safetensors import read_header


def measure_file(path: Path, model: Model, original: CheckpointFacts) -> dict[str, Any]:
    """Totals, bytes by tensor and by layer of a file whose weights are `model`; bits are per original parameter."""
    _, stored, header = read_header(path)
    size = path.stat().st_size
    plans = {name: encoded.plan for name, encoded in model.weights.items()}
    floats = [plan for plan in plans.values() if "float" in plan.dtype]
    total, nonzero = sum(p.params for p in floats), sum(p.nonzero for p in floats)
    now = describe_model(model, original).layers
    layers = [_layer(layer.name, layer.kind, layer.weight, plans[layer.weight]) for layer in now]
    prunable = [plans[layer.weight] for layer in now]
    prunable_size = sum(p.params for p in prunable)
    return {
        "size_bytes": size,
        "params_total": total,
        "params_nonzero": nonzero,
        "params_stored": sum(p.stored for p in floats),
        "params_prunable": prunable_size,
        "sparsity": 1 - nonzero / max(total, 1),
        "prunable_sparsity": 1 - sum(p.nonzero for p in prunable) / max(prunable_size, 1),
        "bits_per_weight": 8 * size / max(original.params_total, 1),
        "layers": layers,
        "bytes": {
            "total": size,
            "file": [
                {"part": "header and manifest", "bytes": header},
                {"part": "tensors", "bytes": sum(t.bytes for t in stored.values())},
            ],
            "tensors": [_tensor(name, plan) for name, plan in sorted(plans.items())],
        },
    }


def _tensor(name: str, plan: StoragePlan) -> dict[str, Any]:
    return {
        "name": name,
        "storage": plan.label,
        "shape": list(plan.shape),
        "parts": [{"name": name + p.name, "dtype": p.dtype, "bytes": p.bytes} for p in plan.parts],
        "bytes": plan.bytes,
        "bits_per_weight": 8 * plan.bytes / max(plan.size, 1),
    }


def _layer(name: str, kind: str, weight: str, plan: StoragePlan) -> dict[str, Any]:
    return {
        "name": name,
        "weight": weight,
        "kind": kind,
        "shape": list(plan.shape),
        "params": plan.params,
        "nonzero": plan.nonzero,
        "stored_bytes": plan.bytes,
        "sparsity": 1 - plan.nonzero / max(plan.params, 1),
        "bits_per_weight": 8 * plan.bytes / max(plan.size, 1),
        "storage": plan.label,
    }


def half_precision_bytes(model: Model) -> int:
    """The file's size if every float that is still wide were float16: what a plain cast gives, put aside."""
    plans = {name: encoded.plan.mapped(_halved) for name, encoded in model.weights.items()}
    return predicted_size(plans, model.tied, model.architecture)[1]


def _halved(plan: StoragePlan) -> StoragePlan:
    wide = isinstance(plan, DensePlan) and plan.dtype in ("float32", "float64")
    return replace(plan, dtype="float16") if wide else plan

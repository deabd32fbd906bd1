"""The proof that a file is the model: the answers in memory, kept, beside those of a process that loaded the file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .artifact import FORMAT
from .batches import Batch, outputs, synthetic
from .encodings import dtype_name
from .facts import ArchitectureSpec
from .model import Model
from .modules import build
from .safetensors_file import lazy_tensors, write_safetensors

PROBE, HASHES = "probe.safetensors", "hashes.json"
RELATIVE = 1e-4  # of the largest answer: threads may add up in another order


def write_probe(model: Model, folder: Path, seed: int) -> None:
    """Keeps seeded inputs with the answers of the model in memory; without an architecture, a hash of each weight."""
    if model.architecture is None:
        (folder / HASHES).write_text(json.dumps(_hashes(model)), encoding="utf8")
        return
    batch = synthetic(model.architecture, seed)
    answers = _answers(model, model.architecture, batch)
    write_safetensors(
        folder / PROBE, {f"input.{name}": t for name, t in batch.inputs.items()} | {"output": answers}, {}
    )


def compare_probe(model: Model, folder: Path) -> dict[str, Any]:
    """How a model that was read from a file answers beside what `write_probe` kept in `folder`."""
    loaded_by = f"pare file format {FORMAT}, a process of its own"
    runtime = f"torch {torch.__version__}"
    if model.architecture is None:
        kept = json.loads((folder / HASHES).read_text(encoding="utf8"))
        same = kept == _hashes(model)
        return _proof(loaded_by, f"{runtime}: every weight compared bit for bit", 0.0 if same else float("inf"), 0.0)
    tensors = {name: tensor.load() for name, tensor in lazy_tensors(folder / PROBE).items()}
    expected = tensors.pop("output")
    batch = Batch({name.removeprefix("input."): t for name, t in tensors.items()}, None, len(expected))
    found = _answers(model, model.architecture, batch)
    largest = float((found - expected).abs().max()) if found.shape == expected.shape else float("inf")
    return _proof(loaded_by, runtime, largest, RELATIVE * float(expected.abs().max().clamp(min=1e-6)))


def _proof(loaded_by: str, runtime: str, largest: float, tolerance: float) -> dict[str, Any]:
    agreed = largest <= tolerance  # False for NaN too
    found = {"loaded_by": loaded_by, "runtime": runtime, "max_abs_difference": largest}
    return {**found, "tolerance": tolerance, "agreed": agreed}


@torch.inference_mode()
def _answers(model: Model, spec: ArchitectureSpec, batch: Batch) -> Tensor:
    return outputs(build(model), spec, batch).float().contiguous()


def _hashes(model: Model) -> dict[str, str]:
    return {name: _hash(encoded.decode()) for name, encoded in sorted(model.weights.items())}


def _hash(tensor: Tensor) -> str:
    flat = tensor.contiguous().reshape(-1)
    content = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return hashlib.sha256(f"{tuple(tensor.shape)} {dtype_name(tensor.dtype)} ".encode() + content).hexdigest()

"""Pare's own file: every weight as it is stored, read back by `pare` or, where weights are plain, by any reader."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from webapp.engine.architectures.streaming import runnable
from webapp.engine.data.memory import ModelMemory
from webapp.engine.facts import ArchitectureSpec, LayerFacts
from webapp.engine.lazy import torch
from webapp.engine.weights import StoragePlan
from webapp.engine.weights.artifact import file_of, read_model, write_model
from webapp.engine.weights.model import Model

from .base import Capabilities, Exporter, Loaded


class SafetensorsExporter(Exporter):
    name = "safetensors"
    title = "safetensors"
    summary = "Loads in Pare, and plain weights in every safetensors reader. Keeps integers, masks and factors."
    file = "model.safetensors"
    can = Capabilities(
        holds="weights",
        loads_in="`pare`",
        integers="1 to 8 bits, as they are",
        zeros=True,
        always=True,
        original=False,  # torch runs the original as it is
        libraries=("torch", "safetensors"),
    )

    def holds(self, layer: LayerFacts, plan: StoragePlan) -> bool:
        return True

    def write(self, model: Model, folder: Path) -> Mapping[str, Any]:
        path = folder / self.file
        written = file_of(model)
        if written is None:
            return {"size_bytes": write_model(model, path)}
        shutil.copyfile(written, path)
        return {"size_bytes": path.stat().st_size}

    def load(self, folder: Path, spec: ArchitectureSpec | None) -> Loaded:
        model = read_model(folder / self.file)
        module = runnable(model) if model.architecture is not None else None
        return Loaded(module, "Pare, a process of its own", f"torch {torch.__version__}, float32", model)

    def loading(self, model: ModelMemory) -> int:
        return model.module if model.passing else 0

    def arithmetic(self, written: Mapping[str, Any]) -> str:
        return "This runtime decodes integers and bitmasks to floats: storing them saves bytes, and no time."

"""Small checkpoints, inspected as an upload is."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from webapp.engine.checkpoint import inspect_checkpoint
from webapp.engine.facts import CheckpointFacts
from webapp.engine.model import Model
from webapp.engine.progress import Silent

Inspected = tuple[Path, CheckpointFacts]


@pytest.fixture
def inspected(tmp_path) -> Callable[[nn.Module | dict[str, torch.Tensor]], Inspected]:
    """A module or a state dict, saved and inspected: the folder and its facts."""

    def inspect(module: nn.Module | dict[str, torch.Tensor], name: str = "given") -> Inspected:
        upload, out = tmp_path / f"{name}.pt", tmp_path / name
        torch.save(module.state_dict() if isinstance(module, nn.Module) else module, upload)
        out.mkdir()
        return out, inspect_checkpoint(upload, upload.name, out, Silent())

    return inspect


@pytest.fixture
def mlp(inspected) -> Inspected:
    """64 → 48 → 10, seeded."""
    torch.manual_seed(0)
    return inspected(nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)), "mlp")


@pytest.fixture
def mlp_model(mlp) -> Model:
    return Model.of_checkpoint(*mlp)

"""Profiles of models without and with blocks, that are done or not, without making one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from tests.engine.profiles.drawn_profiles import drawn_profile
from webapp.engine.facts import CheckpointFacts
from webapp.store.clock import now
from webapp.store.models import Checkpoint, Dataset, Profile, RunState, UploadState

Shapes = Mapping[str, tuple[int, ...]]
DIGITS: Shapes = {
    "features.conv1": (48, 1, 5, 5),
    "features.conv2": (96, 48, 3, 3),
    "classifier.fc1": (320, 384),
    "classifier.fc2": (10, 320),
}


def llama(blocks: int, width: int = 32) -> dict[str, tuple[int, ...]]:
    """`blocks` times seven matrices behind an embedding."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (512, width)}
    for n in range(blocks):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes[f"model.layers.{n}.self_attn.{name}"] = (width, width)
        for name in ("gate_proj", "up_proj"):
            shapes[f"model.layers.{n}.mlp.{name}"] = (3 * width, width)
        shapes[f"model.layers.{n}.mlp.down_proj"] = (width, 3 * width)
    return shapes


def checkpoint_facts(shapes: Shapes) -> CheckpointFacts:
    """An image classifier of 8 × 8 pixels whose layers have these shapes, and a bias each."""

    def kind(name: str) -> str:
        return "embedding" if "embed" in name else "conv" if len(shapes[name]) > 2 else "linear"

    tensors = [{"name": f"{n}.weight", "shape": s, "dtype": "float32"} for n, s in shapes.items()]
    tensors += [{"name": f"{n}.bias", "shape": s[:1], "dtype": "float32"} for n, s in shapes.items()]
    return CheckpointFacts.model_validate(
        {
            "format": "safetensors",
            "tensors": tensors,
            "layers": [{"name": n, "weight": f"{n}.weight", "kind": kind(n), "shape": s} for n, s in shapes.items()],
            "architecture": {
                "family": "cnn",
                "title": "CNN",
                "task": "classification",
                "config": {"classes": 10},
                "inputs": {"shape": [1, 8, 8]},
            },
            "weights_bytes": sum(4 * (math.prod(s) + s[0]) for s in shapes.values()) + 90 * len(tensors),
        }
    )


def seed_profile(
    session: Session,
    shapes: Shapes = DIGITS,
    dataset: Dataset | None = None,
    name: str = "digits_cnn.safetensors",
    **more: Any,
) -> Profile:
    """Of a checkpoint of its own."""
    facts = checkpoint_facts(shapes)
    checkpoint = Checkpoint(
        name=name,
        filename=name,
        state=UploadState.READY,
        size_bytes=facts.weights_bytes,
        digest="e" * 64,
        facts=facts.model_dump(mode="json"),
    )
    session.add(checkpoint)
    session.flush()
    found = drawn_profile(0, facts, measured=8)
    measured = tuple(each.model_copy(update={"points": 10 * each.loss}) for each in found.measured)
    done = {
        "state": RunState.SUCCEEDED,
        "facts": found.model_copy(update={"measured": measured}).model_dump(mode="json"),
        "finished_at": now(),
    }
    profile = Profile(
        checkpoint_id=checkpoint.id, dataset_id=dataset.id if dataset else None, key="k" * 64, **(done | more)
    )
    session.add(profile)
    session.commit()
    return profile

"""A run as stages, each of them one piece of durable work: what there is to do, in which order, from what.

    baseline ─► (steps, scores and verifications)
    step-1 ─► step-2 ─► … ─► export-safetensors ─► verify-safetensors
       └─► score-1  └─► … └► export-onnx ────────► verify-onnx
    original-onnx ────────────────────────────────┘

A stage reads only the outputs that `inputs` names, writes files into a folder, and returns facts as JSON. Its key is
the hash of everything that decides what it makes, so that a run forked from another reuses what they share.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from webapp.engine.exporters import exporters as formats
from webapp.engine.exporters import with_always
from webapp.engine.recipe import Recipe
from webapp.engine.techniques import DATA_NEEDS, needs_of, technique

STATE = "state.safetensors"  # what a step leaves
ARTIFACT = "model.safetensors"  # what is delivered


@dataclass(frozen=True)
class StagePlan:
    """`weight` is the share of a run's time that the stage is expected to take, before anything is known.

    Where a stage with a `format` fails, that format does, and the run goes on; without one the run fails. One that is
    `optional` fails alone: those that read it do without.
    """

    name: str
    title: str
    inputs: tuple[str, ...]
    weight: float
    format: str | None = None
    optional: bool = False


def stages(recipe: Recipe, exports: Sequence[str] = ()) -> list[StagePlan]:
    """The stages of a run in their order, those of the file that the receipt is measured on before other formats'."""
    found = [StagePlan("baseline", "Measure the original", (), 2.0)]
    last: tuple[str, ...] = ()
    for number, step in enumerate(recipe.steps, start=1):
        title = technique(step.technique).title
        found.append(StagePlan(f"step-{number}", f"Step {number}: {title}", ("baseline", *last), 2.0))
        last = (f"step-{number}",)
        if number < len(recipe.steps):  # after the last one the delivered file itself is measured
            found.append(StagePlan(f"score-{number}", f"Measure what step {number} left", ("baseline", *last), 1.0))
    for form in with_always(exports):
        own = None if formats()[form].can.always else form
        title, proof = formats()[form].title, ("baseline", *last, f"export-{form}")
        if formats()[form].can.original:
            found.append(
                StagePlan(f"original-{form}", f"Write the original as {title} too", (), 1.0, own, own is not None)
            )
            proof = (*proof, f"original-{form}")
        found.append(StagePlan(f"export-{form}", f"Write {title}", last, 1.0, own))
        found.append(StagePlan(f"verify-{form}", f"Load {title} again and measure it", proof, 3.0, own))
    return found


def stage_key(
    name: str,
    recipe: Recipe,
    exports: Sequence[str],
    seed: int,
    options: Mapping[str, Any],
    checkpoint_digest: str,
    dataset_digest: str | None,
    training_digest: str | None = None,
    teacher_digest: str | None = None,
) -> str:
    """The hash of all that decides what the stage makes: data, settings, and this code. No teacher: the original."""
    base: dict[str, Any] = {"code": code_digest(), "stage": name, "checkpoint": checkpoint_digest}
    kind, _, which = name.partition("-")
    if kind in ("baseline", "score", "verify"):
        base |= {"dataset": dataset_digest, "options": dict(options), "seed": seed}
    if kind not in ("baseline", "original"):
        count = int(which) if kind in ("step", "score") else len(recipe.steps)
        steps = recipe.steps[:count]
        base |= {"steps": [step.canonical() for step in steps], "seed": seed}
        if any(needs_of(step.technique, step.settings) & DATA_NEEDS for step in steps):
            base |= {"training": training_digest or dataset_digest}
            base |= {option: options.get(option) for option in ("preprocessing", "task")}
        if any("teacher" in needs_of(step.technique, step.settings) for step in steps):
            base |= {"teacher": teacher_digest}
    return hashlib.sha256(json.dumps(base, sort_keys=True).encode()).hexdigest()


@cache
def code_digest() -> str:
    """The hash of the engine's own sources: a result is reused only by the code that made it."""
    here = Path(__file__).parents[1]
    content = hashlib.sha256()
    for path in sorted(here.rglob("*.py")):
        content.update(str(path.relative_to(here)).encode() + b"\0" + path.read_bytes())
    return content.hexdigest()

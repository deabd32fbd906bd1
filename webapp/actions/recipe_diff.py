"""What differs between the recipes of runs: their steps side by side, setting by setting, defaults included."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from webapp.engine.techniques import technique_title, techniques

ABSENT = None  # of a run that has no such step or setting
Step = Mapping[str, Any]


@dataclass(frozen=True)
class RecipeRow:
    """One setting. `values`: of each run in the order given, as text or number; None where it has no such thing."""

    part: str  # "Run", "Step 1"
    name: str
    values: list[Any]

    @cached_property
    def differs(self) -> bool:
        return len(set(map(repr, self.values))) > 1

    @property
    def title(self) -> str:
        return self.name if self.part == "Run" else f"{self.part}: {self.name}"


def recipe_rows(runs: Sequence[Mapping[str, Any]]) -> list[RecipeRow]:
    """Every setting of the runs, as a comparison is fed them: first what is the run's own, then step by step."""
    own = {
        "Checkpoint": lambda run: run["checkpoint"]["name"],
        "Dataset": lambda run: run["dataset"] and run["dataset"]["name"],
        "Training dataset": lambda run: run["training_dataset"],
        "Teacher": lambda run: run["teacher_checkpoint"],
        "Seed": lambda run: run["seed"],
        "Formats": lambda run: ", ".join(run["exports"]),
    }
    rows = [RecipeRow("Run", name, [of(run) for run in runs]) for name, of in own.items()]
    known: dict[str, dict[str, Any]] = {}
    for number, slot in enumerate(_aligned([run["recipe"].get("steps") or () for run in runs]), start=1):
        found = [_told(slot[at], known) if at in slot else {} for at in range(len(runs))]
        for name in dict.fromkeys(name for each in found for name in each):
            rows.append(RecipeRow(f"Step {number}", name, [each.get(name, ABSENT) for each in found]))
    return [row for row in rows if any(value is not ABSENT for value in row.values)]


def _aligned(recipes: Sequence[Sequence[Step]]) -> list[dict[int, Step]]:
    """Steps that stand beside each other, by the place of the recipe: those of one technique, in their order.

    Where one recipe has another technique in the place of one, both stand beside each other too.
    """
    slots: list[dict[int, Step]] = []
    for at, steps in enumerate(recipes):
        before = [next(iter(slot.values()))["technique"] for slot in slots]
        matcher = SequenceMatcher(None, before, [step["technique"] for step in steps], autojunk=False)
        merged: list[dict[int, Step]] = []
        for _, start, end, first, last in matcher.get_opcodes():
            own, added = slots[start:end], steps[first:last]
            merged += [{**slot, at: step} for slot, step in zip(own, added, strict=False)]
            merged += own[len(added) :]
            merged += [{at: step} for step in added[len(own) :]]
        slots = merged
    return slots


def _told(step: Step, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What one step says by the titles of its settings; `known` are those told before."""
    key = json.dumps(step, default=str)
    if key not in known:
        known[key] = _of_step(step)
    return known[key]


def _of_step(step: Step) -> dict[str, Any]:
    technique = techniques().get(step["technique"])
    layers = step.get("layers") or {}
    told: dict[str, Any] = {"Technique": technique_title(step["technique"])}
    told["Layers"] = ", ".join(layers.get("include") or ["*"])
    if layers.get("exclude"):
        told["Not the layers"] = ", ".join(layers["exclude"])
    settings = dict(step.get("settings") or {})
    titles: dict[str, str] = {}
    if technique is not None:
        titles = {name: field.title or name for name, field in technique.Settings.model_fields.items()}
        with suppress(ValidationError):  # of a version that is gone: as it was asked
            settings = technique.Settings.model_validate(settings).model_dump(mode="json")
    told |= {titles.get(name, name): _plain(value) for name, value in settings.items()}
    overrides = step.get("overrides") or {}
    pairs = overrides.items() if isinstance(overrides, Mapping) else overrides
    for pattern, given in pairs:
        own = [f"{titles.get(name, name)} {_plain(value)}" for name, value in given.items()]
        told[f"Override of {pattern}"] = ", ".join(own) or "as the step"
    return told


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return "on" if value else "off"
    return value if value is None or isinstance(value, int | float | str) else json.dumps(value)

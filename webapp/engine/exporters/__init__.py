"""The formats in which a compressed model is delivered: one file each, found by being there.

A format's own library is imported where it is used: this package is read by the web process too. Installed packages
add others: docs/adding-a-format.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from webapp.engine.errors import RecipeInvalid
from webapp.engine.facts import CheckpointFacts
from webapp.engine.plugins import declared
from webapp.engine.profiles.facts import LayerOptions, Option
from webapp.engine.profiles.menu import planned
from webapp.engine.weights import Composite, form_of, stored_plan

from .base import Capabilities, Exporter, Loaded


@cache
def exporters() -> dict[str, Exporter]:
    """Every format by its name, the one that the receipt is measured on first."""
    by_name, _ = (declared(sys.modules[__name__], Exporter, key) for key in ("name", "file"))  # type: ignore[type-abstract]
    found = [kind() for kind in by_name.values()]
    return {form.name: form for form in sorted(found, key=lambda form: (not form.can.always, form.name))}


def measured() -> Exporter:
    """The format that every run writes first, and that the receipt is measured on."""
    return next(iter(exporters().values()))


def served_by(runtime: str) -> dict[str, Exporter]:
    """The formats whose files this runtime runs, by their names."""
    return {name: form for name, form in exporters().items() if form.can.served_by == runtime}


def check_formats(facts: CheckpointFacts, asked: Sequence[str], kinds: Sequence[str] = ()) -> None:
    """Raises RecipeInvalid for a format that there is none of, or not of this checkpoint.

    `kinds` are those in which the recipe will leave the weights.
    """
    check_names(asked)
    known = exporters()
    for position, name in enumerate(asked):
        if reason := known[name].refuses(facts):
            raise RecipeInvalid(f"{known[name].title} cannot be written. {reason}", f"exports.{position}")
        if not known[name].can.factors and any(issubclass(form_of(kind), Composite) for kind in kinds):
            raise RecipeInvalid(
                f"{known[name].title} cannot be written: the recipe leaves low-rank factors, which have no place in "
                "it. Leave the step that makes them out, or this format.",
                f"exports.{position}",
            )


def check_names(asked: Sequence[str]) -> None:
    """Raises RecipeInvalid for a format that there is none of."""
    for position, name in enumerate(asked):
        if name not in exporters():
            there = ", ".join(exporters())
            raise RecipeInvalid(f"There is no export {name[:40]!r}; there are {there}.", f"exports.{position}")


def with_always(asked: Sequence[str]) -> list[str]:
    """The formats that are asked for, each once, after those that every run writes."""
    return list(dict.fromkeys((*(name for name, form in exporters().items() if form.can.always), *asked)))


def held_in(facts: CheckpointFacts, asked: Sequence[str]) -> Callable[[LayerOptions, Option], bool]:
    """Whether an option of a layer of this checkpoint is held by all of these formats. Raises RecipeInvalid.

    What suits one format alone is held where that one is asked for, not only those that every run writes.
    """
    check_names(asked)
    forms = [exporters()[name] for name in asked]
    chosen = any(not form.can.always for form in forms)
    units = {unit.name: unit for unit in facts.units()}
    found: dict[tuple[Any, ...], bool] = {}

    def held(layer: LayerOptions, option: Option) -> bool:
        key = (layer.kind, layer.shape, option.label)
        if key not in found:
            unit = units.get(layer.name) or units[layer.layers[0]]  # by their names before any cut
            tensor, shape = facts.tensor(unit.weight), layer.shape or unit.shape  # of a layer that is cut another
            unit = unit.model_copy(update={"shape": shape})
            plan = planned(unit, stored_plan(tensor, shape), option.steps)
            suits = chosen or not option.steps or form_of(option.kind).anywhere
            found[key] = suits and all(form.holds(unit, plan) for form in forms)
        return found[key]

    return held


def unwritable(folder: Path, facts: CheckpointFacts) -> dict[str, str]:
    """A sentence for each format that nothing made of this checkpoint can be written in."""
    from webapp.engine.exporters.onnx.trial import TracingTrial
    from webapp.engine.weights.model import Model

    trial = TracingTrial(Model.of_checkpoint(folder, facts))
    fitting = {name: form for name, form in exporters().items() if form.refuses(facts) is None}
    return {name: why for name, form in fitting.items() if (why := form.tried(trial))}

"""A recipe without some of its layers, and the options of a profile that a recipe's layers have."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from glob import escape
from typing import Any

from webapp.engine.architectures.reshape import reshaped_facts
from webapp.engine.errors import RecipeInvalid, some
from webapp.engine.facts import CheckpointFacts
from webapp.engine.profiles.budget import Solver
from webapp.engine.profiles.facts import Cut, OptionStep, ProfileFacts
from webapp.engine.profiles.recipes import apart
from webapp.engine.recipe import Recipe, Step, matches

from .predict import PreparedStep, prepare


@dataclass(frozen=True)
class Followed:
    """`steps` have by their names in the delivered file the layers that a step works on, called as before it;
    `original` has those of all layers. Both have none whose name before is decided by data.
    """

    prepared: list[PreparedStep]
    steps: list[dict[str, str]]
    original: dict[str, str]

    @property
    def worked_on(self) -> dict[str, None]:
        return dict.fromkeys(name for names in self.steps for name in names)


def followed(facts: CheckpointFacts, recipe: Recipe) -> Followed:
    """The layers of the delivered file through the steps that made it: behind a block that left they are renamed.

    A step that takes whole layers out works on none of those that are left. Raises as `prepare`.
    """
    prepared = prepare(facts, recipe)
    now = {unit.name: (unit.name, unit.weight) for unit in facts.units()}  # by the first name the one at this step
    steps: list[dict[str, str]] = []
    known = True
    for step in prepared:
        change = step.reshaped(facts)
        leaving = change.removed if change else frozenset()
        shortens = any(layer.weight in leaving for layer in facts.layers)
        layers = {layer.name for layer in step.layers if not shortens}
        steps.append({first: name for first, (name, _) in now.items() if name in layers})
        facts = reshaped_facts(facts, change) if change else facts
        if change is None:
            continue
        if change.renamed and "calibration" in step.technique.needs_for(step.settings.own):
            known, steps = False, [{} for _ in steps]
            now = {unit.name: (unit.name, unit.weight) for unit in facts.units()}
        else:
            now = {
                first: (change.renamed_layer(name), change.renamed.get(weight, weight))
                for first, (name, weight) in now.items()
                if weight not in leaving
            }
    last = {first: name for first, (name, _) in now.items()}
    return Followed(
        prepared,
        [{last[first]: name for first, name in each.items() if first in last} for each in steps],
        {name: first for first, name in last.items()} if known else {},
    )


def without_layers(facts: CheckpointFacts, recipe: Recipe, layers: Collection[str]) -> Recipe:
    """The recipe that leaves these layers, called as in the delivered file, as they are in the original. Steps that are
    not for them stay word for word, so that their stages are shared.

    Raises RecipeInvalid where one of them is in no step, or nothing would be left.
    """
    found = followed(facts, recipe)
    if unknown := [name for name in layers if name not in found.worked_on]:
        raise RecipeInvalid(f"No step works on {some(unknown)}, so there is nothing to give back.", "layers")
    steps = [
        kept
        for step, done, names in zip(recipe.steps, found.prepared, found.steps, strict=True)
        if (kept := _without(step, done, {names[name] for name in layers if name in names})) is not None
    ]
    if not steps:
        raise RecipeInvalid("Without these layers the recipe does nothing; leave one of them in.", "layers")
    return Recipe.read({"steps": steps})


def _without(step: Step, done: PreparedStep, layers: Collection[str]) -> dict[str, Any] | None:
    given = [layer.name for layer in done.layers if layer.name in layers]
    rest = [layer for layer in done.layers if layer.name not in layers]
    if not given:
        return step.model_dump()
    if not rest:
        return None
    patterns = {"include": step.layers.include, "exclude": (*step.layers.exclude, *map(escape, given))}
    overrides = {
        pattern: settings
        for pattern, settings in step.overrides.items()
        if any(matches(layer, pattern) for layer in rest)
    }
    return {**step.model_dump(), "layers": patterns, "overrides": overrides}


def choice_of(solver: Solver, recipe: Recipe) -> tuple[Solver, list[int | None]] | None:
    """The solver of what the recipe's cuts leave, and the number of the option that it gives each of that one's layers.

    None instead of a number where a layer has no such option; of all, where the recipe cuts as no cut of the profile.
    """
    cuts = cuts_of(solver.profile, solver.facts, recipe)
    left = None if cuts is None else solver.without(cuts)
    if left is None:
        return None
    done: dict[str, list[tuple[str, str]]] = {}
    cutting = {cut.step.technique for cut in solver.profile.cuts}
    for step in prepare(solver.facts, recipe):
        if step.technique.name in cutting:
            continue
        for layer in step.layers:
            settings = step.settings.of(layer).model_dump(mode="json")
            done.setdefault(layer.name, []).append(_counted(step.technique.name, settings))
    found: list[int | None] = []
    for choice in left.profile.layers:
        asked = {tuple(done.get(name, ())) for name in choice.layers} or {()}  # a cut has no layers, and one option
        options = (n for n, option in enumerate(choice.options) if {tuple(map(_said, option.steps))} == asked)
        found.append(next(options, None))
    return left, found


def cuts_of(profile: ProfileFacts, facts: CheckpointFacts, recipe: Recipe) -> list[Cut] | None:
    """The profile's cuts that the recipe makes; None where it cuts otherwise."""
    cutting = {cut.step.technique for cut in profile.cuts}
    done: set[tuple[str, tuple[str, str]]] = set()
    for step in prepare(facts, recipe):
        if step.technique.name in cutting:
            each = ((layer.name, step.settings.of(layer).model_dump(mode="json")) for layer in step.layers)
            done |= {(name, _counted(step.technique.name, settings)) for name, settings in each}
    found = []
    for cut in profile.cuts:
        own = {(name, _said(cut.step)) for name in cut.layers}
        if own <= done:
            found.append(cut)
            done -= own
    return None if done else found


def _said(step: OptionStep) -> tuple[str, str]:
    return _counted(step.technique, step.settings)


def _counted(technique: str, settings: Mapping[str, Any]) -> tuple[str, str]:
    """The settings that count where the others have these values, in one form for all who mean the same."""
    return technique, " ".join(apart(technique, json.dumps(settings)))

"""A recipe without some of its layers, and the options of a profile that a recipe's layers have."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from glob import escape
from typing import Any

from webapp.engine.errors import RecipeInvalid, some
from webapp.engine.facts import CheckpointFacts
from webapp.engine.profiles.budget import Solver
from webapp.engine.profiles.facts import Cut, OptionStep, ProfileFacts
from webapp.engine.profiles.recipes import apart
from webapp.engine.recipe import Recipe, Step, matches

from .predict import PreparedStep, prepare


def without_layers(facts: CheckpointFacts, recipe: Recipe, layers: Collection[str]) -> Recipe:
    """The recipe that leaves these layers as they are in the original. Steps that are not for them stay word for word,
    so that their stages are shared.

    Raises RecipeInvalid where one of them is in no step, or nothing would be left.
    """
    prepared = prepare(facts, recipe)
    worked_on = {layer.name for step in prepared for layer in step.layers}
    if unknown := [name for name in layers if name not in worked_on]:
        raise RecipeInvalid(f"No step works on {some(unknown)}, so there is nothing to give back.", "layers")
    steps = [
        kept
        for step, done in zip(recipe.steps, prepared, strict=True)
        if (kept := _without(step, done, layers)) is not None
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

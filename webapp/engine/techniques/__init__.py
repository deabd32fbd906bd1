"""The techniques: one file each, found by being there, and those of installed packages (docs/adding-a-technique.md)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from webapp.engine.architectures.reshape import ShapeChange
from webapp.engine.errors import RecipeInvalid
from webapp.engine.plugins import declared
from webapp.engine.recipe import Recipe, TechniqueSettings

from .base import AtWork, Context, CutOffer, Need, Outcome, Skip, Technique


@cache
def techniques() -> dict[str, Technique]:
    """Every technique by its name."""
    found = declared(sys.modules[__name__], Technique)  # type: ignore[type-abstract]
    for name, kind in found.items():
        if not issubclass(kind.Settings, TechniqueSettings):
            raise RuntimeError(f"The Settings of the technique {name!r} ({kind}) do not derive from TechniqueSettings.")
    return {name: kind() for name, kind in found.items()}


def technique(name: str, version: int | None = None, field: str = "technique") -> Technique:
    """The technique of this name. Raises RecipeInvalid where there is none, or only another version of it."""
    found = techniques().get(name)
    if found is None:
        known = ", ".join(techniques())
        raise RecipeInvalid(f"There is no technique {name!r}; there are {known}.", field)
    if version is not None and version != found.version:
        raise RecipeInvalid(
            f"The recipe was made for version {version} of {name}; here is version {found.version}. "
            "Check its settings and remove `version`.",
            field,
        )
    return found


def technique_title(name: str) -> str:
    """ "gptq" → "GPTQ"; of one that is not there any more, its name."""
    known = techniques().get(name)
    return known.title if known else name


DATA_NEEDS: frozenset[Need] = frozenset(
    {"calibration", "calibration_if_any", "training"}
)  # what a step reads of the training half


def needs_of(
    name: str, settings: Mapping[str, Any], overrides: Mapping[str, Mapping[str, Any]] | None = None
) -> frozenset[Need]:
    """What a step of this technique with these settings and overrides (checked before) needs."""
    found = technique(name)
    each = [settings, *({**settings, **given} for given in (overrides or {}).values())]
    return frozenset().union(*(found.needs_for(found.Settings.model_validate(dict(given))) for given in each))


def with_versions(recipe: Recipe) -> Recipe:
    """The recipe as it is stored: with the version of every technique, so that a later version refuses it by name.

    Raises RecipeInvalid like `technique`.
    """
    steps = tuple(step.model_copy(update={"version": technique(step.technique).version}) for step in recipe.steps)
    return recipe.model_copy(update={"steps": steps})

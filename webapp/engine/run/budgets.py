"""A budget as an installation asks for it: on a profile that it keeps, for formats that it writes, run by its runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from webapp.engine.exporters import check_formats, held_in
from webapp.engine.facts import CheckpointFacts
from webapp.engine.profiles.budget import Budget, Expected, Limits, Solver
from webapp.engine.profiles.facts import KEPT, Measurement, ProfileFacts
from webapp.engine.recipe import Recipe

from .giving_back import choice_of
from .worsening import LOSSES


def solver_of(profile: Mapping[str, Any], runs: Iterable[Any], checkpoint: Mapping[str, Any]) -> Solver:
    """Of a profile's facts, what runs measured since, and the checkpoint's facts, each as JSON."""
    facts = ProfileFacts.model_validate(profile)
    measured = (*facts.measured, *map(Measurement.model_validate, runs))
    return Solver(facts.model_copy(update={"measured": measured}), CheckpointFacts.model_validate(checkpoint))


def limits_of(
    facts: CheckpointFacts, families: Collection[str] | None, locks: Mapping[str, int], formats: Sequence[str] = ()
) -> Limits:
    """Only options that all of these formats hold. Raises RecipeInvalid where the checkpoint cannot have one."""
    check_formats(facts, formats)
    return Limits(families, locks, held_in(facts, formats) if formats else None)


def expected_of(profile_id: str | None, budget: Budget) -> dict[str, Any]:
    """As a run keeps it, for its receipt to show beside what was measured, and for the profile to learn from."""
    predicted: dict[str, float] = {}
    for layer in budget.layers:
        if layer.family != KEPT:
            predicted[layer.family] = predicted.get(layer.family, 0.0) + layer.loss
    return _kept(profile_id, budget.size_bytes, budget.expected, predicted)


def foretold(profile_id: str, solver: Solver, recipe: Recipe) -> dict[str, Any] | None:
    """The same of any recipe; None where it does what is no option of the profile."""
    choice = [number for number in choice_of(solver.profile, solver.facts, recipe) if number is not None]
    if len(choice) < len(solver.profile.layers):
        return None
    return _kept(profile_id, solver.menu.size(choice), solver.expected(choice), solver.predicted(choice))


def _kept(
    profile_id: str | None, size_bytes: int, expected: Expected, predicted: Mapping[str, float]
) -> dict[str, Any]:
    told = expected.model_dump(mode="json", include={"loss", "points"}, exclude_none=True)
    told["loss"]["metric"] = LOSSES[expected.loss.unit][0]
    lost = {family: loss for family, loss in predicted.items() if loss}
    return {"profile_id": profile_id, "size_bytes": size_bytes, "predicted": lost, **told}

"""A budget as an installation asks for it: on a profile that it keeps, for formats that it writes, run by its runs."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from webapp.engine.errors import BudgetInvalid
from webapp.engine.exporters import check_formats, held_in
from webapp.engine.exporters.sizes import sizes_of
from webapp.engine.facts import CheckpointFacts
from webapp.engine.profiles.budget import Budget, BudgetGoal, Expected, Limits, Solver
from webapp.engine.profiles.facts import KEPT, Measurement, ProfileFacts
from webapp.engine.profiles.smallest import Probe, Search
from webapp.engine.recipe import Recipe

from .giving_back import choice_of
from .worsening import LOSSES, POINTS, worsened


def solver_of(
    profile: Mapping[str, Any], runs: Iterable[Any], checkpoint: Mapping[str, Any], formats: Sequence[str] = ()
) -> Solver:
    """Of a profile's facts, what runs measured since, and the checkpoint's facts, each as JSON.

    Sizes are those of the file of the one of `formats` that is asked for beside Pare's own, where they can be known.
    """
    facts = ProfileFacts.model_validate(profile)
    measured = (*facts.measured, *map(Measurement.model_validate, runs))
    of = CheckpointFacts.model_validate(checkpoint)
    return Solver(facts.model_copy(update={"measured": measured}), of, sizes=sizes_of(of, formats))


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
    for cut in budget.cuts:
        predicted[cut.family] = predicted.get(cut.family, 0.0) + cut.loss
    told = _kept(profile_id, budget.own_bytes, budget.expected, predicted)
    if budget.format is not None:
        told["files"] = {budget.format: budget.size_bytes}
    return told


def foretold(profile_id: str, solver: Solver, recipe: Recipe) -> dict[str, Any] | None:
    """The same of any recipe; None where it does what is no option of the profile."""
    found = choice_of(solver, recipe)
    if found is None:
        return None
    left, numbers = found
    choice = [number for number in numbers if number is not None]
    if len(choice) < len(numbers):
        return None
    known = math.isfinite(sum(left.predicted(choice).values()))
    return expected_of(profile_id, left.answer(choice)) if known else None


def best_within(solver: Solver, limits: Limits, size_bytes: int) -> Budget:
    """The best within these bytes; where nothing is as small, the smallest."""
    return solver.solve(BudgetGoal.read({"bytes": max(size_bytes, solver.smallest(limits))}), limits)


def search_on(
    solver: Solver, limits: Limits, tolerance: float, unit: str, most_runs: int, certain: bool = False
) -> Search:
    """For the smallest file that loses at most so much, in POINTS or in the profile's unit, as runs measure it."""
    unlimited = solver.solve(BudgetGoal.read({"ratio": 1}), limits)  # of the front: every size that there is
    front = [(point.size_bytes, point.loss) for point in unlimited.front]
    try:
        goal = {POINTS if unit == POINTS else "loss": tolerance}
        first = solver.solve(BudgetGoal.read(goal), limits).size_bytes
    except BudgetInvalid:  # no option is expected to stay within it; what is measured may
        first = max(size for size, _ in front)

    def fits(size_bytes: int) -> int:
        return best_within(solver, limits, size_bytes).size_bytes

    return Search(tolerance, unit, front, first, fits, most_runs, certain)


def probe_of(unit: str, result: Mapping[str, Any], verdict: Mapping[str, Any]) -> Probe | None:
    """What a run measured; None where that is nothing that the unit is about."""
    found = worsened(unit, result["metrics"], verdict)
    return None if found is None else Probe(result["size_bytes"], found.value, found.low, found.high)


def _kept(
    profile_id: str | None, size_bytes: int, expected: Expected, predicted: Mapping[str, float]
) -> dict[str, Any]:
    told = expected.model_dump(mode="json", include={"loss", "points"}, exclude_none=True)
    told["loss"]["metric"] = LOSSES[expected.loss.unit][0]
    lost = {family: loss for family, loss in predicted.items() if loss}
    return {"profile_id": profile_id, "size_bytes": size_bytes, "predicted": lost, **told}

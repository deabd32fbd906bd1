"""Solving budgets on profiles, as often as a slider moves, and what profiles expect of runs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement, UnaryExpression, select
from sqlalchemy.orm import Session

from webapp.engine.profiles.budget import ANYTHING, Budget, BudgetGoal, Limits, Solver
from webapp.engine.profiles.uniform import least_uniform
from webapp.engine.recipe import Recipe
from webapp.engine.run.budgets import foretold, limits_of, solver_of
from webapp.store.models import Profile, Run, RunState

from .errors import Conflict, NotFound

SOLVERS_KEPT = 8  # of profiles, tens of megabytes each at most


class AskedBudget(BaseModel, extra="forbid"):
    """A goal, and what may be done for it."""

    profile_id: str
    goal: BudgetGoal
    families: list[str] | None = Field(None, max_length=20, description="The only ones to choose from; null: all.")
    locks: dict[str, int] = Field(
        default_factory=dict,
        description="Layers by name, each with the number of the option that it keeps; 0 leaves it as it is.",
    )


class BudgetRequest(AskedBudget):
    exports: list[str] = Field(
        default_factory=list, max_length=8, description="Formats that have to hold what is chosen."
    )


class KeptSolvers:
    """The solvers of the profiles that were asked last: to read a profile takes longer than to solve a budget on it."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, ...], Solver] = OrderedDict()
        self._lock = Lock()

    def of(self, profile: Profile, formats: Sequence[str]) -> Solver:
        """One that knows all that runs have measured by now."""
        formats = sorted(set(formats))
        mine = (profile.id, " ".join(formats))
        key = (*mine, *(str(each["run_id"]) for each in profile.measured))
        with self._lock:
            if (found := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return found
        found = solver_of(profile.facts or {}, profile.measured, profile.checkpoint.facts or {}, formats)
        with self._lock:
            for other in [other for other in self._kept if other[:2] == mine]:
                del self._kept[other]
            self._kept[key] = found
            if len(self._kept) > SOLVERS_KEPT:
                self._kept.popitem(last=False)
        return found


_solvers = KeptSolvers()


def profile_to_ask(session: Session, profile_id: str, field: str = "profile_id") -> Profile:
    """Raises NotFound, or Conflict while there is nothing to solve on."""
    profile = session.get(Profile, profile_id) if profile_id.isascii() and profile_id.isalnum() else None
    if profile is None:
        raise NotFound(f"There is no profile {profile_id[:40]}. It may have been deleted.", field)
    if profile.state != RunState.SUCCEEDED:
        raise Conflict(f"The profile is {profile.state}; a budget is solved on one that has succeeded.", field)
    return profile


def solver_for(profile: Profile, formats: Sequence[str] = ()) -> Solver:
    """Of a profile that has succeeded; kept for the next time. `formats`: see `solver_of`."""
    return _solvers.of(profile, formats)


def profile_of(session: Session, run: Run) -> Profile | None:
    """That the run was made by, else of those of its checkpoint on its data the one that saw most."""
    if made_by := (run.expected or {}).get("profile_id"):
        profile = session.get(Profile, made_by)
        if profile is not None and profile.state is RunState.SUCCEEDED:
            return profile
    same = [Profile.checkpoint_id == run.checkpoint_id, Profile.state == RunState.SUCCEEDED]
    same += [getattr(Profile, name) == getattr(run, name) for name in ("dataset_id", "training_dataset_id")]
    return session.scalars(select(Profile).where(*same).order_by(*most_seen()).limit(1)).first()


def samples_seen() -> ColumnElement[int]:
    """By a profile that is done; a column."""
    return Profile.facts["samples"].as_integer()


def most_seen() -> tuple[UnaryExpression[Any], ...]:
    """The order of profiles: those that saw most samples first, of equals the newest."""
    return samples_seen().desc(), Profile.created_at.desc()


def expected_by_profile(session: Session, run: Run) -> dict[str, Any] | None:
    """Of a run's recipe, whoever wrote it; None where no profile knows what it does."""
    profile = profile_of(session, run)
    return profile and foretold(profile.id, solver_for(profile), Recipe.read(run.recipe))


class RacedBudget(Budget):
    uniform_bytes: int | None = Field(
        description="Of the smallest recipe that treats all layers alike; a smaller budget is raced against none."
    )


def solve_budget(session: Session, asked: BudgetRequest) -> RacedBudget:
    """Raises NotFound, Conflict, BudgetInvalid, or RecipeInvalid for a format that the checkpoint cannot have."""
    return solved(profile_to_ask(session, asked.profile_id), asked, asked.exports)


def solved(profile: Profile, asked: AskedBudget, exports: list[str]) -> RacedBudget:
    """Raises BudgetInvalid, or RecipeInvalid for a format that the checkpoint cannot have."""
    solver = solver_for(profile, exports)
    return solved_on(solver, asked.goal, limits_of(solver.facts, asked.families, asked.locks, exports))


def solved_on(solver: Solver, goal: BudgetGoal, limits: Limits = ANYTHING) -> RacedBudget:
    """Raises BudgetInvalid."""
    found = solver.solve(goal, limits)
    return RacedBudget.model_construct(**dict(found), uniform_bytes=least_uniform(solver, limits))

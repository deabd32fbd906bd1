"""A profile without a server, and budgets solved on it."""

from __future__ import annotations

import math
import re
from typing import Any

import click

from webapp.engine.errors import BudgetInvalid, some
from webapp.engine.profiles.budget import Budget, BudgetGoal, Solver
from webapp.engine.profiles.facts import ProfileFacts
from webapp.engine.run.checks import check_profile, task_of
from webapp.engine.run.stages.job import DataGiven, SourcesGiven
from webapp.units import significant

from .progress_bar import ProgressBar
from .sources import named_datasets
from .workbench import Workbench

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


class Bytes(click.ParamType):
    """ "60MB", "57 MiB", "500000"."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(value).lower())
        if found is None or found[2] not in UNITS:
            self.fail(f"{value!r} is no size; write it as 60MB (10^6 bytes) or 57MiB (2^20)", param, ctx)
        size = float(found[1]) * UNITS[found[2]]
        return int(size) if size < math.inf else self.fail("no file is as large", param, ctx)


class Tolerance(click.ParamType):
    """ "0.5pt": points of the metric with labels; "0.05": of the profile's loss."""

    name = "tolerance"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, float]:
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e-?\d+)?)\s*(pt|pts|points?)?\s*", str(value).lower())
        if found is None:
            self.fail(f"{value!r} is no tolerance; write 0.5pt for points, or 0.05 for a loss", param, ctx)
        return {"points" if found[2] else "loss": float(found[1])}


def profiled(
    bench: Workbench, bar: ProgressBar, sources: SourcesGiven, seed: int, preprocessing: dict[str, Any]
) -> ProfileFacts:
    """The profile, by a child. Raises as the API does, and ChildFailed, ChildDied or OutOfMemory."""
    facts, (dataset, training) = sources.checkpoint.facts, named_datasets(sources)
    prepared = check_profile(facts, dataset, training, preprocessing)
    asked = DataGiven(
        seed=seed,
        preprocessing=prepared.model_dump(mode="json") if prepared else None,
        task=task_of(facts, dataset, training),
    )
    bar.stage("Profiling")
    found = bench.profile(asked, sources, bar.tell)
    if unreached := [layer.name for layer in found.layers if layer.unreached]:
        bar.say(
            f"No sample reached {some(unreached)}: whatever is done there costs nothing on this data, so a budget "
            "shrinks it first."
        )
    return found


def goal_of(size: int | None, ratio: float | None, tolerance: dict[str, float] | None) -> BudgetGoal | None:
    """None where no goal is named. Raises BudgetInvalid."""
    named = {"bytes": size, "ratio": ratio, **(tolerance or {})}
    given = {name: value for name, value in named.items() if value is not None}
    return BudgetGoal.read(given) if given else None


def families_named(asked: str | None, profile: ProfileFacts) -> list[str] | None:
    """Of "low rank, quantization", the profile's names. Raises BudgetInvalid for one that it does not have."""
    if asked is None:
        return None
    there = {option.family.lower(): option.family for layer in profile.layers for option in layer.options}
    found = [name.strip().lower() for name in asked.split(",")]
    if unknown := [name for name in found if name not in there]:
        known = ", ".join(sorted(there))
        raise BudgetInvalid(f"The profile has no family {unknown[0]!r}; it has {known}.", "families")
    return [there[name] for name in found]


def expected_text(solver: Solver, budget: Budget) -> str:
    """ "59.8 MB, expected loss 0.0512 nats (0.031 to 0.09 in 8 of 10 cases), 0.4 points (0 to 0.9)"."""
    loss, points = budget.expected.loss, budget.expected.points
    text = f"{budget.size_bytes:,} bytes ({budget.size_bytes / solver.facts.weights_bytes:.1%} of the original), "
    low, high = significant(loss.low), significant(loss.high)
    text += f"expected loss {significant(loss.value)} {loss.unit} ({low} to {high} in 8 of 10 cases)"
    return f"{text}, {points.value:.2g} points ({points.low:.2g} to {points.high:.2g})" if points else text

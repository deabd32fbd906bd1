"""The study that looks for the smallest file within a tolerance: what its runs measured decides the next budget."""

from __future__ import annotations

from webapp.engine.errors import BudgetInvalid
from webapp.engine.profiles.budget import Budget
from webapp.engine.profiles.smallest import Probe, Stop, Try, next_step, within
from webapp.engine.recipe import Recipe
from webapp.engine.run.budgets import best_within, expected_of, limits_of, probe_of, search_on, solver_of
from webapp.engine.techniques import with_versions
from webapp.store.clock import now
from webapp.store.models import Run, RunState, Study
from webapp.units import byte_text, significant

from .study_steps import Begin, Conclude
from .workplace import Workplace


def searched(place: Workplace, study: Study) -> Begin | Conclude:
    """Raises BudgetInvalid where the profile has gone, or the options have nothing to give."""
    if ended := next((run for run in study.runs if run.state is not RunState.SUCCEEDED), None):
        return _ended(study, ended)
    if study.profile is None or study.profile.facts is None:
        raise BudgetInvalid("The profile of this study was deleted, so no other size can be tried.")
    asked = study.question
    solver = solver_of(study.profile.facts, study.profile.measured, study.checkpoint.facts or {})
    limits = limits_of(solver.facts, asked["families"], asked["locks"], asked["run"]["exports"])
    probes = [probed(study, run) for run in study.runs]
    search = search_on(solver, limits, *(asked[name] for name in ("tolerance", "unit", "most_runs", "certain")))
    step = next_step(search, probes, _seconds_left(study))
    if isinstance(step, Try):
        budget = best_within(solver, limits, step.size_bytes)
        if budget.recipe is not None:
            return _probe(study, budget, step)
        step = Stop(None, "Only the original itself is left, as it is.")
    return _concluded(study, step)


def probed(study: Study, run: Run) -> Probe:
    """Raises BudgetInvalid where the run measured nothing that the tolerance is about."""
    unit = study.question["unit"]
    found = probe_of(unit, run.result or {}, (run.receipt or {})["verdict"])
    if found is None:
        raise BudgetInvalid(f"{run.name} measured nothing that a tolerance in {unit} can be held against.")
    return found


def _seconds_left(study: Study) -> float:
    """After another run, if it takes as long as the longest so far."""
    took = [
        (run.finished_at - run.started_at).total_seconds() for run in study.runs if run.finished_at and run.started_at
    ]
    since = (now() - (study.started_at or now())).total_seconds()
    return 60 * float(study.question["most_minutes"]) - since - max(took, default=0.0)


def _probe(study: Study, budget: Budget, step: Try) -> Begin:
    number = len(study.runs) + 1
    asked_bytes = max(step.size_bytes, budget.size_bytes)  # there may be no file as small
    title = f"Probe {number}: at most {byte_text(asked_bytes)}"
    assert study.profile_id is not None
    return Begin(
        {
            "name": f"{study.checkpoint.name}: {title}"[:200],
            "recipe": with_versions(Recipe.read(budget.recipe)).as_dict(),
            "expected": expected_of(study.profile_id, budget),
            "role": {"title": title, "why": step.why, "asked_bytes": asked_bytes},
        }
    )


def _concluded(study: Study, stop: Stop) -> Conclude:
    if stop.found is None:
        return Conclude({"winner": None, "sentence": f"No file within the tolerance was found. {stop.why}"})
    run = study.runs[stop.found]
    probe, unit = probed(study, run), study.question["unit"]
    sure = ""
    if probe.high is not None and probe.high > study.question["tolerance"]:
        sure = f" The interval reaches to {significant(probe.high)}: on these samples it is not certain."
    worse = f"{significant(abs(probe.worse))} {unit} {'better' if probe.worse < 0 else 'worse'}"
    found = f"The smallest file within the tolerance has {byte_text(probe.size_bytes)}, {worse}."
    return Conclude({"winner": run.id, "sentence": f"{found}{sure} {stop.why}"})


def _ended(study: Study, run: Run) -> Conclude:
    """A run that failed, or was cancelled by itself, ends the search with what was found before."""
    why = (run.error or {}).get("message") or "It was cancelled."
    asked = study.question
    done = [place for place, each in enumerate(study.runs) if each.state is RunState.SUCCEEDED]
    held = [place for place in done if within(probed(study, study.runs[place]), asked["tolerance"], asked["certain"])]
    best = min(held, key=lambda place: probed(study, study.runs[place]).size_bytes, default=None)
    return _concluded(study, Stop(best, f"{run.name} has no result. {why}"))

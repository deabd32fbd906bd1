"""Runs without a server, on one checkpoint and its data: of a recipe, of a budget, or of several for one tolerance."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from webapp.engine.errors import BudgetInvalid, PareError
from webapp.engine.profiles.budget import Budget, Limits, Solver
from webapp.engine.profiles.smallest import Probe, Try, next_step
from webapp.engine.recipe import Recipe
from webapp.engine.run.budgets import best_within, expected_of, probe_of, search_on
from webapp.engine.run.checks import check_run, task_of
from webapp.engine.run.footprint import RunFootprint, check_fits, shapes_of
from webapp.engine.run.predict import predict
from webapp.engine.run.receipt import conclude
from webapp.engine.run.receipt_text import table
from webapp.engine.run.sample_answers import FILE as SAMPLES
from webapp.engine.run.stages import RunGiven, RunStage, is_pointless, plan_stages
from webapp.engine.run.stages.base import SourceDigests, StageResults
from webapp.engine.run.stages.export import ExportStage
from webapp.engine.run.stages.job import SourcesGiven, StageOutput
from webapp.engine.run.stages.score import ScoreStage
from webapp.engine.run.stages.step import StepStage
from webapp.engine.run.worsening import POINTS
from webapp.engine.techniques import with_versions
from webapp.engine.weights.originals import is_weights
from webapp.units import byte_text, percent

from .profiling import expected_text
from .progress_bar import ProgressBar
from .sources import named_datasets
from .workbench import Workbench, files_in

ORIGINAL = 0  # the section of the stages that no recipe changes


@dataclass(frozen=True)
class LocalRun:
    """What came of one: its receipt, the folders of the formats that are delivered, what was answered to samples."""

    recipe: Recipe
    receipt: dict[str, Any]
    baseline: dict[str, Any] | None
    result: dict[str, Any]
    exported: list[Path]
    samples: list[Path]

    def forget(self) -> None:
        for folder in self.exported:
            shutil.rmtree(folder)
        for path in self.samples:
            path.unlink()


@dataclass
class LocalRuns:
    """They share what was measured of the original, and those steps that a run which follows begins with."""

    bench: Workbench
    bar: ProgressBar
    sources: SourcesGiven
    exports: tuple[str, ...]
    seed: int
    preprocessing: dict[str, Any]
    shared: dict[str, StageOutput] = field(default_factory=dict)  # by the stages' keys
    following: Sequence[Recipe] = ()  # of the runs that are to come

    def of_recipe(self, recipe: Recipe, expected: dict[str, Any] | None = None) -> LocalRun:
        """Checked as page and API check it."""
        run = self._asked(recipe)
        needs = self.footprint(run)
        planned = plan_stages(run)
        done: dict[str, StageOutput] = {}
        failed: dict[str, Any] = {}
        for name, stage in planned.items():
            if is_pointless(stage, planned, failed):
                continue
            if (made := self.shared.get(stage.key(self.digests))) is not None:
                done[name] = made
                continue
            self.bar.stage(stage.title)
            try:
                done[name] = self.bench.stage(stage, self.sources, done, self.bar.tell, needs.of_stage(name))
            except PareError as error:
                if stage.format is None:
                    raise
                failed[name] = error.as_dict()
        results = StageResults(
            {name: made.facts for name, made in done.items()},
            {name: files_in(made.folder) for name, made in done.items()},
            failed,
        )
        checkpoint = self.sources.checkpoint
        concluded = conclude(
            run,
            self.sources,
            results,
            name=checkpoint.name,
            companions=files_in(checkpoint.folder, leave_out=is_weights),
            expected=expected,
        )
        self._keep({planned[name].key(self.digests): (planned[name], made) for name, made in done.items()})
        missing = {row["format"] for row in concluded["receipt"]["undelivered"]}
        exported = [done[ExportStage.name_of(form)].folder for form in run.exports if form not in missing]
        samples = [path for made in done.values() if (path := made.folder / SAMPLES).exists()]
        return LocalRun(recipe, concluded["receipt"], concluded["baseline"], concluded["result"], exported, samples)

    @cached_property
    def digests(self) -> SourceDigests:
        given = self.sources
        others = (given.dataset, given.training_dataset, given.teacher_checkpoint)
        return SourceDigests(given.checkpoint.digest, *(one and one.digest for one in others))

    def _keep(self, made: Mapping[str, tuple[RunStage, StageOutput]]) -> None:
        """What a later run takes over; the folders of the other steps go."""
        wanted = {stage.key(self.digests) for recipe in self.following for stage in self._steps_of(recipe)}
        original = {key for key, (stage, _) in made.items() if stage.place[0] == ORIGINAL}
        there = self.shared | {key: one for key, (stage, one) in made.items() if key in original or _is_step(stage)}
        self.shared = {key: one for key, one in there.items() if key in wanted | original}
        for key in there.keys() - self.shared.keys():
            shutil.rmtree(there[key].folder, ignore_errors=True)

    def _steps_of(self, recipe: Recipe) -> list[RunStage]:
        return [stage for stage in plan_stages(self.checked(recipe)).values() if _is_step(stage)]

    def planned(self, recipe: Recipe) -> str:
        """What the run would give and need, as text. Raises as `of_recipe`."""
        run, facts = self._asked(recipe), self.sources.checkpoint.facts
        needs, found = self.footprint(run), predict(facts, recipe)
        about = "" if found.exact else "about "
        rows = [(each.title, _most(each.memory_bytes), byte_text(each.disk_bytes)) for each in needs.stages]
        lines = [f"{about}{byte_text(found.after.size_bytes)} of {byte_text(found.before.size_bytes)}", *found.warnings]
        lines += table(
            "What it needs, at most",
            ("", "memory", "disk"),
            [*rows, ("Together", _most(needs.memory_bytes), byte_text(needs.disk_bytes))],
        )
        return "\n".join(lines)

    def planned_for(self, solver: Solver, budget: Budget) -> str:
        return self.planned(self._recipe_of(solver, budget))

    def of_budget(self, solver: Solver, budget: Budget) -> LocalRun:
        """Raises BudgetInvalid where it leaves the original as it is."""
        return self.of_recipe(self._recipe_of(solver, budget), expected_of(None, budget))

    def _recipe_of(self, solver: Solver, budget: Budget) -> Recipe:
        if budget.recipe is None:
            raise BudgetInvalid(
                "The original itself reaches this goal, so there is nothing to do. Set another.", "goal"
            )
        self.bar.say(f"The budget: {expected_text(solver, budget)}.")
        return with_versions(Recipe.read(budget.recipe))

    def smallest(self, solver: Solver, limits: Limits, tolerance: dict[str, float], most_runs: int) -> LocalRun:
        """The smallest file that was within {"points" or "loss": at most}, of so many runs.

        Raises BudgetInvalid where none was, or the data tells nothing of it.
        """
        [(kind, most)] = tolerance.items()
        unit = POINTS if kind == "points" else solver.profile.unit
        search = search_on(solver, limits, most, unit, most_runs)
        probes: list[Probe] = []
        best: LocalRun | None = None
        while isinstance(step := next_step(search, probes), Try):
            self.bar.say(f"Run {len(probes) + 1}: at most {byte_text(step.size_bytes)}. {step.why}")
            found = self.of_budget(solver, best_within(solver, limits, step.size_bytes))
            probe = probe_of(unit, found.result, found.receipt["verdict"])
            if probe is None:
                raise BudgetInvalid(f"The data measures nothing that a tolerance in {unit} can be held against.")
            self.bar.say(found.receipt["verdict"]["sentence"])
            probes.append(probe)
            worse = found
            if search.holds(probe) and (best is None or probe.size_bytes < best.result["size_bytes"]):
                best, worse = found, best
            if worse is not None:
                worse.forget()
        if best is None:
            raise BudgetInvalid(f"No file within the tolerance was found. {step.why}", "tolerance")
        self.bar.say(step.why)
        return best

    def footprint(self, run: RunGiven) -> RunFootprint:
        """What it needs. Raises RecipeInvalid where that is more than there is."""
        given = self.sources
        data = [one.facts if one else None for one in (given.dataset, given.training_dataset)]
        taught = given.teacher_checkpoint.facts if given.teacher_checkpoint else None
        return check_fits(run, shapes_of(run, given.checkpoint.facts, *data, taught), self.bench.limit_bytes)

    def _asked(self, recipe: Recipe) -> RunGiven:
        for row in predict(self.sources.checkpoint.facts, recipe).unreached:
            self.bar.say(f"No step reaches {row.what}, {percent(row.share)} of the file: {row.why}.")
        return self.checked(recipe)

    def checked(self, recipe: Recipe) -> RunGiven:
        """As page and API check it."""
        facts, teacher = self.sources.checkpoint.facts, self.sources.teacher_checkpoint
        dataset, training = named_datasets(self.sources)
        taught = teacher.facts if teacher else None
        prepared = check_run(facts, recipe, self.exports, dataset, training, taught, self.preprocessing)
        return RunGiven(
            recipe=recipe,
            exports=self.exports,
            seed=self.seed,
            preprocessing=prepared.model_dump(mode="json") if prepared else None,
            task=task_of(facts, dataset, training),
        )


def _is_step(stage: RunStage) -> bool:
    return stage.kind in (StepStage.kind, ScoreStage.kind)


def _most(memory_bytes: int | None) -> str:
    return "not known" if memory_bytes is None else byte_text(memory_bytes)

"""One step of the recipe: a technique applied to what the steps before it left."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from webapp.engine.architectures.reshape import describe_model
from webapp.engine.data.batches import CHUNK_TOKENS
from webapp.engine.data.tasks import for_task
from webapp.engine.errors import RecipeInvalid
from webapp.engine.facts import CheckpointFacts
from webapp.engine.importers.gguf.importance import FILE as IMATRIX
from webapp.engine.importers.gguf.importance import Entry, Importance, read_importance, write_importance
from webapp.engine.progress import ProgressPart, Report
from webapp.engine.run.measure import half_precision_bytes
from webapp.engine.run.predict import prepare_step
from webapp.engine.run.proof import write_proof
from webapp.engine.run.shapes import Footprint, RunShapes
from webapp.engine.run.wiring import refusal
from webapp.engine.techniques import DATA_NEEDS, AtWork, Context, technique
from webapp.engine.weights.artifact import read_model, write_model
from webapp.engine.weights.memory import release_freed_memory
from webapp.engine.weights.model import Model
from webapp.engine.weights.originals import original_tensors
from webapp.engine.weights.safetensors import LazyTensor, lazy_tensors, same_tensors

from .base import RunStage, SourceDigests, StageResults
from .baseline import BaselineStage
from .job import RunGiven, StageJob

STATE = "state.safetensors"  # what a step leaves


class StepStage(RunStage):
    kind = "step"
    weight = 2.0

    @classmethod
    def of_run(cls, asked: RunGiven) -> Iterable[Self]:
        return [cls(asked, str(number)) for number in range(1, len(asked.recipe.steps) + 1)]

    @property
    def number(self) -> int:
        """1 is the recipe's first."""
        return int(self.which)

    @property
    def title(self) -> str:
        return f"Step {self.which}: {technique(self.asked.recipe.steps[self.number - 1].technique).title}"

    @property
    def place(self) -> tuple[int, int]:
        return self.number, 0

    @property
    def inputs(self) -> tuple[str, ...]:
        before = (self.name_of(self.number - 1),) if self.number > 1 else ()
        return BaselineStage.name_of(), *before

    def decided_by(self, sources: SourceDigests) -> dict[str, Any]:
        return self.by_steps(sources, self.number)

    def footprint(self, shapes: RunShapes) -> Footprint:
        """The technique, then the proof of what it leaves; on the disk, that and what was not in memory on the way."""
        left, after = shapes.left[self.number - 1], shapes.models[self.number]
        before = shapes.models[self.number - 1]
        disk = 2 * shapes.sizes[self.number]
        needs = left.step.needs(left.facts_before)
        if not shapes.known:
            return Footprint.of(None, disk)
        at_work = AtWork(before, left.step.layers, left.step.settings, shapes.spec, shapes.seen, shapes.teaching, needs)
        working = left.step.technique.working_bytes(at_work)
        disk += left.step.technique.kept_bytes(at_work, after, shapes.sizes[self.number])
        return Footprint.of(max(working, shapes.proof(after)), disk)

    def run(self, job: StageJob, report: Report) -> dict[str, Any]:
        place = f"steps.{self.number - 1}"
        if reason := refusal(job.checkpoint.facts.architecture, job.run.recipe, self.number - 1, job.wiring()):
            raise RecipeInvalid(reason, place)
        model = job.original() if self.number == 1 else read_model(self._earlier(job))
        model.weights.spill_into(job.output)
        model.weights.open_blocks()
        facts = describe_model(model, job.checkpoint.facts)
        asked = job.run.recipe.steps[self.number - 1]
        prepared = prepare_step(facts, asked, self.number - 1)
        for layer in prepared.layers:
            if reason := prepared.technique.refuses(model.plan(layer.weight)):
                raise RecipeInvalid(f"{prepared.technique.title} cannot take {layer.name}: {reason}.", place)
        own_task = model.architecture.task if model.architecture else None  # stays in the file
        if model.architecture is not None:
            model.architecture = for_task(model.architecture, job.task)
        start = time.perf_counter()
        needs_data = bool(prepared.technique.needs_for(prepared.settings.own) & DATA_NEEDS)
        context = Context(
            prepared.layers,
            job.run.seed + self.number,
            ProgressPart(report, 0.0, 0.8),
            job.technique_data() if needs_data else None,
            job.scratch,
            job.teacher,
            facts,
            job.checkpoint.folder,
        )
        activations = dict(model.activations)
        outcomes = prepared.applied(model, context)
        model.weights.close_blocks()
        seconds = time.perf_counter() - start
        report.progress(0.85, "Storing what the step made")
        if model.architecture is not None:
            model.architecture = model.architecture.model_copy(update={"task": own_task})
        size = write_model(model, job.output / STATE)
        release_freed_memory()
        self._write_importance(job, model, facts, context)
        changed = model.activations != activations or not same_tensors(
            self._begun_with(job), lazy_tensors(job.output / STATE)
        )
        half_bytes = half_precision_bytes(model)
        write_proof(model, job.output, job.run.seed)
        for outcome in outcomes:
            if not outcome.ok:
                report.log(f"{outcome.layer}: asked {outcome.asked}, {outcome.done}; {outcome.note}")
        if not changed:
            report.log(f"{prepared.technique.title} changed nothing.")
        report.log(f"{prepared.technique.title}: {len(outcomes)} results, {size:,} bytes, {seconds:.1f} s")
        return {
            "technique": prepared.technique.name,
            "title": prepared.technique.title,
            "version": prepared.technique.version,
            "settings": prepared.settings.own.model_dump(mode="json"),
            "overrides": asked.overrides,
            "seconds": seconds,
            "size_bytes": size,
            "half_bytes": half_bytes,
            "changed": changed,
            "layers": [asdict(outcome) for outcome in outcomes],
        }

    def receipt(self, results: StageResults) -> dict[str, Any]:
        step = results.facts[self.name]
        asked_and_done = [{"step": self.number, "technique": step["technique"], **layer} for layer in step["layers"]]
        return {"steps": [step], "requested": asked_and_done}

    def _begun_with(self, job: StageJob) -> dict[str, LazyTensor]:
        return original_tensors(job.checkpoint.folder) if self.number == 1 else lazy_tensors(self._earlier(job))

    def _write_importance(self, job: StageJob, model: Model, before: CheckpointFacts, context: Context) -> None:
        """What this step and those before measured of the inputs, while the layers keep their names and shapes."""
        known: dict[str, Entry] = {}
        shapes = {name: plan.shape for name, plan in model.weights.plans.items()}
        same = shapes == {tensor.name: tensor.shape for tensor in before.tensors}
        if self.number > 1 and same and (earlier := self._earlier(job).with_name(IMATRIX)).exists():
            known |= read_importance(earlier, IMATRIX).entries
        known |= context.importance
        if known:
            seen = max(int(entry.counts.max()) for entry in known.values())
            names = [given.name for given in (job.training_dataset or job.dataset,) if given is not None]
            made = Importance(known, max(1, seen // CHUNK_TOKENS), CHUNK_TOKENS, tuple(names))
            write_importance(job.output / IMATRIX, made)

    def _earlier(self, job: StageJob) -> Path:
        """The file that the step before left."""
        return job.inputs[self.name_of(self.number - 1)].folder / STATE


def last_step(asked: RunGiven) -> str:
    """The name of the stage that leaves what is delivered."""
    return StepStage.name_of(len(asked.recipe.steps))

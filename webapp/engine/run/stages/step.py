"""One step of the recipe: a technique applied to what the steps before it left."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from webapp.engine.architectures.reshape import describe_model
from webapp.engine.data.tasks import for_task
from webapp.engine.errors import RecipeInvalid
from webapp.engine.progress import ProgressPart, Report
from webapp.engine.run.plan import STATE
from webapp.engine.run.predict import prepare_step
from webapp.engine.run.proof import write_proof
from webapp.engine.run.sizes import half_precision_bytes
from webapp.engine.run.wiring import refusal
from webapp.engine.techniques import DATA_NEEDS, Context
from webapp.engine.weights.artifact import read_model, write_model
from webapp.engine.weights.memory import release_freed_memory
from webapp.engine.weights.model import Model
from webapp.engine.weights.safetensors import same_tensors

from .job import StageJob


def run(job: StageJob, report: Report) -> dict[str, Any]:
    number = int(job.stage.removeprefix("step-"))
    if reason := refusal(job.checkpoint.facts.architecture, job.run.recipe, number - 1, job.wiring()):
        raise RecipeInvalid(reason, f"steps.{number - 1}")
    model = _before(job, number)
    facts = describe_model(model, job.checkpoint.facts)
    asked = job.run.recipe.steps[number - 1]
    prepared = prepare_step(facts, asked, number - 1)
    for layer in prepared.layers:
        reason = prepared.technique.refuses(model.weights[layer.weight].plan)
        if reason:
            raise RecipeInvalid(
                f"{prepared.technique.title} cannot take {layer.name}: {reason}.", f"steps.{number - 1}"
            )
    told = model.architecture.task if model.architecture else None  # stays in the file
    if model.architecture is not None:
        model.architecture = for_task(model.architecture, job.task)
    start = time.perf_counter()
    needs_data = bool(prepared.technique.needs_for(prepared.settings.own) & DATA_NEEDS)
    context = Context(
        prepared.layers,
        job.run.seed + number,
        ProgressPart(report, 0.0, 0.8),
        job.technique_data() if needs_data else None,
        job.scratch,
        job.teacher,
        facts,
    )
    activations = dict(model.activations)
    outcomes = prepared.technique.apply(model, prepared.settings, context)
    seconds = time.perf_counter() - start
    report.progress(0.85, "Storing what the step made")
    if model.architecture is not None:
        model.architecture = model.architecture.model_copy(update={"task": told})
    size = write_model(model, job.output / STATE)
    release_freed_memory()
    changed = model.activations != activations or not same_tensors(_source(job, number), job.output / STATE)
    half_bytes = half_precision_bytes(model)
    write_proof(model, job.output, job.run.seed, keep=False)
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


def _before(job: StageJob, number: int) -> Model:
    return job.original() if number == 1 else read_model(_source(job, number))


def _source(job: StageJob, number: int) -> Path:
    """The file that the step begins from."""
    return job.checkpoint.folder / "model.safetensors" if number == 1 else job.inputs[f"step-{number - 1}"] / STATE

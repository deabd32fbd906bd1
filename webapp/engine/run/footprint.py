"""What a run needs at most, of memory and disk, stage by stage: told before it runs, and refused where it cannot fit.

A stage's process is held to the memory that is foreseen here (`jobs.child`), and the receipt has what it took beside
it. Where a model cannot be followed without values nothing is foreseen of what runs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pydantic import BaseModel, Field

from webapp.engine.errors import RecipeInvalid
from webapp.engine.exporters import exporters
from webapp.engine.facts import CheckpointFacts, DatasetFacts
from webapp.engine.techniques import technique
from webapp.units import byte_text

from .shapes import Footprint, RunShapes
from .stages import RunGiven, plan_stages
from .stages.job import EVALUATE_AT_MOST, evaluated_as

FEWER_SAMPLES = 8


class StageFootprint(Footprint):
    """`memory_bytes` at most, of the stage's process; None: not known beforehand."""

    stage: str
    title: str


class RunFootprint(BaseModel):
    """What a run needs at most."""

    stages: list[StageFootprint]
    memory_bytes: int | None = Field(description="Of the stage that needs most; null where that is not known.")
    disk_bytes: int = Field(description="Of what all stages leave and need on the way.")

    def of_stage(self, name: str) -> int | None:
        """The memory of one stage; None where it is not known."""
        return next((stage.memory_bytes for stage in self.stages if stage.stage == name), None)


def shapes_of(
    asked: RunGiven,
    checkpoint: CheckpointFacts,
    dataset: DatasetFacts | None = None,
    training: DatasetFacts | None = None,
    teacher: CheckpointFacts | None = None,
) -> RunShapes:
    """Raises RecipeInvalid."""
    evaluate = None
    if dataset is not None and checkpoint.architecture is not None:
        evaluate = (dataset, asked.evaluate_at_most or EVALUATE_AT_MOST[evaluated_as(dataset, checkpoint.architecture)])
    return RunShapes.of(checkpoint, asked.recipe, asked.task, evaluate, training, teacher)


def footprint(asked: RunGiven, shapes: RunShapes) -> RunFootprint:
    stages = [
        StageFootprint(stage=name, title=stage.title, **dict(stage.footprint(shapes)))
        for name, stage in plan_stages(asked).items()
    ]
    known = [stage.memory_bytes for stage in stages if stage.memory_bytes is not None]
    return RunFootprint(
        stages=stages,
        memory_bytes=max(known) if len(known) == len(stages) else None,
        disk_bytes=sum(stage.disk_bytes for stage in stages),
    )


def check_fits(asked: RunGiven, shapes: RunShapes, limit_bytes: int | None) -> RunFootprint:
    """What the run needs. Raises RecipeInvalid where a stage needs more memory than there is, with what would do."""
    found = footprint(asked, shapes)
    over = [stage for stage in found.stages if limit_bytes and (stage.memory_bytes or 0) > limit_bytes]
    if over and limit_bytes:
        worst = max(over, key=lambda stage: stage.memory_bytes or 0)
        ways = list(_ways(asked, shapes, limit_bytes))
        others = f"{', or '.join(ways)}; or " if ways else ""
        raise RecipeInvalid(
            f"{worst.title} would need up to {byte_text(worst.memory_bytes or 0)} of memory, and a run may use "
            f"{byte_text(limit_bytes)} here. What would do: {others}{byte_text(worst.memory_bytes or 0)} of memory or "
            "more (the setting run_memory_limit_bytes, or --memory).",
            _field(asked, worst.stage),
        )
    return found


def _field(asked: RunGiven, stage: str) -> str:
    kind, _, which = stage.partition("-")
    return f"steps.{int(which) - 1}" if kind == "step" else "exports" if which in asked.exports else "dataset_id"


def _ways(asked: RunGiven, shapes: RunShapes, limit_bytes: int) -> Iterator[str]:
    """Changes of what is asked with which it would fit, as the rest of a sentence."""

    def fits(changed: RunGiven, others: RunShapes = shapes) -> bool:
        needs = footprint(changed, others).memory_bytes
        return needs is not None and needs <= limit_bytes

    if shapes.evaluating is not None and fits(asked, replace(shapes, evaluating=None)):
        yield "measure no quality (a run without a dataset that evaluates)"
    for name in asked.exports:
        form = exporters()[name]
        if not form.can.always and fits(
            asked.model_copy(update={"exports": tuple(e for e in asked.exports if e != name)})
        ):
            yield f"leave {form.title} out"
    for number, step in enumerate(asked.recipe.steps):
        title, fields = technique(step.technique).title, technique(step.technique).Settings.model_fields
        for key, value, words in (
            ("samples", FEWER_SAMPLES, f"{FEWER_SAMPLES} calibration samples for {title}"),
            ("batch_size", 1, f"batches of one sample for {title}"),
            ("lora_rank", 8, f"LoRA (lora_rank 8) for {title}"),
        ):
            if key not in fields or step.settings.get(key) == value:
                continue
            steps = list(asked.recipe.steps)
            steps[number] = step.model_copy(update={"settings": {**step.settings, key: value}})
            recipe = asked.recipe.model_copy(update={"steps": tuple(steps)})
            if fits(asked.model_copy(update={"recipe": recipe}), shapes.with_recipe(recipe)):
                yield words

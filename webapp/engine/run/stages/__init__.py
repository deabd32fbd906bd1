"""A run as stages, each of them one piece of durable work: what there is to do, in which order, from what.

    baseline ─► (steps, scores and verifications)
    step-1 ─► step-2 ─► … ─► export-safetensors ─► verify-safetensors
       └─► score-1  └─► … └► export-onnx ────────► verify-onnx
    original-onnx ────────────────────────────────┘

Each kind is a file of this folder, found by being there, or an entry point of `pare.stages`. Planning reads no tensor
and imports no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from webapp.engine.exporters import check_names
from webapp.engine.plugins import declared
from webapp.engine.progress import Report

from .base import FormatStage, RunStage
from .job import RunGiven, StageJob


@cache
def stages() -> dict[str, type[RunStage]]:
    """Every kind of stage by its name."""
    return declared(sys.modules[__name__], RunStage, "kind")  # type: ignore[type-abstract]


def plan_stages(asked: RunGiven) -> dict[str, RunStage]:
    """A run's stages by their names, in their order.

    Raises RecipeInvalid for a format that is there no more; the stages' titles and keys do so for a technique.
    """
    check_names(asked.exports)
    found = [stage for kind in stages().values() for stage in kind.of_run(asked)]
    return {stage.name: stage for stage in sorted(found, key=lambda stage: stage.place)}


def format_of(name: str) -> str | None:
    """The format whose stage has this name, whatever run it is of."""
    kind, _, which = name.partition("-")
    return which if issubclass(stages().get(kind, RunStage), FormatStage) else None


def is_pointless(stage: RunStage, planned: Mapping[str, RunStage], failed: Collection[str]) -> bool:
    """Whether its format is lost already, by those of the run's stages that failed."""
    lost = {planned[name].format for name in failed if not planned[name].optional}
    return stage.format is not None and stage.format in lost


def run_stage(job: StageJob, report: Report) -> dict[str, Any]:
    """Does one stage: files go into `job.output`, the facts come back as plain JSON data. Raises PareError."""
    return plan_stages(job.run)[job.stage].run(job, report)

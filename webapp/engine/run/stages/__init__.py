"""The stages of a run, one file each, as they run in the child process. `run_stage` finds the one that is asked for."""

from __future__ import annotations

from typing import Any

from webapp.engine.progress import Report

from . import baseline, export, score, step, verify
from .job import StageJob

_STAGES = {
    "baseline": baseline.run,
    "original": export.run_original,
    "step": step.run,
    "score": score.run,
    "export": export.run,
    "verify": verify.run,
}


def run_stage(job: StageJob, report: Report) -> dict[str, Any]:
    """Does one stage: files go into `job.output`, the facts come back as plain JSON data. Raises PareError."""
    return _STAGES[job.stage.partition("-")[0]](job, report)


__all__ = ["StageJob", "run_stage"]

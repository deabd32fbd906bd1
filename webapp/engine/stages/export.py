"""The file that the user downloads."""

from __future__ import annotations

from typing import Any

from ..artifact import read_model, write_model
from ..pipeline import ARTIFACT, STATE
from ..progress import Report
from .job import StageJob


def run(job: StageJob, report: Report) -> dict[str, Any]:
    last = job.inputs[f"step-{len(job.run.recipe.steps)}"]
    report.progress(0.1, "Writing the artifact")
    size = write_model(read_model(last / STATE), job.output / ARTIFACT)
    report.log(f"{ARTIFACT}: {size:,} bytes")
    return {"format": job.stage.removeprefix("export-"), "file": ARTIFACT, "size_bytes": size}

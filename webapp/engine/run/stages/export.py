"""The files that the user downloads, and the original in the same format for whoever wants to time both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from webapp.engine.exporters import exporters
from webapp.engine.progress import Report
from webapp.engine.run.changed_config import write_companions
from webapp.engine.run.plan import STATE
from webapp.engine.weights.artifact import read_model

from .job import StageJob


def run(job: StageJob, report: Report) -> dict[str, Any]:
    form = exporters()[job.stage.removeprefix("export-")]
    report.progress(0.1, f"Writing {form.file}")
    model, spec = read_model(job.inputs[f"step-{len(job.run.recipe.steps)}"] / STATE), job.checkpoint.facts.architecture
    written = form.write(replace(model, files=job.checkpoint.folder), job.output)
    if form.can.always:
        write_companions(model, job.checkpoint.folder, spec.config if spec else None, job.output)
    report.log(f"{form.file}: {written['size_bytes']:,} bytes")
    for note in written.get("notes", ()):
        report.log(f"{form.file}: {note}")
    return {"format": form.name, "file": form.file, **written}


def run_original(job: StageJob, report: Report) -> dict[str, Any]:
    form = exporters()[job.stage.removeprefix("original-")]
    report.progress(0.1, f"Writing the original as {form.title}")
    return {"format": form.name, **form.write(job.original(), job.output)}

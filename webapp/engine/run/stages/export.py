"""The files that the user downloads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from webapp.engine.progress import Report
from webapp.engine.run.changed_config import write_companions
from webapp.engine.weights.artifact import read_model

from .base import FormatStage, SourceDigests
from .job import StageJob
from .step import STATE, last_step


class ExportStage(FormatStage):
    kind = "export"
    rank = 1

    @property
    def title(self) -> str:
        return f"Write {self.exporter.title}"

    @property
    def inputs(self) -> tuple[str, ...]:
        return (last_step(self.asked),)

    def decided_by(self, sources: SourceDigests) -> dict[str, Any]:
        return self.by_steps(sources)

    def run(self, job: StageJob, report: Report) -> dict[str, Any]:
        form, spec = self.exporter, job.checkpoint.facts.architecture
        report.progress(0.1, f"Writing {form.file}")
        model = read_model(job.inputs[last_step(self.asked)].folder / STATE)
        written = form.write(replace(model, files=job.checkpoint.folder), job.output)
        if form.can.always:
            write_companions(model, job.checkpoint.folder, spec.config if spec else None, job.output)
        report.log(f"{form.file}: {written['size_bytes']:,} bytes")
        for note in written.get("notes", ()):
            report.log(f"{form.file}: {note}")
        return {"format": form.name, "file": form.file, **written}

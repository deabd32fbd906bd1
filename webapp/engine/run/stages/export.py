"""The files that the user downloads."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from webapp.engine.architectures.transformers_family import NO_POOLING
from webapp.engine.errors import ExportUnfit
from webapp.engine.importers.gguf.importance import FILE as IMATRIX
from webapp.engine.progress import Report
from webapp.engine.run.shapes import Footprint, RunShapes
from webapp.engine.weights.artifact import read_model
from webapp.engine.weights.model import Model

from .base import FormatStage, SourceDigests
from .job import StageJob
from .step import STATE, last_step

CONFIG = "config.json"


def write_companions(model: Model, original: Path, before: dict[str, Any] | None, folder: Path) -> list[str]:
    """Writes into `folder` what differs from the checkpoint's own files in `original`; returns the names.

    `before` is the config of the architecture as it was uploaded. Heads, widths and blocks that were cut are in the
    config of today's, and stock `from_pretrained` reads them from there.
    """
    spec, path = model.architecture, original / CONFIG
    if spec is None or before is None or spec.config == before or not path.exists():
        return []
    changed = {key: value for key, value in spec.config.items() if before.get(key) != value and key != NO_POOLING}
    config = json.loads(path.read_text(encoding="utf8")) | changed
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf8")
    return [CONFIG]


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

    def footprint(self, shapes: RunShapes) -> Footprint:
        return Footprint.of(self.exporter.writing(shapes.result), shapes.sizes[-1])

    def run(self, job: StageJob, report: Report) -> dict[str, Any]:
        form, spec = self.exporter, job.checkpoint.facts.architecture
        report.progress(0.1, f"Writing {form.file}")
        model = read_model(job.inputs[last_step(self.asked)].folder / STATE)
        written = form.write(replace(model, files=job.checkpoint.folder), job.output)
        if not (job.output / form.file).is_file():
            raise ExportUnfit(f"{form.title} was asked to write {form.file}, and did not.")
        if form.can.always:
            if (measured := job.inputs[last_step(self.asked)].folder / IMATRIX).exists():
                shutil.copyfile(measured, job.output / IMATRIX)
            write_companions(model, job.checkpoint.folder, spec.config if spec else None, job.output)
        report.log(f"{form.file}: {written['size_bytes']:,} bytes")
        for note in written.get("notes", ()):
            report.log(f"{form.file}: {note}")
        return {"format": form.name, "file": form.file, **written}

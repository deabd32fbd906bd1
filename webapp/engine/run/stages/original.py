"""The original in the format of an artifact, so that both are timed in the same runtime."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from webapp.engine.progress import Report
from webapp.engine.run.shapes import Footprint, RunShapes

from .base import FormatStage, SourceDigests
from .job import RunGiven, StageJob


class OriginalStage(FormatStage):
    kind = "original"
    rank = 0

    @classmethod
    def of_run(cls, asked: RunGiven) -> Iterable[Self]:
        return [stage for stage in super().of_run(asked) if stage.exporter.can.original]

    @property
    def title(self) -> str:
        return f"Write the original as {self.exporter.title} too"

    @property
    def optional(self) -> bool:
        return self.format is not None

    def decided_by(self, sources: SourceDigests) -> dict[str, Any]:
        return {}

    def footprint(self, shapes: RunShapes) -> Footprint:
        return Footprint.of(self.exporter.writing(shapes.original), shapes.sizes[0])

    def run(self, job: StageJob, report: Report) -> dict[str, Any]:
        report.progress(0.1, f"Writing the original as {self.exporter.title}")
        return {"format": self.which, **self.exporter.write(job.original(), job.output)}

"""The original, measured before anything is done to it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from webapp.engine.architectures.streaming import runnable
from webapp.engine.data.batches import Batch
from webapp.engine.progress import Report
from webapp.engine.run.measure import evaluate, measured_sizes
from webapp.engine.run.metrics import Samples, Scores, number_text, summarise
from webapp.engine.run.shapes import Footprint, RunShapes
from webapp.engine.run.wiring import judged, marked
from webapp.engine.weights.originals import original_sizes

from .base import RunStage, SourceDigests, StageResults
from .job import RunGiven, StageJob

SCORES = "scores.json"  # per sample, for paired comparisons: of the original here, of the result where it is verified


def write_scores(scores: Scores, folder: Path) -> None:
    found = {name: asdict(samples) for name, samples in scores.items()}
    (folder / SCORES).write_text(json.dumps(found), encoding="utf8")


def read_scores(path: Path) -> Scores:
    return {name: Samples(**given) for name, given in json.loads(path.read_text(encoding="utf8")).items()}


class BaselineStage(RunStage):
    kind = "baseline"
    weight = 2.0
    title = "Measure the original"
    place = (0, 0)

    @classmethod
    def of_run(cls, asked: RunGiven) -> Iterable[Self]:
        return [cls(asked)]

    def decided_by(self, sources: SourceDigests) -> dict[str, Any]:
        return self.by_evaluation(sources)

    def footprint(self, shapes: RunShapes) -> Footprint:
        measured = shapes.evaluation(shapes.original) if shapes.known else None
        return Footprint.of(measured, 0)

    def run(self, job: StageJob, report: Report) -> dict[str, Any]:
        report.progress(0.0, "Reading the original")
        sizes = measured_sizes(original_sizes(job.checkpoint.folder), job.original(), job.checkpoint.facts)
        why_not = job.unavailable()
        found: Scores = {}
        metrics: dict[str, Any] = {}
        model = job.original()
        data: Sequence[Batch] = ()
        if why_not is None:
            spec = job.spec
            assert spec is not None
            data = job.evaluation()
            found, _ = evaluate(runnable(model), spec, data, report)
            metrics = summarise(found, job.run.seed)
            for name, metric in metrics.items():
                report.log(f"Original: {name} {number_text(metric['value'], name)} (n = {metric['n']:,})")
        wiring = judged(model, found.get("accuracy"), data, job.dataset.facts if job.dataset else None)
        if wiring is not None:
            report.log(wiring["sentence"])
        write_scores(found, job.output)
        return {
            **sizes,
            "metrics": marked(metrics, wiring),
            "metrics_unavailable": why_not,
            "latency_ms": None,
            "wiring": wiring,
        }

    def receipt(self, results: StageResults) -> dict[str, Any]:
        """It is timed beside the result, in the runtime that loads that."""
        found = results.facts[self.name]
        wiring = found.get("wiring")
        return {"baseline": found, "wiring": wiring, "notes": [wiring["sentence"]] if wiring else []}

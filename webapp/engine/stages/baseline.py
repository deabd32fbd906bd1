"""The original, measured before anything is done to it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from ..measure import evaluate, summarise
from ..modules import build
from ..progress import Report
from ..sizes import measure_file
from .job import StageJob

SCORES = "scores.json"  # per sample, for the paired comparison with the result


def run(job: StageJob, report: Report) -> dict[str, Any]:
    report.progress(0.0, "Reading the original")
    sizes = measure_file(job.checkpoint.folder / "model.safetensors", job.original(), job.checkpoint.facts)
    why_not = job.unavailable()
    scores: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    if why_not is None:
        spec = job.checkpoint.facts.architecture
        assert spec is not None
        data = job.evaluation()
        found, _ = evaluate(build(job.original()), spec, data, report)
        scores, metrics = {name: asdict(samples) for name, samples in found.items()}, summarise(found, job.run.seed)
        for name, metric in metrics.items():
            report.log(f"Original: {name} {metric['value']:.4f} (n = {metric['n']:,})")
    (job.output / SCORES).write_text(json.dumps(scores), encoding="utf8")
    return {**sizes, "metrics": metrics, "metrics_unavailable": why_not, "latency_ms": None}

"""Quality after a step that is not the last, so that it is seen which step cost it."""

from __future__ import annotations

from typing import Any

from webapp.engine.architectures.build import build
from webapp.engine.progress import Report
from webapp.engine.run.measure import evaluate
from webapp.engine.run.metrics import number_text, summarise
from webapp.engine.run.plan import STATE
from webapp.engine.run.wiring import marked
from webapp.engine.weights.artifact import read_model

from .job import StageJob


def run(job: StageJob, report: Report) -> dict[str, Any]:
    """{"metrics"}, empty where quality cannot be measured. The original takes part only where there are no labels."""
    if job.unavailable() is not None:
        return {"metrics": {}}
    number, spec = job.stage.removeprefix("score-"), job.spec
    assert spec is not None
    report.progress(0.0, f"Measuring what step {number} left")
    data = job.evaluation()
    alone = spec.task == "causal-lm" or data[0].targets is not None
    reference = None if alone else build(job.original())
    left = build(read_model(job.inputs[f"step-{number}"] / STATE))
    scores, more = evaluate(left, spec, data, report, reference=reference)
    metrics = marked({**summarise(scores, job.run.seed), **more}, job.wiring())
    for name, metric in metrics.items():
        report.log(f"After step {number}: {name} {number_text(metric['value'])} (n = {metric['n']:,})")
    return {"metrics": metrics}

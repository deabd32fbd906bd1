"""Quality after a step that is not the last, so that it is seen which step cost it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from webapp.engine.architectures.streaming import runnable
from webapp.engine.progress import Report
from webapp.engine.run.measure import evaluate
from webapp.engine.run.metrics import number_text, summarise
from webapp.engine.run.shapes import Footprint, RunShapes
from webapp.engine.run.wiring import marked
from webapp.engine.weights.artifact import read_model

from .base import RunStage, SourceDigests, StageResults
from .baseline import BaselineStage
from .job import RunGiven, StageJob
from .step import STATE, StepStage


class ScoreStage(RunStage):
    kind = "score"

    @classmethod
    def of_run(cls, asked: RunGiven) -> Iterable[Self]:
        """None after the last step: the delivered file itself is measured."""
        return [cls(asked, str(number)) for number in range(1, len(asked.recipe.steps))]

    @property
    def title(self) -> str:
        return f"Measure what step {self.which} left"

    @property
    def place(self) -> tuple[int, int]:
        return int(self.which), 1

    @property
    def inputs(self) -> tuple[str, ...]:
        return BaselineStage.name_of(), StepStage.name_of(self.which)

    def decided_by(self, sources: SourceDigests) -> dict[str, Any]:
        return self.by_evaluation(sources) | self.by_steps(sources, int(self.which))

    def footprint(self, shapes: RunShapes) -> Footprint:
        models = shapes.models[int(self.which)], shapes.original
        return Footprint.of(shapes.evaluation(*models) if shapes.known else None, 0)

    def run(self, job: StageJob, report: Report) -> dict[str, Any]:
        """{"metrics"}, empty where quality cannot be measured. The original takes part where there are no labels."""
        if job.unavailable() is not None:
            return {"metrics": {}}
        spec = job.spec
        assert spec is not None
        report.progress(0.0, self.title)
        data = job.evaluation()
        alone = spec.task == "causal-lm" or data[0].targets is not None
        reference = None if alone else runnable(job.original())
        left = runnable(read_model(job.inputs[StepStage.name_of(self.which)].folder / STATE))
        scores, more = evaluate(left, spec, data, report, reference=reference)
        metrics = marked({**summarise(scores, job.run.seed), **more}, job.wiring())
        for name, metric in metrics.items():
            report.log(f"After step {self.which}: {name} {number_text(metric['value'], name)} (n = {metric['n']:,})")
        return {"metrics": metrics}

    def receipt(self, results: StageResults) -> dict[str, Any]:
        return {"after_steps": [results.facts[self.name]["metrics"]]}

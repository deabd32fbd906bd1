"""A clean process loads a delivered file, compares its answers, and measures it: every figure comes from here."""

from __future__ import annotations

import json
import time
from typing import Any

from webapp.engine.architectures.build import build
from webapp.engine.data.batches import Batch, outputs, synthetic
from webapp.engine.errors import ArtifactUnproven
from webapp.engine.exporters import Exporter, Loaded, exporters
from webapp.engine.facts import ArchitectureSpec
from webapp.engine.lazy import nn
from webapp.engine.progress import ProgressPart, Report
from webapp.engine.run.example import write_example
from webapp.engine.run.latency import in_turns, percentiles
from webapp.engine.run.measure import evaluate
from webapp.engine.run.metrics import Samples, Scores, difference, summarise
from webapp.engine.run.plan import STATE
from webapp.engine.run.proof import compare_probe
from webapp.engine.run.sizes import measure_file
from webapp.engine.run.wiring import marked
from webapp.engine.weights.artifact import read_model

from .baseline import SCORES
from .job import StageJob


def run(job: StageJob, report: Report) -> dict[str, Any]:
    """{"proof", "result", "differences", "baseline_latency_ms"}; of Pare's own file the result has every byte."""
    start = time.perf_counter()
    form = exporters()[job.stage.removeprefix("verify-")]
    folder = job.inputs[f"export-{form.name}"]
    report.progress(0.0, "Loading the artifact in a clean process")
    loaded = form.load(folder, job.checkpoint.facts.architecture)
    left = job.inputs[f"step-{len(job.run.recipe.steps)}"]
    rounded = form.rounded(read_model(left / STATE)) if form.can.rounds else None
    proof = compare_probe(loaded, job.checkpoint.facts.architecture, left, rounded)
    if not proof["agreed"]:
        raise ArtifactUnproven(
            f"{form.file} was loaded again and answered differently: the largest difference is "
            f"{proof['max_abs_difference']:.3g}, and {proof['tolerance']:.3g} is allowed."
        )
    proof |= {"artifact": form.file, "seconds": time.perf_counter() - start}
    report.log(f"{form.file}: loaded again by a clean process, largest difference {proof['max_abs_difference']:.3g}")
    result: dict[str, Any] = {"metrics": {}, "metrics_unavailable": job.unavailable(), "latency_ms": None}
    if loaded.model is not None:
        result = {**measure_file(folder / form.file, loaded.model, job.checkpoint.facts), **result}
    facts: dict[str, Any] = {"proof": proof, "differences": {}, "baseline_latency_ms": None, "result": result}
    spec = job.checkpoint.facts.architecture
    if spec is not None and job.dataset is not None:
        _measure(job, form, loaded, facts, report)
    if spec is not None and loaded.runner is not None:
        batch = job.evaluation()[0] if job.dataset is not None else synthetic(spec, job.run.seed)
        write_example(loaded.runner, spec, batch, job.output)
    return facts


def _measure(job: StageJob, form: Exporter, loaded: Loaded, facts: dict[str, Any], report: Report) -> None:
    spec, compressed = job.spec, loaded.module
    assert spec is not None
    assert compressed is not None
    data = job.evaluation()
    original = build(job.original())
    scores, more = evaluate(compressed, spec, data, ProgressPart(report, 0.1, 0.8), reference=original)
    facts["result"]["metrics"] = marked({**summarise(scores, job.run.seed), **more}, job.wiring())
    facts["differences"] = _differences(job, scores)
    if not form.can.timed or (form.can.original and f"original-{form.name}" not in job.inputs):
        return
    report.progress(0.8, "Timing original and result in turns")
    beside = _same_runtime(job, form, original)
    one = _single(data[0])
    turns = in_turns(lambda: outputs(beside, spec, one), lambda: outputs(compressed, spec, one))
    batch = _described(spec, one)
    facts["baseline_latency_ms"] = percentiles(turns.original, batch, loaded.runtime)
    facts["result"]["latency_ms"] = percentiles(turns.result, batch, loaded.runtime)
    facts["result"]["speed"] = speed = turns.speed()
    report.log(f"{form.file}: {speed['words']} in {loaded.runtime}. {speed['disturbed'] or 'Undisturbed.'}")


def _same_runtime(job: StageJob, form: Exporter, original: nn.Module) -> nn.Module:
    """The original as the artifact's runtime runs it."""
    if not form.can.original:
        return original
    found = form.load(job.inputs[f"original-{form.name}"], job.checkpoint.facts.architecture).module
    assert found is not None
    return found


def _differences(job: StageJob, scores: Scores) -> dict[str, Any]:
    before = json.loads((job.inputs["baseline"] / SCORES).read_text(encoding="utf8"))
    return {
        metric: difference(metric, Samples(**before[metric]), scores[metric], job.run.seed)
        for metric in before
        if metric in scores
    }


def _single(batch: Batch) -> Batch:
    """Its first sample alone: what a server answers to one request."""
    return batch.first(1)


def _described(spec: ArchitectureSpec, batch: Batch) -> str:
    shapes = ", ".join("×".join(str(n) for n in tensor.shape) for tensor in batch.inputs.values())
    return f"1 sample ({shapes})"

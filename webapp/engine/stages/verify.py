"""A clean process loads the delivered file, compares its answers, and measures it: every figure comes from here."""

from __future__ import annotations

import json
import time
from typing import Any

from ..artifact import read_model
from ..batches import Batch, outputs
from ..errors import ArtifactUnproven
from ..facts import ArchitectureSpec
from ..latency import interleaved, percentiles
from ..measure import Samples, Scores, difference, evaluate, summarise
from ..modules import build
from ..pipeline import ARTIFACT
from ..probe import compare_probe
from ..progress import Part, Report
from ..sizes import deflated_bytes, measure_file
from .baseline import SCORES
from .job import StageJob


def run(job: StageJob, report: Report) -> dict[str, Any]:
    start = time.perf_counter()
    form = job.stage.removeprefix("verify-")
    path = job.inputs[f"export-{form}"] / ARTIFACT
    report.progress(0.0, "Loading the artifact in a clean process")
    model = read_model(path)
    proof = compare_probe(model, job.inputs[f"step-{len(job.run.recipe.steps)}"])
    if not proof["agreed"]:
        raise ArtifactUnproven(
            f"{path.name} was loaded again and answered differently: the largest difference is "
            f"{proof['max_abs_difference']:.3g}, and {proof['tolerance']:.3g} is allowed."
        )
    proof |= {"artifact": path.name, "seconds": time.perf_counter() - start}
    report.log(f"{path.name}: loaded again by a clean process, largest difference {proof['max_abs_difference']:.3g}")
    sizes = measure_file(path, model, job.checkpoint.facts)
    sizes["bytes"]["deflated"] = deflated_bytes(path, report)
    result: dict[str, Any] = {**sizes, "metrics": {}, "metrics_unavailable": job.unavailable(), "latency_ms": None}
    facts: dict[str, Any] = {"proof": proof, "differences": {}, "baseline_latency_ms": None, "result": result}
    if job.checkpoint.facts.architecture is not None and job.dataset is not None:
        _measure(job, model, facts, report)
    return facts


def _measure(job: StageJob, model: Any, facts: dict[str, Any], report: Report) -> None:
    spec = job.checkpoint.facts.architecture
    assert spec is not None
    data = job.evaluation()
    original, compressed = build(job.original()), build(model)
    scores, more = evaluate(compressed, spec, data, Part(report, 0.1, 0.8), reference=original)
    facts["result"]["metrics"] = {**summarise(scores, job.run.seed), **more}
    facts["differences"] = _differences(job, scores)
    report.progress(0.8, "Timing original and result in turns")
    one = _single(data[0])
    taken = interleaved(
        {
            "original": lambda: outputs(original, spec, one),
            "result": lambda: outputs(compressed, spec, one),
        }
    )
    batch = _described(spec, one)
    facts["baseline_latency_ms"] = percentiles(taken["original"], batch)
    facts["result"]["latency_ms"] = percentiles(taken["result"], batch)


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

"""A clean process loads a delivered file, compares its answers, and measures it: every figure comes from here."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from webapp.engine.architectures.build import build
from webapp.engine.architectures.streaming import float_bytes, runnable, streams
from webapp.engine.data.batches import Batch, outputs, synthetic
from webapp.engine.errors import ArtifactUnproven
from webapp.engine.exporters import Loaded
from webapp.engine.exporters.base import NativeRuntime, RuntimeSession
from webapp.engine.exporters.onnx.signature import EXAMPLE
from webapp.engine.facts import ArchitectureSpec
from webapp.engine.lazy import nn
from webapp.engine.progress import ProgressPart, Report
from webapp.engine.run.latency import hardware, in_turns, percentiles
from webapp.engine.run.measure import evaluate, measure_file
from webapp.engine.run.metrics import Scores, difference, summarise
from webapp.engine.run.proof import compare_native, compare_probe
from webapp.engine.run.sample_answers import FILE as SAMPLES
from webapp.engine.run.sample_answers import SampleAnswers, write_samples
from webapp.engine.run.shapes import Footprint, RunShapes
from webapp.engine.run.wiring import marked
from webapp.engine.weights.artifact import read_model
from webapp.units import byte_text

from .base import Facts, FormatStage, SourceDigests, StageResults
from .baseline import SCORES, BaselineStage, read_scores, write_scores
from .export import ExportStage
from .job import StageJob
from .original import OriginalStage
from .step import STATE, last_step

TOKENS = 16  # of a text: a language model's answer has the whole vocabulary for each
MOST_TIMED_BYTES = 4_000_000_000  # of floats of original and result, both in memory
ARROW_BYTES = 70_000_000  # of the library that writes the samples' answers
MORE_TOKENS = 64  # for a program, which may need as many as its kernels are long


def write_example(runner: RuntimeSession, spec: ArchitectureSpec, batch: Batch, folder: Path) -> None:
    """Asks for the batch's first sample, by the names and in the form that the file itself takes."""
    one = batch.first(1).inputs
    given = one if set(runner.inputs) <= set(one) else dict(zip(runner.inputs, one.values(), strict=True))
    if "vocab" in spec.inputs:
        tokens = int(spec.inputs.get("length") or (MORE_TOKENS if spec.family == "program" else TOKENS))
        given = {name: tensor[:, :tokens] for name, tensor in given.items()}
    feed = {name: given[name].contiguous().numpy() for name in runner.inputs}
    arrays: dict[str, Any] = {f"input.{name}": array for name, array in feed.items()} | {"output": runner.ask(feed)}
    np.savez(folder / EXAMPLE, **arrays)


class VerifyStage(FormatStage):
    kind = "verify"
    weight = 3.0
    rank = 2

    @property
    def title(self) -> str:
        return f"Load {self.exporter.title} again and measure it"

    @property
    def inputs(self) -> tuple[str, ...]:
        original = (self._original,) if self.exporter.can.original else ()
        return BaselineStage.name_of(), last_step(self.asked), self._export, *original

    def decided_by(self, sources: SourceDigests) -> dict[str, Any]:
        return self.by_evaluation(sources) | self.by_steps(sources)

    def footprint(self, shapes: RunShapes) -> Footprint:
        """Its proof, its quality beside the original, its speed beside the original: one after the other."""
        if not shapes.known:
            return Footprint.of(None, 0)
        form, before, result = self.exporter, shapes.original, shapes.result
        loaded = form.loading(result)
        proof = loaded + (shapes.proof(result) if form.can.rounds or loaded == 0 else 0)
        proof += 2 * result.passes(shapes.probe) if shapes.probe else 0
        if shapes.evaluating is None:
            return Footprint.of(proof, 0)
        beside = shapes.evaluation(before, result) + loaded
        timed = 0
        if form.can.timed and before.floats + result.floats <= MOST_TIMED_BYTES:
            one = shapes.evaluating.of(1, 1)
            original = form.loading(before) if form.can.original else 0
            timed = loaded + original + before.whole + result.whole + result.passes(one) + before.passes(one)
        return Footprint.of(max(proof, beside + ARROW_BYTES, timed), 0)

    def run(self, job: StageJob, report: Report) -> dict[str, Any]:
        """{"proof", "result", "differences", "baseline_latency_ms"}; of Pare's own file the result has every byte."""
        start = time.perf_counter()
        form, architecture = self.exporter, job.checkpoint.facts.architecture
        folder = job.inputs[self._export].folder
        report.progress(0.0, "Loading the artifact in a clean process")
        loaded = form.load(folder, architecture)
        left = job.inputs[last_step(self.asked)].folder
        rounded = form.rounded(read_model(left / STATE)) if form.can.rounds else None
        proof = compare_probe(loaded, architecture, left, rounded)
        if not proof["agreed"]:
            raise ArtifactUnproven(
                f"{form.file} was loaded again and answered differently: the largest difference is "
                f"{proof['max_abs_difference']:.3g}, and {proof['tolerance']:.3g} is allowed."
            )
        proof |= {"artifact": form.file, "seconds": time.perf_counter() - start}
        report.log(
            f"{form.file}: loaded again by a clean process, largest difference {proof['max_abs_difference']:.3g}"
        )
        native, proofs = None, [proof]
        if loaded.native is not None and architecture is not None:
            native = loaded.native()
            proofs.append(self._native_proof(native, loaded, architecture, left))
        result: dict[str, Any] = {"metrics": {}, "metrics_unavailable": job.unavailable(), "latency_ms": None}
        if loaded.model is not None:
            result = {**measure_file(folder / form.file, loaded.model, job.checkpoint.facts), **result}
        facts: dict[str, Any] = {"proof": proof, "differences": {}, "baseline_latency_ms": None, "result": result}
        facts["proofs"] = proofs
        if architecture is not None and job.dataset is not None:
            self._measure(job, loaded, native.module if native else loaded.module, facts, report)
        if native is not None:
            facts["tokens_per_second"] = asdict(rates := native.speed()) | {"hardware": hardware()}
            facts["speed_note"] = rates.sentence
            report.log(f"{form.file}: {rates.sentence}")
        if architecture is not None and loaded.runner is not None:
            batch = job.evaluation()[0] if job.dataset is not None else synthetic(architecture, job.run.seed)
            write_example(loaded.runner, architecture, batch, job.output)
        return facts

    def receipt(self, results: StageResults) -> dict[str, Any]:
        """A row for the artifact; and of Pare's own, all that the receipt says of the result."""
        found, written, files = results.facts[self.name], results.facts[self._export], results.files[self._export]
        artifact = {"name": self.exporter.file, "format": self.which, "proof": found["proof"]}
        added = {
            "artifacts": [artifact | dict(files[self.exporter.file])],
            "companions": [(path, file) for path, file in files.items() if path != self.exporter.file],
            "proof": found.get("proofs", [found["proof"]]),
            "runtimes": [self._runtime(found, written, results)],
            "libraries": [*self.exporter.can.libraries],
            "records": self._samples(results),
        }
        if not self.exporter.can.always:
            return added
        baseline, result = results.facts[BaselineStage.name_of()], found["result"]
        return added | {
            "result": result,
            "baseline_latency_ms": found["baseline_latency_ms"],
            "differences": found["differences"],
            "samples": found.get("samples"),
            "bytes": result["bytes"],
            "parameters": _parameters(result),
            "quality": _quality(baseline, result, found["differences"]),
            "quality_unavailable": result["metrics_unavailable"],
            "speed": _speed(found["baseline_latency_ms"], result, self.exporter.arithmetic(written)),
        }

    def _samples(self, results: StageResults) -> list[dict[str, Any]]:
        """What both answered to each sample, as an artifact that no model runs on."""
        made = results.files[self.name].get(SAMPLES)
        return [{"name": SAMPLES, "format": "samples", "proof": None, **made}] if made else []

    @property
    def _export(self) -> str:
        return ExportStage.name_of(self.which)

    @property
    def _original(self) -> str:
        return OriginalStage.name_of(self.which)

    def _native_proof(
        self, native: NativeRuntime, loaded: Loaded, spec: ArchitectureSpec, folder: Path
    ) -> dict[str, Any]:
        """Raises ArtifactUnproven."""
        start = time.perf_counter()
        proof = compare_native(native, loaded, spec, folder)
        if not proof["agreed"]:
            raise ArtifactUnproven(
                f"{self.exporter.file} was loaded by {native.runtime}, and what it answers lies "
                f"{proof['max_abs_difference']:.3g} nats from what its values give; {native.near:.3g} are allowed."
            )
        return proof | {"artifact": self.exporter.file, "seconds": time.perf_counter() - start}

    def _measure(
        self, job: StageJob, loaded: Loaded, compressed: nn.Module | None, facts: dict[str, Any], report: Report
    ) -> None:
        spec = job.spec
        assert spec is not None
        assert compressed is not None
        data = job.evaluation()
        before = job.original()
        original = runnable(before)
        watch = SampleAnswers(spec) if self.exporter.can.always else None
        part = ProgressPart(report, 0.1, 0.8)
        scores, more = evaluate(compressed, spec, data, part, reference=original, watch=watch)
        facts["result"]["metrics"] = marked({**summarise(scores, job.run.seed), **more}, job.wiring())
        before_scores = read_scores(job.inputs[BaselineStage.name_of()].folder / SCORES)
        facts["differences"] = _differences(before_scores, scores, job.run.seed)
        if watch is not None:
            write_scores(scores, job.output)
            facts["samples"] = write_samples(watch, job, data, before_scores, scores, job.output)
        if not self.exporter.can.timed or (self.exporter.can.original and self._original not in job.inputs):
            return
        result = loaded.model or before
        if (streams(original) or streams(compressed)) and float_bytes(before) + float_bytes(result) > MOST_TIMED_BYTES:
            facts["not_timed"] = (
                f"Original and result are not timed: as floats they take more than {byte_text(MOST_TIMED_BYTES)} of "
                "memory together."
            )
            report.log(f"{self.exporter.file}: {facts['not_timed']}")
            return
        report.progress(0.8, "Timing original and result in turns")
        if not self.exporter.can.original:
            original = build(before) if streams(original) else original
        if streams(compressed):
            compressed = build(result)
        beside = self._same_runtime(job, original)
        one = data[0].first(1)  # what a server answers to one request
        turns = in_turns(lambda: outputs(beside, spec, one), lambda: outputs(compressed, spec, one), job.timing_seconds)
        batch = _described(one)
        facts["baseline_latency_ms"] = percentiles(turns.original, batch, loaded.runtime)
        facts["result"]["latency_ms"] = percentiles(turns.result, batch, loaded.runtime)
        facts["result"]["speed"] = speed = turns.speed()
        disturbed = speed["disturbed"] or "Undisturbed."
        report.log(f"{self.exporter.file}: {speed['words']} in {loaded.runtime}. {disturbed}")

    def _same_runtime(self, job: StageJob, original: nn.Module) -> nn.Module:
        """The original as the artifact's runtime runs it."""
        if not self.exporter.can.original:
            return original
        spec: ArchitectureSpec | None = job.checkpoint.facts.architecture
        found = self.exporter.load(job.inputs[self._original].folder, spec).module
        assert found is not None
        return found

    def _runtime(self, found: Facts, written: Facts, results: StageResults) -> dict[str, Any]:
        """How large the artifact is, what runs it, and what it does there beside the original."""
        form = self.exporter
        notes = [form.arithmetic(written), *written.get("notes", ())]
        if why := results.failed.get(self._original):
            notes.append(f"The original could not be written as {form.title}, so they are not timed. {why['message']}")
        wiring = results.facts[BaselineStage.name_of()].get("wiring")
        if wiring and not wiring["confirmed"] and not form.can.always:
            notes.append("Its graph is wired as it was assumed, which nothing confirms.")
        notes += [found[why] for why in ("not_timed", "speed_note") if why in found]
        if rounding := found["proof"].get("rounding"):
            notes.append(f"The format's own rounding moves the probe's answers by at most {rounding:.3g}.")
        return {
            "artifact": form.file,
            "format": form.name,
            "title": form.title,
            "size_bytes": written["size_bytes"],
            "runtime": found.get("proofs", [found["proof"]])[-1]["runtime"],
            "tokens_per_second": found.get("tokens_per_second"),
            "metrics": found["result"]["metrics"],
            "differences": found["differences"],
            "baseline": found["baseline_latency_ms"],
            "result": found["result"]["latency_ms"],
            "speed": found["result"].get("speed"),
            "notes": [note for note in notes if note],
        }


def _differences(before: Scores, after: Scores, seed: int) -> dict[str, Any]:
    return {metric: difference(metric, before[metric], after[metric], seed) for metric in before if metric in after}


def _described(batch: Batch) -> str:
    shapes = ", ".join("×".join(str(n) for n in tensor.shape) for tensor in batch.inputs.values())
    return f"1 sample ({shapes})"


def _parameters(result: Facts) -> dict[str, Any]:
    found = {name: result[f"params_{name}"] for name in ("total", "nonzero", "stored", "prunable")}
    return {**found, "sparsity": result["sparsity"], "prunable_sparsity": result["prunable_sparsity"]}


def _quality(baseline: Facts, result: Facts, differences: Mapping[str, Facts]) -> list[dict[str, Any]]:
    nothing = {"difference": None, "ci95": None, "verdict": None}
    return [
        {
            "metric": metric,
            "title": after["title"],
            "higher_is_better": after["higher_is_better"],
            "against_original": metric not in baseline["metrics"] and metric != "not_finite",
            "baseline": baseline["metrics"].get(metric),
            "result": after,
            **differences.get(metric, nothing),
        }
        for metric, after in result["metrics"].items()
    ]


def _speed(before: Facts | None, result: Facts, note: str) -> dict[str, Any] | None:
    after = result["latency_ms"]
    if not before or not after:
        return None
    same = {key: after[key] for key in ("batch", "threads", "runtime", "hardware")}
    return {"baseline": before, "result": after, **same, **(result.get("speed") or {}), "note": note}

"""The receipt of a run: what was asked, what was done, and what was measured on the delivered file.

Each stage adds what it made; what takes several of them is here, and nothing measures. docs/the-receipt.md explains it.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, TypedDict

from webapp.engine.data.preprocessing import preprocessing_of
from webapp.engine.exporters import exporters
from webapp.engine.facts import CheckpointFacts
from webapp.engine.recipe import Recipe
from webapp.engine.techniques import technique
from webapp.engine.weights import stored_plan
from webapp.units import FRACTIONS, lowered, percent

from .expectation import beside
from .metrics import number_text
from .predict import Held, unreached
from .stages import plan_stages
from .stages.base import COST, Facts, Files, StageResults, code_digest
from .stages.job import CheckpointRecord, DatasetRecord, RunGiven, RunSources

PACKAGES = ("transformers", "numpy")
ONE_SAMPLE = "one sample says nothing of others"


class Conclusion(TypedDict):
    """`artifacts` are the files with their proofs, what travels with them, what was recorded of them, and the formats
    that are not delivered."""

    baseline: dict[str, Any]
    result: dict[str, Any]
    receipt: dict[str, Any]
    artifacts: list[dict[str, Any]]


def conclude(
    run: RunGiven,
    sources: RunSources,
    results: StageResults,
    *,
    name: str = "",
    started_at: str | None = None,
    companions: Files | None = None,
    earlier: Facts | None = None,
    expected: Facts | None = None,
) -> Conclusion:
    """All that a run has to show, whose stages are done but for those that failed with their format.

    `companions` are the checkpoint's normalised files, which travel with the artifacts unless a step made one anew.
    A receipt that there is from `earlier` is continued: formats were tried again. `expected` is what a budget foretold.
    """
    cost = _cost(run, results)
    made = {name: {key: value for key, value in found.items() if key != COST} for name, found in results.facts.items()}
    added, missing = _added(run, replace(results, facts=made))
    result, differences = dict(added.pop("result")), added.pop("differences")
    baseline = dict(added.pop("baseline")) | {
        "latency_ms": added.pop("baseline_latency_ms"),
        "speed": {"ratio": 1.0} if result.get("speed") else None,
    }
    facts = sources.checkpoint.facts
    after_steps = [*added.pop("after_steps", ()), result["metrics"]]  # after the last, the delivered file's own
    steps = [{**step, "metrics": metrics} for step, metrics in zip(added.pop("steps"), after_steps, strict=True)]
    artifacts = added.pop("artifacts")
    artifacts += _travelling({**(companions or {}), **dict(added.pop("companions"))}, artifacts)
    artifacts += added.pop("records", ())
    provenance = _provenance(run, sources, added.pop("libraries"), started_at)
    verdict = _verdict(baseline, result, differences, added["proof"][0])
    receipt = {
        "version": 1,
        "title": name,
        "verdict": verdict,
        "prediction": beside(expected, result, verdict, _files(artifacts)) if expected else None,
        "summary": _summary(baseline, result),
        "credit": _credit(baseline, result, steps, facts),
        "shortfall": _shortfall(steps),
        "unreached": _unreached(result, run.recipe),
        "steps": steps,
        "cost": cost,
        "notes": [*facts.notes, *added.pop("notes")],
        **added,
        "artifacts": [{key: a[key] for key in ("name", "digest", "size_bytes")} for a in artifacts],
        "undelivered": missing,
        "provenance": _continued(earlier, provenance, missing) if earlier else provenance,
    }
    return {
        "baseline": baseline,
        "result": result,
        "receipt": receipt,
        "artifacts": [*artifacts, *map(_lacking, missing)],
    }


def _cost(run: RunGiven, results: StageResults) -> list[dict[str, Any]]:
    """The time of each stage, and the bytes that it took beside those that were foreseen; None where none were."""
    return [
        {"stage": stage.title, **found}
        for name, stage in plan_stages(run).items()
        if (found := results.facts.get(name, {}).get(COST))
    ]


def _files(artifacts: Sequence[Facts]) -> dict[str, int]:
    """The bytes of the delivered files by their formats."""
    return {str(artifact["format"]): int(artifact["size_bytes"]) for artifact in artifacts}


def _added(run: RunGiven, results: StageResults) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the stages add, put together, and a row with the reason for each format whose export or proof failed."""
    added: dict[str, Any] = {}
    missing: list[dict[str, Any]] = []
    for stage in plan_stages(run).values():
        if stage.name in results.facts:
            for name, value in stage.receipt(results).items():
                added[name] = [*added.get(name, ()), *value] if isinstance(value, list) else value
        elif stage.name in results.failed and stage.format and not stage.optional:
            form, why = exporters()[stage.format], dict(results.failed[stage.name])
            missing.append({"artifact": form.file, "format": form.name, "title": form.title, "reason": why})
    return added, missing


def _travelling(files: Files, artifacts: Sequence[Facts]) -> list[dict[str, Any]]:
    """What is delivered beside the artifacts: tokenizers, config.json."""
    written = {artifact["name"] for artifact in artifacts}
    return [
        {"name": name, "format": "companion", **stored, "proof": None}
        for name, stored in sorted(files.items())
        if name not in written
    ]


def _lacking(row: Facts) -> dict[str, Any]:
    """An undelivered format as an artifact without a file."""
    nothing = {"digest": None, "size_bytes": None, "proof": None}
    return {"name": row["artifact"], "format": row["format"], "state": "failed", "reason": row["reason"], **nothing}


def _verdict(baseline: Facts, result: Facts, differences: Facts, proof: Facts) -> dict[str, Any]:
    share = 1 - result["size_bytes"] / baseline["size_bytes"]
    size = f"{percent(abs(share))} {'smaller' if share >= 0 else 'larger'}"
    broken, lost = _not_finite(baseline, result, proof), baseline["metrics"].get("not_finite")
    if lost and lost["value"] == 1:  # what it answers says nothing, so nothing can be said of the result
        differences = {metric: {**found, "verdict": None} for metric, found in differences.items()}
    for metric, found in differences.items():
        title, n, ci95 = baseline["metrics"][metric]["title"], baseline["metrics"][metric]["n"], found["ci95"]
        before, after = (number_text(side["metrics"][metric]["value"], metric) for side in (baseline, result))
        unsaid = "there is nothing to compare" if found["difference"] is None or lost else ONE_SAMPLE
        verdict = found["verdict"] or unsaid
        ends = "" if ci95 is None else " to ".join(_signed(end, metric) for end in ci95)
        interval = f", 95 % CI of the difference {ends}" if ends else ""
        sentence = f"{size}; {lowered(title)} {before} → {after}: {verdict} (n = {n:,}{interval}).{broken}"
        return {"metric": metric, "sentence": sentence, "n": n, **found}
    verdict = "worse" if broken and not lost else None
    sentence = f"{size}. {result['metrics_unavailable'] or _against_original(result)}{broken}"
    return {"metric": None, "verdict": verdict, "sentence": sentence, "difference": None, "ci95": None, "n": None}


def _against_original(result: Facts) -> str:
    """What there is where the dataset has nothing to evaluate the outputs with: how far they moved."""
    for metric, found in result["metrics"].items():
        if metric != "not_finite":
            moved = f"{found['title']}: {number_text(found['value'], metric)} (n = {found['n']:,})."
            return f"There are no labels to evaluate the outputs with. {moved}"
    return "There are no labels to evaluate the outputs with."


def _signed(difference: float, metric: str) -> str:
    """Of two shares in points of a per cent."""
    return f"{difference * 100:+.2f} points" if metric in FRACTIONS else f"{difference:+.4g}"


def _not_finite(baseline: Facts, result: Facts, proof: Facts) -> str:
    """Sentences on outputs that are no numbers; empty where all are."""
    sentences = ""
    for noun, measured in (("original", baseline), ("result", result)):
        if found := measured["metrics"].get("not_finite"):
            sentences += (
                f" The {noun} answers {percent(found['value'])} of {found['n']:,} samples with NaN or infinity."
            )
    if not sentences and (share := proof.get("not_finite")):
        sentences = f" The result answers random inputs with NaN or infinity ({percent(share)} of its numbers)."
    return sentences


def _summary(baseline: Facts, result: Facts) -> list[dict[str, Any]]:
    rows = (
        ("File", "size_bytes", "bytes"),
        ("Parameters", "params_total", ""),
        ("Parameters that are not zero", "params_nonzero", ""),
        ("Values stored", "params_stored", ""),
        ("Sparsity", "sparsity", "share"),
        ("Bits per original parameter", "bits_per_weight", "bits"),
    )
    return [{"label": label, "before": baseline[key], "after": result[key], "unit": unit} for label, key, unit in rows]


def _credit(baseline: Facts, result: Facts, steps: Sequence[Facts], facts: CheckpointFacts) -> list[dict[str, Any]]:
    """From the original to the delivered file, row by row, adding up.

    The first row is what a plain cast to float16 saves, which no technique is credited with; so each step is seen
    on a file whose other floats are halved, and the last row takes back the halving where it was not done.
    """
    total = baseline["size_bytes"]
    at = min(_half_of_original(facts), total)
    rows = [_row("A plain cast to float16", total, at, total, "credited to no technique")]
    for number, step in enumerate(steps, start=1):
        rows.append(_row(f"Step {number}: {step['title']}", at, step["half_bytes"], total, ""))
        at = step["half_bytes"]
    rows.append(_row("Floats that were left wider than float16", at, result["size_bytes"], total, "the cast, not done"))
    return rows


def _half_of_original(facts: CheckpointFacts) -> int:
    wide = {"float32": 2, "float64": 6}
    plans = (leaf for tensor in facts.tensors for leaf in stored_plan(tensor).leaves)
    return facts.weights_bytes - sum(wide.get(p.dtype, 0) * p.stored for p in plans if p.holds == "floats")


def _row(label: str, before: int, after: int, total: int, note: str) -> dict[str, Any]:
    saved = before - after
    return {
        "label": label,
        "bytes_before": before,
        "bytes_after": after,
        "saved": saved,
        "share": saved / total,
        "note": note,
    }


def _shortfall(steps: Sequence[Facts]) -> str | None:
    """What was not done as asked, as sentences; None where every row is as asked and every step changed something."""
    rows = [layer for step in steps for layer in step["layers"]]
    skipped = sum(row["skipped"] for row in rows)
    short = sum(not row["ok"] for row in rows) - skipped
    idle = [f"Step {n} ({step['title']}) changed nothing." for n, step in enumerate(steps, 1) if not step["changed"]]
    counts = [f"{n:,} {what}" for n, what in ((skipped, "not done"), (short, "off what was asked")) if n]
    sentences = [f"Requested vs. achieved, {len(rows):,} rows: {', '.join(counts)}."] if counts else []
    return " ".join([*idle, *sentences]) or None


def _unreached(result: Facts, recipe: Recipe) -> list[dict[str, Any]]:
    """What none of the steps works on, by the delivered file."""
    kinds = {layer["weight"]: layer["kind"] for layer in result["layers"]}
    held = [
        Held(tensor["name"], kinds.get(tensor["name"], "other"), tensor["shape"], tensor["bytes"])
        for tensor in result["bytes"]["tensors"]
        if any("float" in part["dtype"] for part in tensor["parts"])
    ]
    techniques = [technique(step.technique) for step in recipe.steps]
    return [row.model_dump() for row in unreached(held, result["size_bytes"], techniques)]


def _provenance(run: RunGiven, sources: RunSources, libraries: Sequence[str], started_at: str | None) -> dict[str, Any]:
    given = [one.facts for one in (sources.dataset, sources.training_dataset) if one]
    prepared = preprocessing_of(sources.checkpoint.facts.architecture, given, run.preprocessing)
    named = dict.fromkeys((*PACKAGES, *libraries, *(("pillow",) if prepared else ())))
    return {
        "checkpoint": _named(sources.checkpoint),
        "teacher_checkpoint": _named(sources.teacher_checkpoint),
        "dataset": _dataset(sources.dataset),
        "training_dataset": _dataset(sources.training_dataset),
        "preprocessing": prepared.model_dump(mode="json") if prepared else None,
        "task": run.task,
        "recipe_digest": run.recipe.digest,
        "recipe_yaml": run.recipe.to_yaml(),
        "code": code_digest(),
        "versions": {"pare": version("pare"), "python": platform.python_version(), **{n: version(n) for n in named}},
        "seed": run.seed,
        "started_at": started_at,
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def _continued(earlier: Facts, now: Facts, missing: Sequence[Facts]) -> dict[str, Any]:
    """The provenance of the earlier receipt, with what was written later where other code or versions did that."""
    before, lost = earlier["provenance"], {row["artifact"] for row in missing}
    names = [row["artifact"] for row in earlier["undelivered"] if row["artifact"] not in lost]
    by = {name: now[name] for name in ("code", "versions")}
    if not names or by == {name: before[name] for name in by}:
        return {**before}
    return {**before, "later": [*before.get("later", ()), {"artifacts": names, **by}]}


def _named(checkpoint: CheckpointRecord | None) -> dict[str, Any] | None:
    return checkpoint.model_dump(exclude={"facts", "folder"}) if checkpoint else None


def _dataset(dataset: DatasetRecord | None) -> dict[str, Any] | None:
    if dataset is None:
        return None
    facts = dataset.facts
    named = {"name": dataset.name, "digest": dataset.digest}
    return {**named, "split": facts.split, "n": facts.evaluation.n, "evaluation_digest": facts.evaluation.digest}

"""The receipt of a run: what was asked, what was done, and what was measured on the delivered file.

`conclude` puts it together from what the stages returned; nothing here measures. docs/the-receipt.md explains it.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from webapp.engine.data.preprocessing import preprocessing_of
from webapp.engine.facts import CheckpointFacts, DatasetFacts
from webapp.engine.recipe import Recipe
from webapp.engine.techniques import technique
from webapp.units import lowered

from .metrics import number_text
from .plan import code_digest
from .receipt_artifacts import delivered, files_of, lacking, libraries, runtimes, undelivered
from .unreached import Held, unreached

PACKAGES = ("transformers", "numpy")
Facts = Mapping[str, Any]


def conclude(
    run: Facts,
    checkpoint: Facts,
    dataset: Facts | None,
    training_dataset: Facts | None,
    stage_facts: Mapping[str, Facts],
    stage_files: Mapping[str, Mapping[str, Facts]],
    failed: Mapping[str, Facts] | None = None,
) -> dict[str, Any]:
    """{"baseline", "result", "receipt", "artifacts"} of a run whose stages are done, but for those in `failed`.

    `run` has name, recipe, exports, options and seed; `checkpoint` and the datasets have facts, name, filename, digest
    and size_bytes, and `checkpoint["files"]` lists its normalised files, which travel with the artifact.
    A receipt that `run` has already is continued: formats were tried again.
    `failed` says why stages of formats are not done, {"code", "message"} each; `artifacts` has the formats that are
    not delivered beside those that are.
    """
    baseline, verified = dict(stage_facts["baseline"]), stage_facts["verify-safetensors"]
    result = dict(verified["result"])
    baseline["latency_ms"] = verified["baseline_latency_ms"]
    baseline["speed"] = {"ratio": 1.0} if result.get("speed") else None
    names = [name for name in sorted(stage_facts, key=_number) if name.startswith("step-")]
    steps = [dict(stage_facts[name]) for name in names]
    for number, step in enumerate(steps, start=1):  # after the last step, the delivered file's own
        step["metrics"] = stage_facts.get(f"score-{number}", {"metrics": result["metrics"]})["metrics"]
    recipe = Recipe.model_validate(run["recipe"])
    facts = CheckpointFacts.model_validate(checkpoint["facts"])
    wiring = baseline.get("wiring")
    own, written, _ = delivered(stage_facts)[0]
    artifacts, missing = files_of(checkpoint, stage_facts, stage_files), undelivered(failed or {})
    receipt = {
        "version": 1,
        "title": run.get("name", ""),
        "verdict": _verdict(baseline, result, verified["differences"], verified["proof"]),
        "summary": _summary(baseline, result),
        "bytes": result["bytes"],
        "parameters": _parameters(result),
        "credit": _credit(baseline, result, steps, facts),
        "quality": _quality(baseline, result, verified["differences"]),
        "quality_unavailable": result["metrics_unavailable"],
        "speed": _speed(baseline, result, own.arithmetic(written)),
        "requested": _requested(steps),
        "shortfall": _shortfall(steps),
        "unreached": _unreached(result, recipe),
        "steps": steps,
        "notes": [*facts.notes, *([wiring["sentence"]] if wiring else [])],
        "wiring": wiring,
        "runtimes": runtimes(stage_facts, failed or {}),
        "proof": [found["proof"] for _, _, found in delivered(stage_facts)],
        "artifacts": [{key: a[key] for key in ("name", "digest", "size_bytes")} for a in artifacts],
        "undelivered": missing,
        "provenance": _provenance(run, checkpoint, dataset, training_dataset, recipe, libraries(stage_facts)),
    }
    if earlier := run.get("receipt"):
        receipt["provenance"] = _continued(earlier, receipt)
    return {
        "baseline": baseline,
        "result": result,
        "receipt": receipt,
        "artifacts": [*artifacts, *map(lacking, missing)],
    }


def _number(name: str) -> tuple[int, str]:
    which = name.partition("-")[2]
    return (int(which), name) if which.isdigit() else (0, name)


def _verdict(baseline: Facts, result: Facts, differences: Facts, proof: Facts) -> dict[str, Any]:
    share = 1 - result["size_bytes"] / baseline["size_bytes"]
    size = f"{abs(share):.1%} {'smaller' if share >= 0 else 'larger'}"
    broken, lost = _not_finite(baseline, result, proof), baseline["metrics"].get("not_finite")
    if lost and lost["value"] == 1:  # what it answers says nothing, so nothing can be said of the result
        differences = {metric: {**found, "verdict": None} for metric, found in differences.items()}
    for metric, found in differences.items():
        about, ci95 = baseline["metrics"][metric], found["ci95"]
        before, after = (number_text(side["metrics"][metric]["value"]) for side in (baseline, result))
        verdict = found["verdict"] or "there is nothing to compare"
        interval = f", 95 % CI of the difference {ci95[0]:+.4g} to {ci95[1]:+.4g}" if ci95 else ""
        sentence = (
            f"{size}; {lowered(about['title'])} {before} → {after}: {verdict} (n = {about['n']:,}{interval}).{broken}"
        )
        return {"metric": metric, "sentence": sentence, "n": about["n"], **found}
    verdict = "worse" if broken and not lost else None
    sentence = f"{size}. {result['metrics_unavailable'] or _against_original(result)}{broken}"
    return {"metric": None, "verdict": verdict, "sentence": sentence, "difference": None, "ci95": None, "n": None}


def _against_original(result: Facts) -> str:
    """What there is where the dataset has nothing to evaluate the outputs with: how far they moved."""
    found = [about for metric, about in result["metrics"].items() if metric != "not_finite"]
    told = f" {found[0]['title']}: {number_text(found[0]['value'])} (n = {found[0]['n']:,})." if found else ""
    return f"There are no labels to evaluate the outputs with.{told}"


def _not_finite(baseline: Facts, result: Facts, proof: Facts) -> str:
    """Sentences on outputs that are no numbers; empty where all are."""
    told = ""
    for noun, measured in (("original", baseline), ("result", result)):
        if found := measured["metrics"].get("not_finite"):
            told += f" The {noun} answers {found['value']:.1%} of {found['n']:,} samples with NaN or infinity."
    if not told and (share := proof.get("not_finite")):
        told = f" The result answers random inputs with NaN or infinity ({share:.1%} of its numbers)."
    return told


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


def _parameters(result: Facts) -> dict[str, Any]:
    names = ("total", "nonzero", "stored", "prunable")
    found = {name: result[f"params_{name}"] for name in names}
    return {**found, "sparsity": result["sparsity"], "prunable_sparsity": result["prunable_sparsity"]}


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
    return facts.weights_bytes - sum(wide.get(t.dtype, 0) * t.size for t in facts.tensors)


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


def _quality(baseline: Facts, result: Facts, differences: Facts) -> list[dict[str, Any]]:
    rows = []
    for metric, after in result["metrics"].items():
        before = baseline["metrics"].get(metric)
        row = {
            "metric": metric,
            "title": after["title"],
            "higher_is_better": after["higher_is_better"],
            "against_original": before is None and metric != "not_finite",
            "baseline": before,
            "result": after,
        }
        rows.append(row | differences.get(metric, {"difference": None, "ci95": None, "verdict": None}))
    return rows


def _speed(baseline: Facts, result: Facts, note: str) -> dict[str, Any] | None:
    before, after = baseline["latency_ms"], result["latency_ms"]
    if not before or not after:
        return None
    told = {key: after[key] for key in ("batch", "threads", "runtime", "hardware")}
    return {"baseline": before, "result": after, **told, **(result.get("speed") or {}), "note": note}


def _requested(steps: Sequence[Facts]) -> list[dict[str, Any]]:
    return [
        {"step": number, "technique": step["technique"], **layer}
        for number, step in enumerate(steps, start=1)
        for layer in step["layers"]
    ]


def _shortfall(steps: Sequence[Facts]) -> str | None:
    """What was not done as asked, as sentences; None where every row is as asked and every step changed something."""
    rows = [layer for step in steps for layer in step["layers"]]
    skipped = sum(row["skipped"] for row in rows)
    short = sum(not row["ok"] for row in rows) - skipped
    idle = [f"Step {n} ({step['title']}) changed nothing." for n, step in enumerate(steps, 1) if not step["changed"]]
    counts = [f"{n:,} {what}" for n, what in ((skipped, "not done"), (short, "off what was asked")) if n]
    told = [f"Requested vs. achieved, {len(rows):,} rows: {', '.join(counts)}."] if counts else []
    return " ".join([*idle, *told]) or None


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


def _provenance(
    run: Facts,
    checkpoint: Facts,
    dataset: Facts | None,
    training: Facts | None,
    recipe: Recipe,
    used: tuple[str, ...],
) -> dict[str, Any]:
    facts = CheckpointFacts.model_validate(checkpoint["facts"])
    given = [DatasetFacts.model_validate(one["facts"]) for one in (dataset, training) if one]
    prepared = preprocessing_of(facts.architecture, given, run.get("options", {}).get("preprocessing"))
    used = (*used, "pillow") if prepared else used
    versions = {name: version(name) for name in (*PACKAGES, *used)}
    return {
        "checkpoint": _named(checkpoint),
        "teacher_checkpoint": _named(run.get("teacher_checkpoint")),
        "dataset": _dataset(dataset),
        "training_dataset": _dataset(training),
        "preprocessing": prepared.model_dump(mode="json") if prepared else None,
        "task": run.get("options", {}).get("task"),
        "recipe_digest": recipe.digest,
        "recipe_yaml": recipe.to_yaml(),
        "code": code_digest(),
        "versions": {"pare": version("pare"), "python": platform.python_version(), **versions},
        "seed": run["seed"],
        "started_at": run.get("started_at"),
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def _continued(earlier: Facts, receipt: Facts) -> dict[str, Any]:
    """The provenance of the earlier receipt, with what was written later where other code or versions did that."""
    before, after = earlier["provenance"], receipt["provenance"]
    missing = {row["artifact"] for row in receipt["undelivered"]}
    names = [row["artifact"] for row in earlier["undelivered"] if row["artifact"] not in missing]
    told = {name: after[name] for name in ("code", "versions")}
    if not names or told == {name: before[name] for name in told}:
        return {**before}
    return {**before, "later": [*before.get("later", ()), {"artifacts": names, **told}]}


def _named(checkpoint: Facts | None) -> dict[str, Any] | None:
    if checkpoint is None:
        return None
    return {key: checkpoint[key] for key in ("name", "filename", "digest", "size_bytes")}


def _dataset(dataset: Facts | None) -> dict[str, Any] | None:
    if dataset is None:
        return None
    facts = DatasetFacts.model_validate(dataset["facts"])
    named = {"name": dataset["name"], "digest": dataset["digest"]}
    return {**named, "split": facts.split, "n": facts.evaluation.n, "evaluation_digest": facts.evaluation.digest}

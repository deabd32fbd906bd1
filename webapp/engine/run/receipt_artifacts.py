"""The receipt's part on what was delivered: each file's size, proof, quality and speed in the runtime that loads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from webapp.engine.exporters import Exporter, exporters

Facts = Mapping[str, Any]


def delivered(stage_facts: Mapping[str, Facts]) -> list[tuple[Exporter, Facts, Facts]]:
    """(format, what its export returned, what its verification found) of each artifact, the receipt's own first."""
    return [
        (form, stage_facts[f"export-{name}"], stage_facts[f"verify-{name}"])
        for name, form in exporters().items()
        if f"verify-{name}" in stage_facts
    ]


def undelivered(failed: Mapping[str, Facts]) -> list[dict[str, Any]]:
    """A row for each format whose export or proof failed, with the reason."""
    return [
        {"artifact": form.file, "format": name, "title": form.title, "reason": dict(failed[stage])}
        for name, form in exporters().items()
        for stage in (f"export-{name}", f"verify-{name}")
        if stage in failed
    ]


def lacking(row: Facts) -> dict[str, Any]:
    """An undelivered format as an artifact without a file."""
    nothing = {"digest": None, "size_bytes": None, "proof": None}
    return {"name": row["artifact"], "format": row["format"], "state": "failed", "reason": row["reason"], **nothing}


def files_of(
    checkpoint: Facts, stage_facts: Mapping[str, Facts], stage_files: Mapping[str, Mapping[str, Facts]]
) -> list[dict[str, Any]]:
    """The artifacts with their proofs; then what travels with them, a config.json that a step made untrue anew."""
    found = []
    travelling = {**checkpoint.get("files", {})}
    for form, _, verified in delivered(stage_facts):
        files = stage_files[f"export-{form.name}"]
        found.append({"name": form.file, "format": form.name, **_stored(files[form.file]), "proof": verified["proof"]})
        travelling |= files
    written = {artifact["name"] for artifact in found}
    companions = (
        {"name": name, "format": "companion", **_stored(stored), "proof": None}
        for name, stored in sorted(travelling.items())
        if name not in written
    )
    return [*found, *companions]


def runtimes(stage_facts: Mapping[str, Facts], failed: Mapping[str, Facts]) -> list[dict[str, Any]]:
    """A row for each artifact: how large it is, what runs it, and what it does there beside the original."""
    rows = []
    for form, written, verified in delivered(stage_facts):
        before, after = verified["baseline_latency_ms"], verified["result"]["latency_ms"]
        notes = [form.arithmetic(written), *written.get("notes", ())]
        if why := failed.get(f"original-{form.name}"):
            notes.append(f"The original could not be written as {form.title}, so they are not timed. {why['message']}")
        wiring = stage_facts["baseline"].get("wiring")
        if wiring and not wiring["confirmed"] and not form.can.always:
            notes.append("Its graph is wired as it was assumed, which nothing confirms.")
        if rounding := verified["proof"].get("rounding"):
            notes.append(f"The format's own rounding moves the probe's answers by at most {rounding:.3g}.")
        rows.append(
            {
                "artifact": form.file,
                "format": form.name,
                "title": form.title,
                "size_bytes": written["size_bytes"],
                "runtime": verified["proof"]["runtime"],
                "metrics": verified["result"]["metrics"],
                "differences": verified["differences"],
                "baseline": before,
                "result": after,
                "speed": verified["result"].get("speed"),
                "notes": [note for note in notes if note],
            }
        )
    return rows


def libraries(stage_facts: Mapping[str, Facts]) -> tuple[str, ...]:
    """Whose versions made and loaded the artifacts."""
    return tuple(dict.fromkeys(name for form, _, _ in delivered(stage_facts) for name in form.can.libraries))


def _stored(file: Facts) -> dict[str, Any]:
    return {"digest": file["digest"], "size_bytes": file["size_bytes"]}

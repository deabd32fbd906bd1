"""A receipt for the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from webapp.units import byte_text, percent, significant

from .metrics import number_text

WIDTH = 100


def render_text(receipt: Mapping[str, Any]) -> str:
    """The receipt as plain text, about 100 columns wide."""
    return "\n".join(_lines(receipt)) + "\n"


def _lines(receipt: Mapping[str, Any]) -> Iterator[str]:
    yield "=" * WIDTH
    yield receipt["title"] or "Receipt"
    yield receipt["verdict"]["sentence"]
    flips = f"Samples: {found['sentence']}." if (found := receipt.get("samples")) and found["sentence"] else None
    yield from filter(None, [flips, receipt["shortfall"], (receipt["wiring"] or {}).get("sentence")])
    yield from table("", ("", "before", "after"), (_summary_row(row) for row in receipt["summary"]))
    yield from _bytes(receipt["bytes"])
    credit = ((r["label"], f"{r['saved']:,}", percent(r["share"]), r["note"]) for r in receipt["credit"])
    yield from table("Where the bytes went", ("", "saved", "of the original", ""), credit)
    yield from table("Quality", ("", "before", "after", "n", "verdict"), map(_quality_row, receipt["quality"]))
    yield from _prediction(receipt.get("prediction"))
    yield from _after_each_step(receipt)
    if receipt.get("quality_unavailable"):
        yield receipt["quality_unavailable"]
    yield from _speed(receipt["speed"])
    short = sorted((row for row in receipt["requested"] if not row["ok"]), key=lambda row: not row["skipped"])
    rows = ((str(r["step"]), r["layer"], r["asked"], r["done"], r["note"]) for r in short)
    yield from table("Requested vs. achieved", ("step", "layer", "requested", "achieved", "why"), rows)
    if not short:
        yield f"Requested vs. achieved: all {len(receipt['requested'])} rows as requested."
    left = receipt.get("unreached", ())
    held = ((row["what"], f"{row['bytes']:,}", percent(row["share"]), row["why"]) for row in left)
    yield from table("Not reached by any step", ("", "bytes", "of the file", "why"), held)
    yield from _runtimes(receipt["runtimes"])
    for row in receipt.get("undelivered", ()):
        yield f"Not delivered: {row['artifact']}. {row['reason']['message']}"
    yield from ("", "Proof")
    for proof in receipt["proof"]:
        yield f"  {proof['artifact']}: loaded by {proof['loaded_by']} ({proof['runtime']}); largest difference "
        unit = f" {proof['unit']}" if proof.get("unit") else ""
        yield f"  {proof['max_abs_difference']:.3g}{unit}, {proof['tolerance']:.3g} allowed."
    yield from _cost(receipt.get("cost", ()))
    yield from _provenance(receipt["provenance"])
    yield "=" * WIDTH


def _summary_row(row: Mapping[str, Any]) -> tuple[str, str, str]:
    def shown(value: float) -> str:
        if row["unit"] == "share":
            return percent(value)
        return f"{value:.2f}" if row["unit"] == "bits" else f"{value:,}"

    return row["label"], shown(row["before"]), shown(row["after"])


def _bytes(found: Mapping[str, Any]) -> Iterator[str]:
    rows = [(row["part"], f"{row['bytes']:,}") for row in found["file"]]
    yield from table("Bytes of the file", ("", "bytes"), [*rows, ("total", f"{found['total']:,}")])
    yield f"  {found['total'] / 1e6:.2f} MB, {found['total'] / 2**20:.2f} MiB"


def _quality_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    def shown(metric: Mapping[str, Any] | None) -> str:
        if metric is None:
            return "–"
        low, high = (number_text(end, row["metric"]) for end in metric["ci95"] or (None, None))
        between = f" [{low}, {high}]" if metric["ci95"] else ""
        return f"{number_text(metric['value'], row['metric'])}{between}"

    verdict = row["verdict"] or ("against the original" if row["baseline"] is None else "no verdict")
    return row["title"], shown(row["baseline"]), shown(row["result"]), f"{row['result']['n']:,}", verdict


def _prediction(found: Mapping[str, Any] | None) -> Iterator[str]:
    """What the budget expected, beside what was measured."""

    def shown(value: float | None, unit: str) -> str:
        return "–" if value is None else f"{value:,}" if unit == "bytes" else significant(value)

    rows = [
        (
            f"{row['label']}, {row['unit']}",
            shown(row["expected"], row["unit"]),
            " to ".join(shown(end, row["unit"]) for end in row["interval"] or ()) or "–",
            shown(row["measured"], row["unit"]),
            row["says"],
        )
        for row in (found or {}).get("rows", ())
    ]
    head = ("", "expected", "in 8 of 10 cases", "measured", "")
    yield from table("Expected and measured", head, rows)


def _after_each_step(receipt: Mapping[str, Any]) -> Iterator[str]:
    """Where it was lost: the first metric and the bytes, step by step."""
    last = receipt["steps"][-1].get("metrics") if len(receipt["steps"]) > 1 else None
    if not last:
        return
    metric = next(iter(last))
    rows = [
        (step["title"], f"{step['size_bytes']:,}", number_text(step["metrics"][metric]["value"], metric))
        for step in receipt["steps"]
    ]
    yield from table("After each step", ("", "bytes", last[metric]["title"]), rows)


def _speed(speed: Mapping[str, Any] | None) -> Iterator[str]:
    if not speed:
        return
    rows = [(key, *(f"{speed[side][key]:.2f} ms" for side in ("baseline", "result"))) for key in ("p50", "p95")]
    yield from table(f"Speed: {speed['batch']}, {speed['runtime']}", ("", "before", "after"), rows)
    yield f"  {speed_text(speed)}"
    yield f"  {speed['hardware']}. {speed['note']}"


def speed_text(speed: Mapping[str, Any]) -> str:
    """ "1.83 times as fast as the original (95 % CI 1.79 to 1.88, 200 turns)." and what disturbed it."""
    low, high = speed["ci95"]
    disturbed = f" Disturbed: {speed['disturbed']}" if speed["disturbed"] else ""
    sentence = f"{speed['words'][:1].upper()}{speed['words'][1:]}"
    return f"{sentence} (95 % CI {low:.2f} to {high:.2f}, {speed['turns']} turns).{disturbed}"


def _runtimes(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Each artifact in the runtime that loads it, where there are several."""

    def shown(found: Mapping[str, Any] | None) -> str:
        return f"{found['p50']:.2f} / {found['p95']:.2f} ms" if found else "–"

    if len(rows) < 2:
        return
    shown_rows = [(r["artifact"], f"{r['size_bytes']:,}", shown(r["baseline"]), shown(r["result"])) for r in rows]
    yield from table("Artifacts, p50 / p95 in their runtimes", ("", "bytes", "original", "this"), shown_rows)
    for row in rows:
        yield f"  {row['artifact']}: {row['runtime']}. {' '.join(row['notes'])}"
        if row["speed"]:
            yield f"    {speed_text(row['speed'])}"
        for name, metric in row["metrics"].items():
            yield f"    {name} {number_text(metric['value'], name)}"


def _cost(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What each stage took."""
    shown_rows = [
        (
            row["stage"],
            byte_text(row["foreseen_bytes"]) if row["foreseen_bytes"] else "–",
            byte_text(row["peak_bytes"]),
            f"{row['seconds']:.1f}",
        )
        for row in rows
    ]
    yield from table("Memory and time", ("", "at most", "took", "seconds"), shown_rows)


def _provenance(found: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "Provenance")
    yield f"  checkpoint {found['checkpoint']['filename']} sha256 {found['checkpoint']['digest']}"
    if origin := found["checkpoint"].get("origin"):
        yield f"  from the hub {origin}"
    if found["dataset"]:
        dataset = found["dataset"]
        yield f"  dataset {dataset['name']} sha256 {dataset['digest']} (split {dataset['split']})"
    if prepared := found.get("preprocessing"):
        yield "  images: " + ", ".join(f"{name} {shown(value)}" for name, value in prepared.items())
    yield f"  recipe {found['recipe_digest']}"
    yield f"  engine {found['code']}"
    yield "  " + ", ".join(f"{name} {number}" for name, number in found["versions"].items()) + f", seed {found['seed']}"
    for later in found.get("later", ()):
        yield f"  {', '.join(later['artifacts'])} written later, by engine {later['code']}"


def shown(value: Any) -> str:
    return " ".join(f"{number:g}" for number in value) if isinstance(value, list) else str(value)


def table(title: str, head: tuple[str, ...], rows: Any) -> Iterator[str]:
    """Its lines; none without rows."""
    rows = [tuple(str(cell) for cell in row) for row in rows]
    if not rows:
        return
    yield ""
    if title:
        yield title
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield ("  " + "  ".join(cells)).rstrip()

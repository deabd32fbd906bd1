"""What a reader has to know before believing a comparison, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from webapp import charts
from webapp.units import lowered


def metric_of(measured: dict[str, Any] | None, metric: str) -> dict[str, Any]:
    return ((measured or {}).get("metrics") or {}).get(metric) or {}


def notes_on(runs: Sequence[dict[str, Any]], metric: str, metrics: dict[str, str]) -> list[str]:
    """What a reader has to know before believing the chart."""
    notes = []
    done = [run for run in runs if run["result"]]
    if len(done) < len(runs):
        count = len(runs) - len(done)
        notes.append(
            f"{count} of {len(runs)} runs {'has' if count == 1 else 'have'} no result yet and cannot be drawn."
        )
    datasets = {
        run["dataset"]["id"]: run["dataset"]["name"]
        for run in done
        if metric_of(run["result"], metric) and run["dataset"]
    }
    title = lowered(metrics.get(metric, metric))
    if len(datasets) > 1:
        notes.append(
            f"These runs were evaluated on different datasets ({', '.join(list(datasets.values())[:4])}"
            f"{', …' if len(datasets) > 4 else ''}), so their {title} cannot be compared with each other; "
            "each dataset has its own Pareto front."
        )
    checkpoints = {run["checkpoint"]["id"] for run in done}
    if len(checkpoints) > 1 and metric:
        why = (
            f"{title} is measured against each one's own original"
            if metric not in charts.ABSOLUTE_METRICS
            else "perplexity counts each model's own tokens, so it compares only models with the same tokenizer"
            if metric == "perplexity"
            else "compare each run with its own original first"
        )
        notes.append(f"These runs come from {len(checkpoints)} different checkpoints: {why}.")
    without = [run for run in done if metrics and not metric_of(run["result"], metric)]
    if without:
        count, others = len(without), " and others" if len(without) > 1 else ""
        has = "has" if count == 1 else "have"
        notes.append(f"{count} of {len(done)} finished runs {has} no {title}: {without[0]['name']}{others}.")
    return notes

"""A comparison of runs: its address, its table, its CSV, and what its charts are fed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload
from werkzeug.datastructures import MultiDict

from webapp import charts
from webapp.store.models import Run
from webapp.units import lowered

from .errors import NotFound, RequestInvalid

SCALES = ("auto", "linear", "log")
COLUMNS = {  # of the table: key, title, unit
    "name": ("Run", ""),
    "checkpoint": ("Checkpoint", ""),
    "dataset": ("Dataset", ""),
    "state": ("State", ""),
    "size_bytes": ("Size", "bytes"),
    "size_ratio": ("Of the original", "share"),
    "sparsity": ("Sparsity", "share"),
    "params_total": ("Parameters", ""),
    "params_nonzero": ("Nonzero", ""),
    "bits_per_weight": ("Bits per weight", "bit"),
    "latency_p50_ms": ("Latency p50", "ms"),
    "speed": ("Speed, × the original", ""),
    "speed_low": ("Speed, 95 % CI from", ""),
    "speed_high": ("Speed, 95 % CI to", ""),
    "speed_disturbed": ("Speed, disturbed by", ""),
    "metric": ("Metric", ""),
    "metric_low": ("95 % CI from", ""),
    "metric_high": ("95 % CI to", ""),
    "metric_n": ("n", ""),
    "metric_baseline": ("Original's metric", ""),
    "pareto": ("On the Pareto front", ""),
}
SETTINGS = ("metric", "x", "scale", "sort", "order", "layer_sort", "layer_order")  # of the address, beside the runs


@dataclass(frozen=True)
class View:
    """All that the address says. `x` is one of charts.AXES, `sort` one of COLUMNS."""

    run_ids: tuple[str, ...] = ()
    metric: str = ""
    x: str = "size_bytes"
    scale: str = "auto"
    sort: str = ""
    order: str = "asc"
    layer_sort: str = ""  # of the table of layers: "" as in the model, "layer", or the number of a run, 1 the first
    layer_order: str = "asc"

    @classmethod
    def read(cls, query: MultiDict[str, str]) -> View:
        """Raises RequestInvalid with the parameter that is not known."""
        return cls.of(query.getlist("run"), query)

    @classmethod
    def of(cls, run_ids: Iterable[str], query: Mapping[str, str]) -> View:
        """Raises RequestInvalid."""
        view = cls(
            run_ids=tuple(dict.fromkeys(run_ids)),
            metric=query.get("metric", ""),
            x=query.get("x") or "size_bytes",
            scale=query.get("scale") or "auto",
            sort=query.get("sort", ""),
            order=query.get("order") or "asc",
            layer_sort=query.get("layer_sort", ""),
            layer_order=query.get("layer_order") or "asc",
        )
        allowed = {
            "x": list(charts.AXES),
            "scale": list(SCALES),
            "sort": ["", *COLUMNS],
            "order": ["asc", "desc"],
            "layer_order": ["asc", "desc"],
        }
        allowed["layer_sort"] = ["", "layer", *(str(number + 1) for number in range(len(view.run_ids)))]
        for field, choices in allowed.items():
            if getattr(view, field) not in choices:
                given, known = getattr(view, field)[:40], ", ".join(filter(None, choices))
                raise RequestInvalid(f"{field}={given!r} is not known: use one of {known}.", field)
        return view

    def query(self, with_runs: bool = True, **changes: str) -> str:
        """The address' query with changes; what is as by default is left out."""
        pairs = [("run", id_) for id_ in self.run_ids] if with_runs else []
        defaults = View()
        for field in SETTINGS:
            value = changes.get(field, getattr(self, field))
            if value != getattr(defaults, field):
                pairs.append((field, value))
        return urlencode(pairs)

    def settings(self) -> dict[str, str]:
        """What a share keeps of it; never empty."""
        return {field: getattr(self, field) for field in SETTINGS}


def runs_of(session: Session, run_ids: Sequence[str]) -> list[Run]:
    """The runs in the order asked. Raises NotFound (field "run")."""
    found: dict[str, Run] = {}
    for start in range(0, len(run_ids), 500):  # SQLite takes a bounded number of parameters
        asked = select(Run).where(Run.id.in_(run_ids[start : start + 500]))
        for run in session.scalars(asked.options(joinedload(Run.checkpoint), joinedload(Run.dataset))):
            found[run.id] = run
    missing = [id_ for id_ in run_ids if id_ not in found]
    if missing:
        raise NotFound(
            f"There is no run {missing[0][:40]}. It may have been deleted; take it out of the address.", "run"
        )
    return [found[id_] for id_ in run_ids]


def drawn(runs: Sequence[Run], anonymous: bool = False) -> list[dict[str, Any]]:
    """What charts are fed. `anonymous` numbers the runs, checkpoints and datasets instead of naming their ids."""
    numbers: dict[str, str] = {}

    def shown(id_: str) -> str:
        return numbers.setdefault(id_, str(len(numbers) + 1)) if anonymous else id_

    return [
        {
            "id": shown(run.id),
            "name": run.name,
            "state": run.state,
            "checkpoint": {"id": shown(run.checkpoint_id), "name": run.checkpoint.name},
            "dataset": {"id": shown(run.dataset_id), "name": run.dataset.name}
            if run.dataset_id and run.dataset
            else None,
            "baseline": run.baseline,
            "result": run.result,
            "prunable_sparsity": ((run.receipt or {}).get("parameters") or {}).get("prunable_sparsity"),
        }
        for run in runs
    ]


@dataclass(frozen=True)
class Comparison:
    """`runs` as charts are fed; `metrics` {name: title}; `metric` the one shown, "" where no run has any."""

    view: View
    runs: list[dict[str, Any]]
    metrics: dict[str, str]
    metric: str
    higher_is_better: bool
    rows: list[dict[str, Any]]  # of COLUMNS, and "id"; sorted as the view says
    notes: list[str]  # sentences

    def layers(self) -> list[tuple[str, list[float | None]]]:
        """(layer, its sparsity in each of `runs`, None where a run has no such layer), sorted as the view says."""
        found = [
            {each["name"]: each["sparsity"] for each in (run["result"] or {}).get("layers", ())} for run in self.runs
        ]
        table = [(name, [of.get(name) for of in found]) for name in dict.fromkeys(name for of in found for name in of)]
        sort, descending = self.view.layer_sort, self.view.layer_order == "desc"
        if sort == "layer":
            table.sort(key=lambda each: each[0], reverse=descending)
        elif sort:
            at = int(sort) - 1
            table.sort(key=lambda each: -1.0 if (v := each[1][at]) is None else v, reverse=descending)
        return table

    def figures(self) -> dict[str, Any]:
        """Plotly figures by name; the bars in the table's order."""
        by_id = {run["id"]: run for run in self.runs}
        ordered = [by_id[row["id"]] for row in self.rows]
        return {
            "tradeoff": charts.size_vs_accuracy(self.runs, self.metric or "accuracy", self.view.x, self.view.scale),
            "size": charts.size_bars(ordered),
            "sparsity": charts.sparsity_bars(ordered),
            "layers": charts.per_layer_sparsity(ordered),
        }


def compare(view: View, runs: Sequence[dict[str, Any]]) -> Comparison:
    """Raises RequestInvalid for a metric that none of the runs has."""
    metrics = charts.metric_names(runs)
    if view.metric and view.metric not in metrics:
        known = f"They have {', '.join(metrics)}." if metrics else "They have none (yet)."
        raise RequestInvalid(f"None of these runs has the metric {view.metric[:40]!r}. {known}", "metric")
    metric = view.metric or next(iter(metrics), "")
    found = (m for run in runs if (m := metric_of(run["result"], metric)))
    higher = bool(next(found, {}).get("higher_is_better", True))
    rows = [row(run, metric) for run in runs]
    front = charts.front_runs(runs, metric, view.x)
    for each in rows:
        each["pareto"] = each["id"] in front if each["metric"] is not None else None
    return Comparison(view, list(runs), metrics, metric, higher, ordered(rows, view), notes_on(runs, metric, metrics))


def row(run: dict[str, Any], metric: str) -> dict[str, Any]:
    result, baseline = run["result"] or {}, run["baseline"] or {}
    own, original = metric_of(result, metric), metric_of(baseline, metric)
    low, high = own.get("ci95") or (None, None)
    speed = result.get("speed") or {}
    size, before = result.get("size_bytes"), baseline.get("size_bytes")
    return {
        "id": run["id"],
        "name": run["name"],
        "checkpoint": run["checkpoint"]["name"],
        "dataset": run["dataset"]["name"] if run["dataset"] else None,
        "state": str(run["state"]),
        "size_bytes": size,
        "size_ratio": size / before if size is not None and before else None,
        "sparsity": result.get("sparsity"),
        "params_total": result.get("params_total"),
        "params_nonzero": result.get("params_nonzero"),
        "bits_per_weight": result.get("bits_per_weight"),
        "latency_p50_ms": (result.get("latency_ms") or {}).get("p50"),
        "speed": speed.get("ratio"),
        "speed_low": (speed.get("ci95") or (None, None))[0],
        "speed_high": (speed.get("ci95") or (None, None))[1],
        "speed_disturbed": speed.get("disturbed"),
        "metric": own.get("value"),
        "metric_low": low,
        "metric_high": high,
        "metric_n": own.get("n"),
        "metric_baseline": original.get("value"),
        "pareto": None,
    }


def ordered(rows: list[dict[str, Any]], view: View) -> list[dict[str, Any]]:
    """Sorted by the view's column; what has no value comes last either way."""
    if not view.sort:
        return rows
    known = [each for each in rows if each[view.sort] is not None]
    known.sort(key=lambda each: fold(each[view.sort]), reverse=view.order == "desc")
    return known + [each for each in rows if each[view.sort] is None]


def fold(value: Any) -> Any:
    return value.casefold() if isinstance(value, str) else value


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


def as_csv(comparison: Comparison) -> str:
    """UTF-8 with a heading row; numbers unrounded."""
    keys = ["id", *COLUMNS]
    head = [f"metric:{comparison.metric}" if key == "metric" and comparison.metric else key for key in keys]
    return as_rows([head, *([each[key] for key in keys] for each in comparison.rows)])


def as_rows(rows: Iterable[Sequence[Any]]) -> str:
    """CSV, in which text that a spreadsheet would take for a formula is quoted."""
    out = io.StringIO()
    csv.writer(out).writerows([[inert(value) for value in row] for row in rows])
    return out.getvalue()


def inert(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return "" if value is None else value

"""A comparison of runs: its address, its table, its CSV, and what its charts are fed."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

from werkzeug.datastructures import MultiDict

from webapp import charts
from webapp.charts.points import METRIC, SETTING
from webapp.engine.techniques import techniques
from webapp.units import lowered

from .compared_runs import ANY, LAYER_RUNS
from .errors import RequestInvalid
from .layer_diff import SORT, LayerDiff, layer_diff
from .recipe_diff import RecipeRow, recipe_rows
from .run_columns import column_of

SCALES = ("auto", "linear", "log")
COLUMNS = {  # of the table: key, title, unit
    "name": ("Run", ""),
    "checkpoint": ("Checkpoint", ""),
    "dataset": ("Dataset", ""),
    "study": ("Study", ""),
    "tags": ("Tags", ""),
    "state": ("State", ""),
    "x": ("X axis", ""),
    "y": ("Y axis", ""),
    "colour": ("Colour", ""),
    "size_bytes": ("Size", "bytes"),
    "size_ratio": ("Of the original", "share"),
    "sparsity": ("Sparsity", "share"),
    "params_total": ("Parameters", ""),
    "params_nonzero": ("Nonzero", ""),
    "bits_per_weight": ("Bits per weight", "bit"),
    "latency_p50_ms": ("Latency p50", "ms"),
    "time_ratio": ("Time, ratio to the original", ""),
    "time_ratio_low": ("Time, 95 % CI from", ""),
    "time_ratio_high": ("Time, 95 % CI to", ""),
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
    "techniques": ("Techniques", ""),
    "seed": ("Seed", ""),
    "created": ("Created", ""),
    "started": ("Started", ""),
    "finished": ("Ended", ""),
    "seconds": ("Took", "s"),
}
TEXTS = ("name", "checkpoint", "dataset", "study", "tags", "state", "techniques", "created", "started", "finished")
CONTROLS = ("metric", "x", "y", "scale", "colour", "lines", "zoom")  # of the chart, in the address
ORDERS = ("sort", "order", "layer_sort", "layer_order", "layers")  # of the tables
SETTINGS = (*CONTROLS, *ORDERS)  # of the address, beside the runs
TABLE_RUNS = 100  # in the tables and as bars; the chart and the CSV have all
PARALLEL_AXES = 6  # settings, beside the results
SIDE_BY_SIDE = LAYER_RUNS  # recipes as columns; of more, a table of the settings that differ
DIFFERING = 12  # of these settings at most
NAME = re.compile(r"[\w.-]{0,120}", re.ASCII)  # of an axis or what a run is coloured by


@dataclass(frozen=True)
class View:
    """All that the address says: the runs, and those of whole studies.

    `x` and `y` are charts.AXES, "metric.NAME" or "setting.TECHNIQUE.NAME"; `y` is the metric unless it is said. `sort`
    is one of COLUMNS. `zoom`: the ends of the x axis and of the y axis as the chart counts them, with commas.
    """

    run_ids: tuple[str, ...] = ()
    study_ids: tuple[str, ...] = ()
    metric: str = ""
    x: str = "size_bytes"
    y: str = ""
    scale: str = "auto"
    colour: str = ""
    lines: str = "study"
    zoom: str = ""
    sort: str = ""
    order: str = "asc"
    layer_sort: str = (
        ""  # of the table of layers: "" as in the model, "layer", or a figure and the run's number: "bits.1"
    )
    layer_order: str = "asc"
    layers: str = "differing"

    @classmethod
    def read(cls, query: MultiDict[str, str]) -> View:
        """Raises RequestInvalid with the parameter that is not known."""
        return cls.of(query.getlist("run"), query, query.getlist("study"))

    @classmethod
    def of(cls, run_ids: Iterable[str], query: Mapping[str, str], study_ids: Iterable[str] = ()) -> View:
        """Raises RequestInvalid. Whether the runs have the axes and the metric is seen when they are compared."""
        given = {name: query.get(name) or getattr(cls, name) for name in SETTINGS}
        for sort, order in (("sort", "order"), ("layer_sort", "layer_order")):
            if given[sort].startswith("-"):  # as the headings of the tables ask
                given |= {sort: given[sort][1:], order: "desc"}
        view = cls(tuple(dict.fromkeys(run_ids)), tuple(dict.fromkeys(study_ids)), **given)
        allowed = {
            "scale": list(SCALES),
            "lines": ["study", "none"],
            "sort": ["", *COLUMNS],
            "order": ["asc", "desc"],
            "layer_order": ["asc", "desc"],
            "layers": ["differing", "all"],
        }
        for field, choices in allowed.items():
            if getattr(view, field) not in choices:
                raise _unknown(field, getattr(view, field), choices)
        for field in ("x", "y", "colour"):
            if not NAME.fullmatch(getattr(view, field)):
                raise RequestInvalid(f"{field}={getattr(view, field)[:40]!r} is not known.", field)
        sort = SORT.fullmatch(view.layer_sort)
        if view.layer_sort not in ("", "layer") and not (
            sort and (view.study_ids or int(sort["run"]) <= len(view.run_ids))
        ):
            raise _unknown("layer_sort", view.layer_sort, ["layer", "bits.1 and the like, 1 being the first run"])
        view.zoomed()
        return view

    def zoomed(self) -> tuple[float, float, float, float] | None:
        """Raises RequestInvalid."""
        if not self.zoom:
            return None
        try:
            left, right, bottom, top = (float(end) for end in self.zoom[:200].split(","))
        except ValueError:
            left = right = bottom = top = math.nan
        if not all(map(math.isfinite, (left, right, bottom, top))) or left == right or bottom == top:
            raise RequestInvalid(
                "zoom has four numbers with commas: the ends of the x axis, then of the y axis.", "zoom"
            )
        return left, right, bottom, top

    def query(self, with_runs: bool = True, **changes: str) -> str:
        """The address' query with changes; what is as by default is left out."""
        pairs, defaults = [], View()
        for field in SETTINGS:
            value = changes.get(field, getattr(self, field))
            if value != getattr(defaults, field):
                pairs.append((field, value))
        return "&".join(filter(None, (self._whose if with_runs else "", urlencode(pairs))))

    @cached_property
    def _whose(self) -> str:
        """The part of the query that names the runs, which are many."""
        return urlencode([*(("run", id_) for id_ in self.run_ids), *(("study", id_) for id_ in self.study_ids)])

    def fields(self, *without: str) -> list[tuple[str, str]]:
        """Of a form that keeps the rest of the address, without the runs."""
        defaults = View()
        named = [(field, getattr(self, field)) for field in SETTINGS if field not in without]
        return [(field, value) for field, value in named if value != getattr(defaults, field)]

    def next_sort(self, key: str, layers: bool = False) -> str:
        """What a heading asks: its column from the first, or the other way round where it is sorted by that already."""
        sort, order = (self.layer_sort, self.layer_order) if layers else (self.sort, self.order)
        return f"-{key}" if sort == key and order == "asc" else key

    def settings(self) -> dict[str, str]:
        """What a share keeps of it; never empty."""
        return {field: getattr(self, field) for field in SETTINGS}


def _unknown(field: str, given: str, choices: Iterable[str]) -> RequestInvalid:
    return RequestInvalid(f"{field}={given[:40]!r} is not known: use one of {', '.join(filter(None, choices))}.", field)


@dataclass(frozen=True)
class ComparisonChoices:
    """What these runs can be drawn by: titles by keys."""

    metrics: dict[str, str]
    figures: dict[str, str]  # of charts.AXES
    settings: dict[str, str]  # numbers, as axes
    colours: dict[str, str]

    @property
    def axes(self) -> dict[str, str]:
        return {**{f"{METRIC}{name}": title for name, title in self.metrics.items()}, **self.figures, **self.settings}

    def fitting(self, kept: Mapping[str, str]) -> dict[str, str]:
        """A share's settings without what its runs have no longer."""
        known = {"metric": self.metrics, "x": self.axes, "y": self.axes, "colour": self.colours}
        return {name: value if name not in known or value in known[name] else "" for name, value in kept.items()}


def choices_of(runs: Sequence[Mapping[str, Any]]) -> ComparisonChoices:
    values: dict[str, set[Any]] = {}
    for run in runs:
        for name, value in run["settings"].items():
            values.setdefault(name, set()).add(value)
    own = [_named(name) for name in values if not name.startswith(ANY)]
    for name in [name for name in values if name.startswith(ANY) and own.count(_named(name)) < 2]:
        del values[name]  # one technique's own says the same
    numbers = [name for name, found in values.items() if any(isinstance(value, float) for value in found)]
    varying = [name for name in values if len(values[name]) > 1 or any(name not in run["settings"] for run in runs)]
    titles = {name: _setting_title(name) for name in sorted(values)}
    return ComparisonChoices(
        metrics=charts.metric_names(runs),
        figures=dict(charts.AXES),
        settings={name: title for name, title in titles.items() if name in numbers},
        colours={**charts.COLOURED, **{name: title for name, title in titles.items() if name in varying}},
    )


def _named(name: str) -> str:
    """ "setting.gptq.bits" → "bits"."""
    return name.split(".", 2)[2]


def _setting_title(name: str) -> str:
    if name.startswith(ANY):
        fields = (each.Settings.model_fields.get(_named(name)) for each in techniques().values())
        title = next((field.title for field in fields if field and field.title), _named(name))
        return f"{title}, of any technique"
    column = column_of(name)
    return column.title if column else name.removeprefix(SETTING)


@dataclass(frozen=True)
class Comparison:
    """`runs` as charts are fed; `metric` the one in the table, "" where no run has any; `y` the axis that is drawn."""

    view: View
    runs: list[dict[str, Any]]
    choices: ComparisonChoices
    metric: str
    y: str
    higher_is_better: bool
    rows: list[dict[str, Any]]  # of COLUMNS, and "id" and "number"; sorted as the view says
    notes: list[str]  # sentences

    @property
    def metrics(self) -> dict[str, str]:
        return self.choices.metrics

    @property
    def shown(self) -> list[dict[str, Any]]:
        """The rows that the tables have."""
        return self.rows[:TABLE_RUNS]

    def title(self, key: str) -> str:
        """Of a column of the table."""
        if key == "metric":
            return self.metrics.get(self.metric) or "Metric"
        if key in ("x", "y"):
            return self.choices.axes.get(self.view.x if key == "x" else self.y) or self.unmeasured
        return self.choices.colours[self.view.colour] if key == "colour" and self.view.colour else COLUMNS[key][0]

    @property
    def unmeasured(self) -> str:
        """What is drawn upwards where no run has it."""
        return self.y.removeprefix(METRIC).replace("_", " ").capitalize()

    def columns(self) -> list[str]:
        """Of the table beside the chart: all that is drawn."""
        found = ["name", "checkpoint", "dataset", "size_bytes", "metric", "metric_low", "metric_high", "metric_n"]
        found += ["metric_baseline", "time_ratio", "pareto"]
        axes = (("x", self.view.x), ("y", self.y))
        extra = [name for name, key in axes if key not in found and key != f"{METRIC}{self.metric}"]
        extra += ["colour"] if self.view.colour not in ("", *found, self.view.x, self.y) else []
        return [*found[:3], *extra, *found[3:]]

    @property
    def has_lines(self) -> bool:
        """Whether a study's line goes through some of them."""
        keys = [run["line"]["key"] for run in self.runs if run["line"]]
        return len(keys) > len(set(keys))

    @property
    def first_runs(self) -> list[dict[str, Any]]:
        """In the order of the address, as many as a table has."""
        return self.runs[:TABLE_RUNS]

    def settings_that_differ(self) -> list[RecipeRow]:
        """As many as a table of many runs has."""
        return [each for each in self.recipes if each.differs][:DIFFERING]

    @cached_property
    def recipes(self) -> list[RecipeRow]:
        return recipe_rows(self.runs)

    def layers(self) -> LayerDiff:
        """Of the first runs, as many as fit side by side."""
        view = self.view
        some = self.runs[:LAYER_RUNS]
        return layer_diff(some, view.layer_sort, view.layer_order == "desc", view.layers == "all")

    def figures(self, links: bool = True) -> dict[str, Any]:
        """Plotly figures by name; the bars in the table's order."""
        by_id = {run["id"]: run for run in self.runs}
        ordered = [by_id[row["id"]] for row in self.shown]
        sides = charts.Sides(
            x=self.view.x,
            y=self.y,
            scale=self.view.scale,
            colour=self.view.colour,
            lines=self.view.lines == "study",
            titles=self.choices.axes,
            zoom=self.view.zoomed(),
            links=links,
        )
        return {
            "tradeoff": charts.tradeoff(self.runs, sides),
            "parallel": self.parallel(),
            "size": charts.size_bars(ordered),
            "time": charts.time_ratios(ordered),
            "sparsity": charts.sparsity_bars(ordered),
            "layers": charts.per_layer_sparsity(self.runs[:LAYER_RUNS]),
        }

    def parallel(self) -> Any:
        """Settings that differ, and results, as axes beside each other."""
        by_id = {run["id"]: run for run in self.runs}
        runs = [by_id[row["id"]] for row in self.rows if by_id[row["id"]]["result"]][: charts.PARALLEL_RUNS]
        names = [name for name in self.choices.colours if name.startswith(SETTING)]
        shared = {_named(name) for name in names if name.startswith(ANY)}
        names = [name for name in names if name.startswith(ANY) or _named(name) not in shared]
        values = {name: [run["settings"].get(name) for run in runs] for name in names}
        values = {name: found for name, found in values.items() if len(set(found)) > 1}
        most = sorted(values, key=lambda name: (-sum(v is not None for v in values[name]), -len(set(values[name]))))
        settings = [charts.Dimension(self.choices.colours[name], values[name]) for name in most[:PARALLEL_AXES]]
        applied = charts.Dimension("Techniques", [run["techniques"] for run in runs])
        results = {
            "Size (kB)": [run["result"]["size_bytes"] / 1000 for run in runs],
            "Sparsity": [run["result"]["sparsity"] for run in runs],
            "Bits per weight": [run["result"]["bits_per_weight"] for run in runs],
            "Time, ratio to the original": [_value(run, "time_ratio") for run in runs],
        }
        colour = charts.Dimension(self.title("metric"), [_value(run, f"{METRIC}{self.metric}") for run in runs])
        if not self.metric:
            colour = charts.Dimension("Size (kB)", results.pop("Size (kB)"))
        measured = [charts.Dimension(title, found) for title, found in results.items()]
        return charts.parallel_coordinates([run["name"] for run in runs], [applied, *settings, *measured], colour)


def _value(run: Mapping[str, Any], axis: str) -> float | None:
    found = charts.reading(run, "result", axis)
    return found.value if found else None


def compare(view: View, runs: Sequence[dict[str, Any]]) -> Comparison:
    """`runs` as `drawn` reads them. Raises RequestInvalid for a metric, an axis or a colour that none of them has."""
    choices = choices_of(runs)
    metrics = choices.metrics
    if view.metric and view.metric not in metrics:
        known = f"They have {', '.join(metrics)}." if metrics else "They have none (yet)."
        raise RequestInvalid(f"None of these runs has the metric {view.metric[:40]!r}. {known}", "metric")
    for field, known in (("x", choices.axes), ("y", choices.axes), ("colour", choices.colours)):
        if (given := getattr(view, field)) and given not in known:
            raise RequestInvalid(
                f"{field}={given[:60]!r} is nothing of these runs: use one of {', '.join(known)}.", field
            )
    drawn_metric = view.y.removeprefix(METRIC) if view.y.startswith(METRIC) else ""
    metric = drawn_metric or view.metric or next(iter(metrics), "")
    y = view.y or f"{METRIC}{metric or 'accuracy'}"
    found = (m for run in runs if (m := metric_of(run["result"], metric)))
    higher = bool(next(found, {}).get("higher_is_better", True))
    front = charts.runs_on_front(runs, view.x, y)
    rows = []
    for number, run in enumerate(runs, start=1):
        drawn_at = {"x": _value(run, view.x), "y": _value(run, y)}
        each = row(run, metric) | drawn_at | {"number": number}
        each["colour"] = charts.category(run, view.colour) if view.colour else None
        each["pareto"] = run["id"] in front if front and None not in drawn_at.values() else None
        rows.append(each)
    notes = notes_on(runs, metric, metrics)
    return Comparison(view, list(runs), choices, metric, y, higher, ordered(rows, view), notes)


def row(run: dict[str, Any], metric: str) -> dict[str, Any]:
    result, baseline = run["result"] or {}, run["baseline"] or {}
    own, original = metric_of(result, metric), metric_of(baseline, metric)
    low, high = own.get("ci95") or (None, None)
    speed = result.get("speed") or {}
    size, before = result.get("size_bytes"), baseline.get("size_bytes")
    time = charts.reading(run, "result", "time_ratio")
    return {
        "id": run["id"],
        "name": run["name"],
        "checkpoint": run["checkpoint"]["name"],
        "dataset": run["dataset"]["name"] if run["dataset"] else None,
        "study": run["study"]["name"] if run["study"] else None,
        "tags": ", ".join(run["tags"]) or None,
        "state": str(run["state"]),
        "size_bytes": size,
        "size_ratio": size / before if size is not None and before else None,
        "sparsity": result.get("sparsity"),
        "params_total": result.get("params_total"),
        "params_nonzero": result.get("params_nonzero"),
        "bits_per_weight": result.get("bits_per_weight"),
        "latency_p50_ms": (result.get("latency_ms") or {}).get("p50"),
        "time_ratio": time.value if time else None,
        "time_ratio_low": time.low if time else None,
        "time_ratio_high": time.high if time else None,
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
        "techniques": run["techniques"] or None,
        "seed": run["seed"],
        **{name: run[f"{name}_at"] and run[f"{name}_at"].isoformat() for name in ("created", "started", "finished")},
        "seconds": run["seconds"],
    }


def ordered(rows: list[dict[str, Any]], view: View) -> list[dict[str, Any]]:
    """Sorted by the view's column; what has no value comes last either way."""
    if not view.sort:
        return rows
    known = [each for each in rows if each[view.sort] is not None]
    known.sort(key=lambda each: fold(each[view.sort]), reverse=view.order == "desc")
    return known + [each for each in rows if each[view.sort] is None]


def fold(value: Any) -> tuple[bool, Any]:
    """Numbers before words, words whatever their case."""
    return (True, value.casefold()) if isinstance(value, str) else (False, value)


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
    if len(runs) > TABLE_RUNS:
        notes.append(
            f"Tables and bars show the first {TABLE_RUNS} of these {len(runs)} runs in their order, parallel "
            f"coordinates {min(charts.PARALLEL_RUNS, len(runs))}; size against quality and the CSV have all."
        )
    without = [run for run in done if metrics and not metric_of(run["result"], metric)]
    if without:
        count, others = len(without), " and others" if len(without) > 1 else ""
        has = "has" if count == 1 else "have"
        notes.append(f"{count} of {len(done)} finished runs {has} no {title}: {without[0]['name']}{others}.")
    return notes


def as_csv(comparison: Comparison) -> str:
    """UTF-8 with a heading row; numbers unrounded, settings as columns, the recipe as JSON."""
    settings = sorted({name for run in comparison.runs for name in run["settings"] if not name.startswith(ANY)})
    keys = ["id", *(key for key in COLUMNS if key != "colour")]
    titles = {"x": f"x:{comparison.view.x}", "y": f"y:{comparison.y}"}
    titles |= {"metric": f"metric:{comparison.metric}"} if comparison.metric else {}
    runs = {run["id"]: run for run in comparison.runs}
    rows = [[*(titles.get(key, key) for key in keys), *settings, "recipe"]]
    for each in comparison.rows:
        run = runs[each["id"]]
        own = [run["settings"].get(name) for name in settings]
        rows.append([*(each[key] for key in keys), *own, json.dumps(run["recipe"], ensure_ascii=False)])
    return as_rows(rows)


def as_rows(rows: Iterable[Sequence[Any]]) -> str:
    """CSV, in which text that a spreadsheet would take for a formula is quoted."""
    out = io.StringIO()
    csv.writer(out).writerows([[inert(value) for value in row] for row in rows])
    return out.getvalue()


def inert(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return "" if value is None else value

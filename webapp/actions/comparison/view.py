"""The address of a comparison: which runs, which metric, which axes, sorted how."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from werkzeug.datastructures import MultiDict

from webapp import charts
from webapp.actions.errors import RequestInvalid

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

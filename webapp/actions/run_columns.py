"""The columns that the table of runs can have: some of its own, and one for each metric and setting that a run has."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp.engine.run.metrics import METRICS
from webapp.engine.techniques import technique_title, techniques
from webapp.store.figures import CHANGE, METRIC, SETTING, TECHNIQUE
from webapp.store.models import RunFigure

Kind = Literal["text", "when", "seconds", "bytes", "times", "share", "count", "number", "metric", "change", "setting"]


@dataclass(frozen=True)
class RunColumn:
    """`key` as the address names it; `kind` says how it is shown."""

    key: str
    title: str
    kind: Kind

    @property
    def figure(self) -> str | None:
        """The figure that it shows, where it shows one."""
        return None if self.key in OWN else self.key

    @property
    def is_number(self) -> bool:
        return self.kind not in ("text", "setting")


OWN = {  # not figures
    "name": RunColumn("name", "Run", "text"),
    "checkpoint": RunColumn("checkpoint", "Checkpoint", "text"),
    "dataset": RunColumn("dataset", "Dataset", "text"),
    "study": RunColumn("study", "Study", "text"),
    "state": RunColumn("state", "State", "text"),
    "tags": RunColumn("tags", "Tags", "text"),
    "created": RunColumn("created", "Created", "when"),
}
FIGURES = {
    "techniques": RunColumn("techniques", "Techniques", "text"),
    "size_bytes": RunColumn("size_bytes", "Size", "bytes"),
    "times_smaller": RunColumn("times_smaller", "Smaller by", "times"),
    "quality": RunColumn("quality", "Quality", "metric"),
    "verdict": RunColumn("verdict", "Verdict", "text"),
    "sparsity": RunColumn("sparsity", "Sparsity", "share"),
    "bits_per_weight": RunColumn("bits_per_weight", "Bits per weight", "number"),
    "params_total": RunColumn("params_total", "Parameters", "count"),
    "params_nonzero": RunColumn("params_nonzero", "Nonzero", "count"),
    "speed": RunColumn("speed", "Speed, × the original", "times"),
    "latency_p50_ms": RunColumn("latency_p50_ms", "Latency p50 (ms)", "number"),
    "hardware": RunColumn("hardware", "Measured on", "text"),
    "started_at": RunColumn("started_at", "Started", "when"),
    "finished_at": RunColumn("finished_at", "Ended", "when"),
    "seconds": RunColumn("seconds", "Took", "seconds"),
}
FIXED = {  # in the order in which they are offered
    **{key: column for key, column in (OWN | FIGURES).items() if column.kind not in ("when", "seconds")},
    **{key: column for key, column in (OWN | FIGURES).items() if column.kind in ("when", "seconds")},
}
DEFAULT = ("checkpoint", "state", "size_bytes", "times_smaller", "quality", "created")
FOUND = re.compile(r"(metric|change|setting)\.[\w.-]{1,100}", re.ASCII)  # columns that are there for what runs have


def column_of(key: str) -> RunColumn | None:
    """The column of this name, whether or not some run has the figure; None where none can be called that."""
    if key in FIXED:
        return FIXED[key]
    if not FOUND.fullmatch(key):
        return None
    kind, _, name = key.partition(".")
    if kind == "setting":
        return RunColumn(key, _setting_title(name), "setting")
    metric = METRICS[name].title if name in METRICS else name.replace("_", " ").capitalize()
    return RunColumn(
        key, metric if kind == "metric" else f"{metric}, change", "metric" if kind == "metric" else "change"
    )


def _setting_title(name: str) -> str:
    technique, _, setting = name.partition(".")
    known = techniques().get(technique)
    field = known.Settings.model_fields.get(setting) if known else None
    return f"{technique_title(technique)}: {(field and field.title) or setting}"


def choices(session: Session) -> dict[str, list[RunColumn]]:
    """All that there are now, by what they are about."""
    names = figure_names(session)
    found = {prefix: [c for n in names if n.startswith(prefix) and (c := column_of(n))] for prefix in (METRIC, CHANGE)}
    settings = [column for n in names if n.startswith(SETTING) and (column := column_of(n))]
    return {
        "Run": [column for column in FIXED.values() if column.key != "name"],
        "Metrics": [*found[METRIC], *found[CHANGE]],
        "Settings": sorted(settings, key=lambda column: column.title),
    }


def techniques_used(session: Session) -> dict[str, str]:
    """The title of each technique that some run has, by its name."""
    known = techniques()
    used = [name.removeprefix(TECHNIQUE) for name in figure_names(session, TECHNIQUE)]
    titles = {name: known[name].title if name in known else name for name in used}
    return dict(sorted(titles.items(), key=lambda pair: pair[1]))


def figure_names(session: Session, prefix: str = "") -> list[str]:
    """Every name that a figure has; found by jumps through the index, as often as there are names."""
    first = select(RunFigure.name.label("name")).where(RunFigure.name > prefix).order_by(RunFigure.name).limit(1)
    names = select(first.subquery().c.name).cte("names", recursive=True)
    following = (
        select(RunFigure.name)
        .where(RunFigure.name > names.c.name)
        .order_by(RunFigure.name)
        .limit(1)
        .scalar_subquery()
        .correlate(names)
    )
    names = names.union_all(select(following).where(names.c.name.is_not(None)))
    found: Iterable[str | None] = session.scalars(select(names.c.name).where(names.c.name.is_not(None)))
    return [name for name in found if name is not None and name.startswith(prefix)]

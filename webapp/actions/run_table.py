"""The table of runs: which ones, in which order, with which columns. All of it is in the address.

It is read from the index of the runs, their figures and their tags; JSON columns, which hold receipts, are not touched.
A page begins after a run of the one before (keyset), so that the last page costs what the first one does.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import (
    ColumnElement,
    String,
    and_,
    false,
    func,
    or_,
    select,
    type_coerce,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from werkzeug.datastructures import MultiDict

from webapp.store.figures import TECHNIQUE
from webapp.store.models import Checkpoint, Dataset, Run, RunFigure, RunNote, RunState, RunTag, Study

from .comparison import inert
from .errors import RequestInvalid
from .keyset import Order, keyset_page
from .run_columns import DEFAULT, FIXED, RunColumn, column_of

PAGE = 50
WORDS_MOST, COLUMNS_MOST, VALUE_MOST = 8, 30, 200
AT_ONCE = 500  # SQLite takes a bounded number of parameters
NARROWS = ("q", "state", "checkpoint", "dataset", "study", "technique")  # beside `tag` and `starred`


@dataclass(frozen=True)
class RunsView:
    """What the address says. `sort` is a column's key, with - before it where the largest come first.

    `after` and `until` are cursors: the page begins after the one (`from` in the address), or ends before the other
    (`to`), which may also be the end of all.
    """

    q: str = ""
    state: str = ""
    checkpoint: str = ""
    dataset: str = ""
    study: str = ""
    technique: str = ""
    tags: tuple[str, ...] = ()
    starred: bool = False
    sort: str = "-created"
    columns: tuple[str, ...] = DEFAULT
    after: str = ""
    until: str = ""

    @classmethod
    def read(cls, query: MultiDict[str, str]) -> RunsView:
        """Raises RequestInvalid for a column or an order that there is not, and for what cannot be looked for as it
        stands: without a part of it more runs would be found than were asked for. What no run has narrows to nothing.
        """
        view = cls(
            **{name: _asked(query.get(name, ""), name) for name in NARROWS},
            tags=tuple(dict.fromkeys(filter(None, (_asked(tag, "tag") for tag in query.getlist("tag"))))),
            starred=_starred(query.get("starred", "")),
            sort=query.get("sort") or "-created",
            columns=tuple(dict.fromkeys(query.getlist("column"))) or DEFAULT,
            after=query.get("from", ""),
            until=query.get("to", ""),
        )
        view.require_known()
        return replace(view, columns=DEFAULT) if set(view.columns) == {*DEFAULT} else view

    def require_known(self) -> None:
        """Raises RequestInvalid."""
        for found, name, what in ((self.q.split(), "q", "words"), (self.tags, "tag", "tags")):
            if len(found) > WORDS_MOST:
                raise RequestInvalid(f"At most {WORDS_MOST} {what} are looked for; these are {len(found)}.", name)
        for key, name in (*((key, "column") for key in self.columns), (self.sort_key, "sort")):
            if column_of(key) is None:
                known = f"{', '.join(FIXED)}, or metric., change. or setting. with a name after it"
                raise RequestInvalid(f"{name}={key[:40]!r} is no column of runs: use one of {known}.", name)
        if len(self.columns) > COLUMNS_MOST:
            raise RequestInvalid(f"At most {COLUMNS_MOST} columns are shown; these are {len(self.columns)}.", "column")

    @property
    def sort_key(self) -> str:
        return self.sort.removeprefix("-")

    @property
    def descending(self) -> bool:
        return self.sort.startswith("-")

    @property
    def shown(self) -> list[RunColumn]:
        return [column for key in self.columns if key != "name" and (column := column_of(key)) is not None]

    @property
    def at_top(self) -> bool:
        """Whether a new run would be the first on the page."""
        return self.sort == "-created" and not (self.after or self.until)

    @property
    def narrowed(self) -> bool:
        return bool(self.tags or self.starred or any(getattr(self, name) for name in NARROWS))

    def pairs(self, **changes: Any) -> list[tuple[str, str]]:
        """The address' query with changes, without what is as by default. A change of anything starts at the top."""
        view = replace(self, **({"after": "", "until": ""} | changes))
        pairs = [(name, getattr(view, name)) for name in NARROWS if getattr(view, name)]
        pairs += [("tag", tag) for tag in view.tags]
        pairs += [("starred", "1")] if view.starred else []
        pairs += [("sort", view.sort)] if view.sort != "-created" else []
        pairs += [("column", key) for key in view.columns] if view.columns != DEFAULT else []
        return pairs + [(name, value) for name, value in (("from", view.after), ("to", view.until)) if value]

    def query(self, **changes: Any) -> str:
        """As the part of an address that follows it: "" or "?…"."""
        pairs = self.pairs(**changes)
        return f"?{urlencode(pairs)}" if pairs else ""

    @property
    def unnarrowed(self) -> str:
        """The query of the same table with all runs."""
        return self.query(**dict.fromkeys(NARROWS, ""), tags=(), starred=False)

    def sorted_by(self, column: RunColumn) -> str:
        """The query that sorts by this column: the largest figure or the first word on top, then the reverse."""
        first = f"-{column.key}" if column.is_number else column.key
        second = column.key if column.is_number else f"-{column.key}"
        return self.query(sort=second if self.sort == first else first)


def _asked(value: str, name: str) -> str:
    """Blanks alone stay, and match nothing: only "" is all. Raises RequestInvalid."""
    if "\0" in value:
        raise RequestInvalid(f"{name} has a NUL character, which no run has; remove it.", name)
    if len(value) > VALUE_MOST:
        raise RequestInvalid(f"{name} has {len(value):,} characters; at most {VALUE_MOST} are looked for.", name)
    return value.strip() or value


def _starred(value: str) -> bool:
    """Raises RequestInvalid."""
    if value not in ("", "0", "1"):
        raise RequestInvalid(f"starred={value[:40]!r} is not known: starred=1 narrows to those with a star.", "starred")
    return value == "1"


@dataclass(frozen=True)
class ListedRun:
    """A row of the table."""

    id: str
    name: str
    state: RunState
    progress: float
    created_at: datetime
    starred: bool
    checkpoint_id: str
    checkpoint: str
    dataset_id: str | None
    dataset: str | None
    study_id: str | None
    study: str | None
    tags: list[str] = field(default_factory=list)
    figures: dict[str, tuple[float, str]] = field(default_factory=dict)

    def value(self, column: RunColumn) -> Any:
        """For a program: a number, a text, a time or None."""
        if column.figure is None:
            told = self.created_at if column.key == "created" else getattr(self, column.key)
            return ", ".join(told) if column.key == "tags" else told
        value, text = self.figures.get(column.key, (None, ""))
        return text if text and column.kind in ("text", "setting") else value


@dataclass(frozen=True)
class RunsPage:
    """`total` that match; `next` and `previous` are cursors, "" where there is nothing further."""

    runs: list[ListedRun]
    total: int
    next: str
    previous: str


def runs_page(session: Session, view: RunsView, limit: int = PAGE) -> RunsPage:
    """Raises RequestInvalid for a cursor that is none of this order's."""
    found = keyset_page(session, _order(view), conditions(view), view.after, view.until, limit)
    return RunsPage(rows_of_runs(session, found.ids, view.shown), count(session, view), found.next, found.previous)


def count(session: Session, view: RunsView, since: datetime | None = None) -> int:
    """How many match; of those made after `since`."""
    wanted = [*conditions(view), *([Run.created_at > since] if since else [])]
    return session.scalar(select(func.count()).select_from(Run).where(*wanted)) or 0


def ids_of(session: Session, view: RunsView, limit: int | None = None, since: datetime | None = None) -> list[str]:
    """All that match, in the view's order; only those made after `since`."""
    order = _order(view)
    wanted = [*conditions(view), *([Run.created_at > since] if since else [])]
    asked = order.of(select(Run.id)).where(*wanted).order_by(*order.by(False))
    return list(session.scalars(asked.limit(limit)))


def rows_of_runs(session: Session, ids: Sequence[str], columns: Sequence[RunColumn]) -> list[ListedRun]:
    """In the order of the ids; what is gone is left out."""
    asked = (
        select(Run.id, Run.name, Run.state, Run.progress, Run.created_at, Run.starred)
        .add_columns(Run.checkpoint_id, Checkpoint.name, Run.dataset_id, Dataset.name, Run.study_id, Study.name)
        .join(Checkpoint, Checkpoint.id == Run.checkpoint_id)
        .outerjoin(Dataset, Dataset.id == Run.dataset_id)
        .outerjoin(Study, Study.id == Run.study_id)
    )
    found: dict[str, ListedRun] = {}
    ids = [id_ for id_ in ids if "\0" not in id_]  # PostgreSQL takes no text with one
    names = [column.figure for column in columns if column.figure] + ["formats_failed"]
    for start in range(0, len(ids), AT_ONCE):
        some = ids[start : start + AT_ONCE]
        found |= {row[0]: ListedRun(*row) for row in session.execute(asked.where(Run.id.in_(some)))}
        tags = select(RunTag.run_id, RunTag.tag).where(RunTag.run_id.in_(some)).order_by(RunTag.tag)
        for id_, tag in session.execute(tags):
            found[id_].tags.append(tag)
        figures = select(RunFigure.run_id, RunFigure.name, RunFigure.value, RunFigure.text)
        figures = figures.where(RunFigure.run_id.in_(some), RunFigure.name.in_(names))
        for id_, name, value, text in session.execute(figures):
            found[id_].figures[name] = (value, text)
    return [found[id_] for id_ in ids if id_ in found]


class listed(FunctionElement[Any]):
    """A column as the index `runs_listed` has it: by an index of the column alone SQLite would read every row that it
    finds, with its receipt."""

    inherit_cache = True
    type = String()


@compiles(listed)
def _as_it_is(element: listed, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)


@compiles(listed, "sqlite")
def _without_its_index(element: listed, compiler: SQLCompiler, **options: Any) -> str:
    return f"+{compiler.process(element.clauses, **options)}"


def conditions(view: RunsView) -> list[ColumnElement[bool]]:
    """What a run of the view fulfils."""
    wanted: list[ColumnElement[bool]] = [_says(word) for word in view.q.split()]
    if view.q and not wanted:  # blanks alone
        wanted.append(false())
    if view.state:
        wanted.append(listed(Run.state) == view.state if view.state in [*RunState] else false())
    for column, given in (
        (Run.checkpoint_id, view.checkpoint),
        (Run.dataset_id, view.dataset),
        (Run.study_id, view.study),
    ):
        if given:
            wanted.append(listed(column) == given)
    if view.technique:
        wanted.append(
            listed(Run.id).in_(select(RunFigure.run_id).where(RunFigure.name == f"{TECHNIQUE}{view.technique}"))
        )
    wanted += [listed(Run.id).in_(select(RunTag.run_id).where(RunTag.tag == tag.lower())) for tag in view.tags]
    if view.starred:
        wanted.append(Run.starred.is_(True))
    return wanted


def _says(word: str) -> ColumnElement[bool]:
    """The run's name, id, checkpoint, notes or tags hold the word."""
    return or_(
        Run.name.icontains(word, autoescape=True),
        Run.id == word,
        Run.checkpoint_id.in_(select(Checkpoint.id).where(Checkpoint.name.icontains(word, autoescape=True))),
        Run.id.in_(select(RunNote.run_id).where(RunNote.text.icontains(word, autoescape=True))),
        Run.id.in_(select(RunTag.run_id).where(RunTag.tag.icontains(word, autoescape=True))),
    )


def _order(view: RunsView) -> Order:
    key, down = view.sort_key, view.descending
    if key == "created":
        return Order(Run.id, (Run.created_at,), down, nullable=False)
    if key == "name":
        return Order(Run.id, (func.lower(Run.name, type_=String()),), down, nullable=False)
    if key == "state":
        return Order(Run.id, (type_coerce(Run.state, String()),), down, nullable=False)
    if key in ("checkpoint", "dataset", "study"):
        table: Any = {"checkpoint": Checkpoint, "dataset": Dataset, "study": Study}[key]
        on = getattr(Run, f"{key}_id") == table.id
        return Order(Run.id, (func.lower(table.name, type_=String()),), down, True, table, on)
    if key == "tags":
        first = select(func.min(RunTag.tag, type_=String())).where(RunTag.run_id == Run.id).scalar_subquery()
        return Order(Run.id, (first,), down, nullable=True)
    figure = aliased(RunFigure)
    return Order(
        Run.id, (figure.value, figure.text), down, True, figure, and_(figure.run_id == Run.id, figure.name == key)
    )


def csv_lines(session: Session, view: RunsView) -> Iterator[str]:
    """All runs of the view as CSV, some at a time: id, name and the columns, unrounded, with a heading."""
    columns = view.shown
    yield _csv_line(["id", "name", *(column.key for column in columns)])
    ids = ids_of(session, view)
    for start in range(0, len(ids), AT_ONCE):
        for run in rows_of_runs(session, ids[start : start + AT_ONCE], columns):
            yield _csv_line([run.id, run.name, *(_plain(run.value(column), column) for column in columns)])


def _plain(value: Any, column: RunColumn) -> Any:
    if isinstance(value, float) and column.kind == "when":
        return datetime.fromtimestamp(value).astimezone().isoformat()
    if isinstance(value, datetime):
        return value.isoformat()
    return int(value) if isinstance(value, float) and column.kind in ("bytes", "count") else value


def _csv_line(values: Iterable[Any]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow([inert(value) for value in values])
    return out.getvalue()

"""In any order and with any filter pages follow each other without a gap or a repeat, and OFFSET is never asked for."""

import base64
import csv
import io
import json
import re
from dataclasses import replace

import pytest
from sqlalchemy import event
from sqlalchemy.sql import Select
from werkzeug.datastructures import MultiDict

from tests.actions.listed_runs import made_runs
from tests.postgresql import fresh_database
from webapp.actions.errors import RequestInvalid
from webapp.actions.run_columns import choices, column_of, techniques_used
from webapp.actions.run_table import NARROWS, RunsView, count, csv_lines, ids_of, rows_of_runs, runs_page
from webapp.store.database import make_engine, make_sessions, upgrade

RUNS = 23


def cursor(*values):
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


ORDERS = (
    "created",
    "name",
    "state",
    "checkpoint",
    "dataset",
    "study",
    "tags",
    "techniques",
    "size_bytes",
    "quality",
    "metric.accuracy",
    "change.accuracy",
    "setting.gptq.bits",
    "setting.gptq.granularity",
    "seconds",
    "verdict",
)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def listed(request, tmp_path_factory):
    """A session and its runs, which no test changes."""
    path = tmp_path_factory.mktemp("listed") / "pare.db"
    engine = make_engine(f"sqlite:///{path}" if request.param == "sqlite" else fresh_database())
    upgrade(engine)
    with make_sessions(engine)() as session:
        yield session, made_runs(session, RUNS)
    engine.dispose()


def leafed(session, view, limit=5):
    """The ids of each page, forwards by `next`; then backwards from the end by `previous`."""
    pages = []
    page = runs_page(session, view, limit)
    while True:
        pages.append([run.id for run in page.runs])
        if not page.next:
            break
        page = runs_page(session, view_at(view, after=page.next), limit)
    back = []
    page = runs_page(session, view_at(view, until="end"), limit)
    while True:
        back.insert(0, [run.id for run in page.runs])
        if not page.previous:
            break
        page = runs_page(session, view_at(view, until=page.previous), limit)
    return pages, back


def view_at(view, **changes):
    pairs = MultiDict(view.pairs(**changes))
    return RunsView.read(pairs)


@pytest.mark.parametrize("direction", ["", "-"])
@pytest.mark.parametrize("key", ORDERS)
def test_pages_follow_each_other_in_any_order(listed, key, direction):
    session, runs = listed
    view = RunsView(sort=f"{direction}{key}")
    pages, back = leafed(session, view)
    assert [len(page) for page in pages] == [5, 5, 5, 5, 3]
    in_order = [id_ for page in pages for id_ in page]
    assert sorted(in_order) == sorted(run.id for run in runs)
    assert in_order == [id_ for page in back for id_ in page] == ids_of(session, view)
    column = column_of(key)
    values = [run.value(column) for run in rows_of_runs(session, in_order, [column])]
    known = [value for value in values if value not in (None, "")]
    assert values[: len(known)] == known, "what has no value comes last"
    known = [value.lower() if isinstance(value, str) else value for value in known]
    if key != "tags":  # of which the first counts
        assert known == sorted(known, reverse=direction == "-")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("q=run+3", lambda n: n % 7 == 3),
        ("q=APE", lambda n: n % 2 == 1),
        ("q=odd+out_", lambda n: n == 3),
        ("q=100%25", lambda n: n % 9 == 0),
        ("q=_", lambda n: n == 3),
        ("state=failed", lambda n: n % 5 == 0),
        ("state=nonsense", lambda n: False),
        ("technique=gptq", lambda n: n % 2 == 1),
        ("tag=keep", lambda n: n % 4 == 0),
        ("tag=Keep&tag=100%25", lambda n: n % 36 == 0),
        ("starred=1", lambda n: n % 6 == 0),
        ("starred=1&state=succeeded&sort=-size_bytes", lambda n: n % 6 == 0 and n % 5),
        ("q=+", lambda n: False),
        ("tag=+", lambda n: False),
        ("technique=+", lambda n: False),
        ("q=&tag=&technique=&starred=0", lambda n: True),
        ("q=" + "+".join("abcdefgh") + "&tag=keep", lambda n: False),
    ],
)
def test_runs_are_searched_and_narrowed(listed, asked, expected):
    session, runs = listed
    view = RunsView.read(MultiDict([tuple(pair.split("=")) for pair in unquoted(asked).split("&")]))
    wanted = {run.id for n, run in enumerate(runs) if expected(n)}
    assert set(ids_of(session, view)) == wanted
    assert count(session, view) == runs_page(session, view).total == len(wanted)


def unquoted(query):
    return query.replace("+", " ").replace("%25", "%").replace("%00", "\0")


def test_checkpoint_dataset_and_study_narrow_by_their_ids(listed):
    session, runs = listed
    for field, nth in (("checkpoint", 2), ("dataset", 3), ("study", 4)):
        run = next(run for run in runs if getattr(run, f"{field}_id"))
        of_it = {other.id for other in runs if getattr(other, f"{field}_id") == getattr(run, f"{field}_id")}
        assert set(ids_of(session, RunsView(**{field: getattr(run, f"{field}_id")}))) == of_it, nth


def test_the_view_is_in_the_address():
    asked = [("q", "a b"), ("state", "failed"), ("tag", "x"), ("tag", "y"), ("starred", "1"), ("sort", "name")]
    asked += [("column", "size_bytes"), ("column", "metric.accuracy")]
    view = RunsView.read(MultiDict(asked))
    assert view.pairs() == asked
    assert RunsView().query() == ""
    assert "to=end" in view.query(until="end")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"sort": "receipt"}, "'receipt' is no column"),
        ({"sort": "metric.a b"}, "no column"),
        ({"column": "drop table"}, "no column"),
        ({"from": "nonsense!"}, "Begin at its top"),
        ({"from": "WyJhIl0"}, "Begin at its top"),  # ["a"]
        ({"to": "WzEsMl0"}, "Begin at its top"),  # [1,2]
        ({"from": "WyJhIiwieCJd", "sort": "size_bytes"}, "Begin at its top"),  # ["a","x"]
        ({"from": "a" * 2000}, "Begin at its top"),
        ({"from": cursor("x", "9999-12-31T23:59:59-14:00")}, "Begin at its top"),
        ({"to": cursor("x", "0001-01-01T00:00:00+14:00")}, "Begin at its top"),
        ({"from": cursor("x", 10**400, "accuracy"), "sort": "quality"}, "Begin at its top"),
        *(({name: "\0"}, f"{name} has a NUL") for name in (*NARROWS, "tag")),
        ({"q": "a\0b"}, "q has a NUL"),
        ({"q": "a " * 8 + "zzzzqq"}, "At most 8 words are looked for; these are 9"),
        ([("tag", f"t{n}") for n in range(9)], "At most 8 tags are looked for; these are 9"),
        ({"q": "a" * 201}, "q has 201 characters"),
        ({"starred": "yes"}, "starred='yes' is not known"),
    ],
)
def test_what_the_address_cannot_mean_is_said(listed, asked, said):
    with pytest.raises(RequestInvalid, match=said):
        runs_page(listed[0], RunsView.read(MultiDict(asked)))


def test_columns_are_offered_for_what_runs_have(listed):
    session, _ = listed
    found = {column.key: column.title for some in choices(session).values() for column in some}
    assert found["metric.accuracy"] == "Accuracy"
    assert found["setting.gptq.bits"] == "GPTQ: Bits"
    assert "setting.awq.bits" not in found
    assert techniques_used(session) == {"gptq": "GPTQ", "magnitude_pruning": "Magnitude pruning"}


def test_a_csv_has_all_of_the_view_unrounded(session):
    runs = made_runs(session, RUNS)
    runs[1].name = "=cmd()"
    session.commit()
    columns = ("state", "tags", "size_bytes", "metric.accuracy", "setting.gptq.granularity", "created")
    view = RunsView(technique="gptq", sort="created", columns=columns)
    rows = list(csv.DictReader(io.StringIO("".join(csv_lines(session, view)))))
    assert [row["id"] for row in rows] == ids_of(session, view)
    assert list(rows[0]) == ["id", "name", *columns]
    row = next(row for row in rows if row["id"] == runs[1].id)
    assert (row["name"], row["size_bytes"], row["metric.accuracy"]) == ("'=cmd()", "200", "0.91")


def test_sqlite_reads_the_index_of_all_runs_and_no_row_for_a_list(listed):
    session, runs = listed
    if session.get_bind().dialect.name != "sqlite":
        pytest.skip("how SQLite finds rows")
    sent = []

    def before(connection, cursor, statement, parameters, *more):
        sent.append((statement, parameters))

    event.listen(session.get_bind(), "before_cursor_execute", before)
    narrowed = {"checkpoint": runs[0].checkpoint_id, "study": runs[0].study_id, "tags": ("keep",), "technique": "gptq"}
    for sort in ("-created", "name", "checkpoint", "-size_bytes", "tags"):
        for view in [RunsView(q="run", state="succeeded"), *(RunsView(**{name: narrowed[name]}) for name in narrowed)]:
            ids_of(session, replace(view, sort=sort))
            count(session, view)
            count(session, view, runs[0].created_at)
    event.remove(session.get_bind(), "before_cursor_execute", before)
    for statement, parameters in sent:
        plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        found = [row[3] for row in plan if re.match(r"(SCAN|SEARCH) runs\b", row[3])]
        assert found, statement
        assert all("USING COVERING INDEX" in each for each in found), (statement, found)


def test_queries_do_not_grow_with_the_runs_and_none_has_an_offset(session):
    asked = []

    def before(connection, clause, *more):
        asked.append(clause)
        assert not (isinstance(clause, Select) and clause._offset_clause is not None)

    event.listen(session.get_bind(), "before_execute", before)
    counted = []
    for _ in range(2):
        made_runs(session, 60)
        views = [RunsView(sort="-metric.accuracy", q="run"), RunsView(tags=("keep",), columns=("techniques", "speed"))]
        session.expire_all()
        asked.clear()
        for view in views:
            page = runs_page(session, view, 20)
            runs_page(session, view_at(view, until="end"), 20)
            choices(session)
            assert page.runs
        counted.append(len(asked))
    assert counted[0] == counted[1] < 40

"""The page of the table: what it offers, what it says, and that everything works as plain forms and links."""

import csv
import io
import re
from datetime import timedelta

import pytest
from sqlalchemy import Engine, event, func, select

from tests.web.views.page import Page
from webapp.store.clock import now
from webapp.store.models import Run, RunState, RunTag


@pytest.fixture
def many(session, run):
    rows = [
        Run(name=f"number {n}", checkpoint_id=run.checkpoint_id, recipe=run.recipe, state=RunState.FAILED)
        for n in range(60)
    ]
    session.add_all(rows)
    session.commit()
    return rows


def names(page):
    return [own["title"] for own in page.of("a", class_="row-link truncate")]


def test_the_table_narrows_searches_and_sorts(client, run, many):
    assert "61 runs" in Page(client.get("/runs").text).text
    assert names(Page(client.get("/runs?state=succeeded").text)) == [run.name]
    assert names(Page(client.get("/runs?q=number+59").text)) == ["number 59"]
    assert names(Page(client.get("/runs?sort=-size_bytes").text))[0] == run.name
    nothing = Page(client.get("/runs?checkpoint=another").text)
    assert "No run matches" in nothing.text
    assert nothing.of("select", name="state"), "the filters stay where they can be taken away"


def test_where_there_is_no_run_there_is_nothing_to_narrow(client):
    assert not Page(client.get("/runs").text).of("select")


def test_a_long_table_is_leafed_through_and_begins_again(client, many):
    seen, address = [], "/runs"
    while address:
        page = Page(client.get(address).text)
        seen += names(page)
        links = [own["href"] for own in page.of("a", rel="nofollow") if "from=" in own["href"]]
        address = next((link for link in links if not link.startswith("/runs?sort")), None)
    assert len(seen) == len(set(seen)) == 61
    last = Page(client.get("/runs?to=end").text)
    assert names(last)[-1] == seen[-1]
    assert last.of("a", href="/runs")
    assert client.get("/runs?from=nonsense").status_code == 400


def test_headings_sort_and_say_so(client, run):
    page = Page(client.get("/runs?sort=-size_bytes&q=Mag").text)
    assert page.of("a", class_="sort", href="/runs?q=Mag&sort=size_bytes")
    assert page.of("a", class_="sort", href="/runs?q=Mag&sort=name")
    assert len(page.of("th", aria_sort="descending")) == 1


def test_the_filters_form_leads_to_a_short_address(client, run):
    sent = "/runs?form=1&q=Mag&state=&checkpoint=&tag=&sort=-created&column=state&column=metric.accuracy"
    answer = client.get(sent)
    assert answer.status_code == 302
    assert answer.location == "/runs?q=Mag&column=state&column=metric.accuracy"
    page = Page(client.get(answer.location).text)
    assert "95.00 %" in page.text.replace("\N{NO-BREAK SPACE}", " ")
    ticked = {own["value"] for own in page.of("input", name="column") if "checked" in own}
    assert ticked == {"state", "metric.accuracy"}


def test_tags_are_chips_that_narrow(client, run):
    client.post(f"/runs/{run.id}", data={"tags": "a&b, c"})
    page = Page(client.get("/runs").text)
    assert page.of("a", class_="tag", href="/runs?tag=a%26b")
    assert names(Page(client.get("/runs?tag=a%26b").text)) == [run.name]
    assert {own["value"] for own in page.of("option")} >= {"a&b", "c"}


def ids_in(page):
    return {own["value"] for own in page.of("input", name="run")}


def test_ticked_runs_are_compared_tagged_and_starred(client, run, many):
    ticked = [run.id, many[0].id]
    answer = client.post("/runs/actions", data={"action": "compare", "run": ticked})
    assert answer.location == f"/compare?run={run.id}&run={many[0].id}"
    answer = client.post("/runs/actions?q=number", data={"action": "tag", "run": ticked, "tags": "one, two"})
    assert answer.location == "/runs?q=number"
    assert "2 runs were tagged." in Page(client.get(answer.location).text).text
    assert ids_in(Page(client.get("/runs?tag=one&tag=two").text)) == set(ticked)
    client.post("/runs/actions?q=number", data={"action": "star", "all": "1"})
    assert "60 runs match" in Page(client.get("/runs?starred=1").text).text


def test_deleting_many_asks_first_and_again_where_they_have_become_more(client, session, run, many):
    asked = Page(client.post("/runs/actions?q=number", data={"action": "delete", "all": "1"}).text)
    assert "Delete 60 runs?" in asked.text
    assert asked.of("input", name="sure", value="60")
    session.add(Run(name="number 61", checkpoint_id=run.checkpoint_id, recipe=run.recipe, state=RunState.FAILED))
    session.commit()
    sure = {"action": "delete", "all": "1", "sure": "60"}
    assert "Delete 61 runs?" in client.post("/runs/actions?q=number", data=sure).text
    done = client.post("/runs/actions?q=number", data=sure | {"sure": "61"}, follow_redirects=True)
    assert "61 runs were deleted." in Page(done.text).text
    assert names(Page(client.get("/runs").text)) == [run.name]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"action": "star"}, "No run is chosen"),
        ({"action": "explode", "run": "x"}, "nothing that is done to runs"),
        ({"action": "tag", "run": "x", "tags": " , "}, "No tag is named"),
    ],
)
def test_what_cannot_be_done_is_said(client, run, data, said):
    answer = client.post("/runs/actions", data=data)
    assert answer.status_code == 400
    assert said in answer.text


def test_a_page_that_is_open_hears_of_changes_and_mostly_of_none(client, session, run, many):
    since = (now() + timedelta(seconds=1)).isoformat().replace("+", "%2B")
    address = f"/runs/rows?run={run.id}&run={many[0].id}&since={since}"
    first = client.get(address)
    assert set(first.json["rows"]) == {run.id, many[0].id}
    assert first.json["fresh"] == 0
    same = client.get(address, headers={"If-None-Match": first.headers["ETag"]})
    assert (same.status_code, same.data) == (304, b"")
    packed = client.get(address, headers={"Accept-Encoding": "gzip"})
    headers = {"If-None-Match": packed.headers["ETag"], "Accept-Encoding": "gzip"}
    assert client.get(address, headers=headers).status_code == 304
    many[0].state, many[0].progress = RunState.RUNNING, 0.25
    later = Run(name="later", checkpoint_id=run.checkpoint_id, recipe=run.recipe, created_at=now() + timedelta(hours=1))
    session.add(later)
    session.commit()
    changed = client.get(address, headers={"If-None-Match": first.headers["ETag"]}).json
    assert (changed["fresh"], changed["added"], changed["total"]) == (1, [later.id], 62)
    assert "later" in changed["rows"][later.id]
    assert client.get(f"{address}&sort=name").json["added"] == []
    assert 'data-state="running"' in changed["rows"][many[0].id]
    assert "25" in changed["rows"][many[0].id]
    client.post("/runs/actions", data={"action": "delete", "run": run.id, "sure": "1"})
    assert run.id not in client.get(address).json["rows"]
    for wrong in ("yesterday", "2026-01-31", "0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-14:00"):
        assert client.get(f"/runs/rows?since={wrong}").status_code == 400, wrong


@pytest.mark.parametrize("address", ["/runs", "/runs?sort=-metric.accuracy&q=a", "/", "/compare", "/api/v1/runs"])
def test_tables_are_made_without_reading_a_receipt(client, run, many, address):
    def sent(connection, cursor, statement, *more):
        assert "receipt" not in statement

    client.get(address)  # also what only a first request asks
    event.listen(Engine, "before_cursor_execute", sent)
    try:
        assert client.get(address).status_code == 200
    finally:
        event.remove(Engine, "before_cursor_execute", sent)


def test_the_csv_is_the_view(client, run, many):
    text = client.get("/runs/table.csv?q=Magnitude&column=size_bytes&column=tags").text
    assert list(csv.DictReader(io.StringIO(text))) == [
        {"id": run.id, "name": run.name, "size_bytes": "5000", "tags": ""}
    ]


def test_names_and_tags_stay_text(client, session, run):
    run.name, run.tag_rows = "<script>alert(1)</script>", [RunTag(tag="<b>")]
    session.commit()
    for address in ("/runs", f"/runs/{run.id}", "/compare", f"/compare?run={run.id}", "/"):
        assert not re.search("<script>alert|<b>", client.get(address).text), address


def test_the_api_narrows_sorts_and_leafs_as_the_page_does(client, run, many):
    first = client.get("/api/v1/runs?q=number&sort=name&limit=40").json
    second = client.get(f"/api/v1/runs?q=number&sort=name&limit=40&before={first['next']}").json
    names = [item["name"] for item in first["items"] + second["items"]]
    assert names == sorted(f"number {n}" for n in range(60))
    assert second["next"] is None
    told = client.get("/api/v1/runs?starred=0&state=succeeded").json["items"]
    assert [item["result"]["metrics"]["accuracy"]["value"] for item in told] == [0.95]
    for wrong in ("sort=nothing", "before=x", "state=odd", "limit=0", "page=2"):
        assert client.get(f"/api/v1/runs?{wrong}").status_code == 400, wrong
    text = client.get("/api/v1/runs.csv?state=succeeded&column=metric.accuracy").text
    assert text.splitlines() == ["id,name,metric.accuracy", f"{run.id},{run.name},0.95"]


def test_the_api_acts_on_many(client, run, many):
    def act(**body):
        return client.post("/api/v1/runs/actions", json=body)

    assert act(action="tag", tags=["x"], view={"q": "number", "state": "failed"}).json == {"done": 60, "left": []}
    assert len(client.get("/api/v1/runs?tag=x&limit=200").json["items"]) == 60
    done = act(action="cancel", run_ids=[run.id]).json
    assert done["done"] == 0
    assert "already ended" in done["left"][0]
    assert act(action="delete", view={"tag": ["x"]}).json["done"] == 60
    told = act(action="star")
    assert told.status_code == 422
    assert told.json["error"]["message"].endswith("run_ids, or a view, and not both.")
    assert act(action="compare", run_ids=[run.id]).status_code == 422


@pytest.mark.parametrize(
    ("view", "field"),
    [
        ({"q": "number", "limit": 1}, "view.limit"),
        ({"q": "number", "limit": 50}, "view.limit"),
        ({"q": "number", "before": None}, "view.before"),
        ({"q": "number", "before": "x"}, "view.before"),
        ({"q": "\0"}, "q"),
        ({"tag": ["\0"]}, "tag"),
        ({"tag": [""]}, "view.tag.0"),
        ({"technique": "\0"}, "technique"),
        ({"q": "a " * 8 + "zzzzqq"}, "q"),
        ({"tag": [f"t{n}" for n in range(9)]}, "view.tag"),
    ],
)
def test_an_action_on_a_view_is_done_to_no_run_that_the_view_was_not_to_find(client, session, run, many, view, field):
    answer = client.post("/api/v1/runs/actions", json={"action": "delete", "view": view})
    assert answer.status_code in (400, 422)
    assert answer.json["error"]["field"] == field
    assert answer.json["error"]["message"].endswith(".")
    assert session.scalar(select(func.count(Run.id))) == 61


@pytest.mark.parametrize("asked", ["q=%00", "tag=%00", "technique=%00", "q=a+a+a+a+a+a+a+a+zzzzqq", "starred=true"])
@pytest.mark.parametrize("path", ["/runs", "/runs/table.csv", "/runs/rows"])
def test_a_page_of_what_cannot_be_looked_for_says_so(client, run, path, asked):
    answer = client.get(f"{path}?{asked}&since=2026-01-31T12:00:00Z")
    assert answer.status_code == 400
    assert "NUL" in answer.text or "At most 8 words" in answer.text or "is not known" in answer.text
    assert client.post(f"/runs/actions?{asked}", data={"action": "star", "all": "1"}).status_code == 400


def test_a_search_box_with_a_blank_searches_nothing(client, run):
    assert client.get("/runs?form=1&q=+").location == "/runs"
    assert "No run matches" in client.get("/runs?q=+").text


def test_the_picker_of_the_comparison_keeps_what_is_ticked_while_one_searches(client, run, many):
    page = Page(client.get(f"/compare?run={run.id}&q=number+1&sort=metric").text)
    ticked = [own["value"] for own in page.of("input", name="run", type="checkbox") if "checked" in own]
    assert ticked == [run.id]
    assert len(page.of("input", name="run", type="checkbox")) == 16  # it, and those with a 1
    assert page.of("button", name="from") == []
    assert Page(client.get("/compare").text).of("button", name="from")

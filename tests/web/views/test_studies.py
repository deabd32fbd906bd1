"""Studies by page and API: begun with all their runs or none, told with prediction beside measurement, ended as one."""

import re

import pytest
from sqlalchemy import func, select

from tests.web.views.api_errors import error_of
from tests.web.views.page import Page
from tests.web.views.seeded import seed_dataset
from tests.web.views.seeded_profile import seed_profile as seed_digits_profile
from tests.web.views.seeded_studies import FACTS, seed_profile, seed_study
from webapp.store.models import Run, RunState, Study


@pytest.fixture
def profile(session):
    return seed_profile(session)


def count(session, table):
    return session.scalar(select(func.count()).select_from(table))


def test_a_race_begins_with_the_budgets_run_and_uniform_ones_of_the_same_bytes(client, session, profile):
    answer = client.post("/api/v1/studies", json={"profile_id": profile.id, "race": {"goal": {"ratio": 3}}})
    assert answer.status_code == 202, answer.text
    study = answer.json
    assert (study["kind"], study["state"], study["unit"]) == ("race", "queued", "nats")
    budget, *others = study["runs"]
    assert budget["title"] == "Budget"
    assert others
    runs = {run.id: run for run in session.scalars(select(Run))}
    size = runs[budget["id"]].expected["size_bytes"]
    assert 0.99 * FACTS.weights_bytes / 3 <= size <= FACTS.weights_bytes / 3
    for other in others:
        assert 0.75 * size < runs[other["id"]].expected["size_bytes"] <= size
        assert runs[other["id"]].state is RunState.QUEUED
        assert other["expected"]["value"] > 0
    assert client.get(f"/api/v1/studies/{study['id']}").json == study
    assert [each["id"] for each in client.get("/api/v1/studies").json["items"]] == [study["id"]]


def test_a_study_that_cannot_be_begins_no_run(client, session, profile):
    refused = [
        ({"race": {"goal": {"bytes": 10}}}, "budget_invalid", "smallest file"),
        ({"race": {"goal": {"ratio": 3}}, "families": ["Alchemy"]}, "budget_invalid", "no family"),
        ({"race": {"goal": {"ratio": 3}}, "locks": {"nothing": 0}}, "budget_invalid", "no layer"),
        ({"race": {"goal": {"ratio": 3}}, "exports": ["nothing"]}, "recipe_invalid", "no export"),
        ({"race": {"goal": {}}}, "body_invalid", "names a size"),
        ({"smallest": {"points": 1, "loss": 1}}, "body_invalid", "once"),
        ({"smallest": {"points": 0.5}}, "budget_invalid", "no labels"),
        ({}, "body_invalid", "one question"),
    ]
    for asked, code, words in refused:
        answer = client.post("/api/v1/studies", json={"profile_id": profile.id, **asked})
        error = error_of(answer, answer.status_code)
        assert (error["code"], words in error["message"]) == (code, True), error
    assert (count(session, Run), count(session, Study)) == (0, 0)
    error_of(client.post("/api/v1/studies", json={"profile_id": "2" * 12, "smallest": {"loss": 1}}), 404)


def test_points_are_not_asked_of_samples_without_labels(client, session):
    dataset = seed_dataset(session, shape=(1, 8, 8))
    profile = seed_digits_profile(session, dataset=dataset)
    measured = [each | {"points": 0.2} for each in profile.facts["measured"]]
    profile.facts = profile.facts | {"measured": measured}  # on samples of a second dataset
    facts, dataset.facts = dataset.facts, dataset.facts | {"labels": None}
    session.commit()
    asked = {"profile_id": profile.id, "smallest": {"points": 0.5}}
    assert "no labels" in error_of(client.post("/api/v1/studies", json=asked), 422)["message"]
    dataset.facts = facts
    session.commit()
    assert client.post("/api/v1/studies", json=asked).status_code == 202


def test_a_profile_that_is_not_done_has_no_studies(client, session):
    profile = seed_profile(session, state=RunState.RUNNING, facts=None)
    answer = client.post("/api/v1/studies", json={"profile_id": profile.id, "smallest": {"loss": 1}})
    error_of(answer, 409)


def test_the_smallest_is_asked_for_and_left_to_the_workers(client, session, profile):
    answer = client.post("/studies", data=form(profile, tolerance="0,1"))
    assert answer.status_code == 302
    study = session.scalars(select(Study)).one()
    assert (study.kind, study.state, study.runs) == ("smallest", RunState.QUEUED, [])
    assert study.question["tolerance"] == 0.1
    assert study.question["unit"] == "nats"
    page = Page(client.get(answer.location).text)
    assert "at most 0.1 nats worse" in page.text
    assert "Its first run begins" in page.text


@pytest.mark.parametrize(
    ("changed", "sentence"), [({"tolerance": "much"}, "not a number"), ({"most_runs": "99"}, "most_runs")]
)
def test_a_form_that_is_wrong_says_what_is_and_keeps_the_rest(client, profile, changed, sentence):
    answer = client.post("/studies", data=form(profile, **changed))
    assert answer.status_code == 400
    page = Page(answer.text)
    assert sentence in page.text
    assert page.of("input", name="most_minutes", value="30")


def form(profile, **changed):
    given = {"tolerance": "0.1", "tolerance_in": "loss", "most_runs": "8", "most_minutes": "30"}
    return {"profile": profile.id} | given | changed


@pytest.mark.parametrize("kind", ["race", "smallest"])
def test_the_page_shows_each_run_beside_what_was_expected_and_marks_the_answer(client, session, kind):
    study = seed_study(session, kind)
    text = client.get(f"/studies/{study.id}").text
    page = Page(text)
    assert study.conclusion["sentence"] in page.text
    for run in study.runs:
        assert page.of("a", href=f"/runs/{run.id}")
    assert "0.04 to 0.09" in page.text  # expected
    assert "0.045 to 0.055" in page.text  # measured
    marked = re.findall(r"(?:the answer|better)</span></th>", text)
    assert len(marked) == 1
    if kind == "race":
        assert "-0.12 to -0.08" in page.text
    else:
        assert "yes" in page.text
        assert "no" in page.text
        assert "Because." in page.text
    assert "Budget is better" in Page(client.get("/studies").text).text
    assert Page(client.get(f"/runs/{study.runs[0].id}").text).of("a", href=f"/studies/{study.id}")
    assert client.get(f"/api/v1/runs/{study.runs[0].id}").json["study_id"] == study.id


def test_it_is_cancelled_as_one(client, session):
    study = seed_study(session, done=False)
    assert client.post(f"/api/v1/studies/{study.id}/cancel").json["state"] == "cancelled"
    session.expire_all()
    assert {run.state for run in study.runs} == {RunState.CANCELLED}
    error_of(client.post(f"/api/v1/studies/{study.id}/cancel"), 409)
    other = seed_study(session, name="Other", done=False)
    assert client.post(f"/studies/{other.id}/cancel").status_code == 302
    session.expire_all()
    assert other.state is RunState.CANCELLED


@pytest.mark.parametrize("kind", ["race", "smallest"])
def test_an_answer_whose_run_was_deleted_says_so(client, session, kind):
    study = seed_study(session, kind)
    winner, other = (run.id for run in study.runs)
    assert client.delete(f"/api/v1/runs/{other}").status_code == 204
    assert client.get(f"/api/v1/studies/{study.id}").json["conclusion"]["winner"] == winner
    assert client.delete(f"/api/v1/runs/{winner}").status_code == 204
    told = client.get(f"/api/v1/studies/{study.id}").json["conclusion"]
    assert told["winner"] is None
    for address in (f"/studies/{study.id}", "/studies"):
        assert "than every other. The run with that file was deleted since." in Page(client.get(address).text).text


def test_when_it_is_deleted_its_runs_stay_and_its_links_end(client, session):
    study = seed_study(session)
    token = client.post(f"/api/v1/studies/{study.id}/shares").json["token"]
    assert client.delete(f"/api/v1/studies/{study.id}").status_code == 204
    session.expire_all()
    assert count(session, Study) == 0
    assert count(session, Run) == 2
    assert client.get(f"/shared/{token}").status_code == 404
    under_way = seed_study(session, name="Under way", done=False)
    error_of(client.delete(f"/api/v1/studies/{under_way.id}"), 409)


def test_a_link_shows_the_study_and_leads_nowhere_else(client, session):
    study = seed_study(session)
    assert client.post(f"/studies/{study.id}/shares").status_code == 302
    (link,) = client.get(f"/api/v1/studies/{study.id}/shares").json["items"]
    assert link["url"] in client.get(f"/studies/{study.id}").text
    page = client.get(f"/shared/{link['token']}").text
    assert study.conclusion["sentence"] in page
    for hidden in (study.id, study.checkpoint_id, study.profile_id, *(run.id for run in study.runs)):
        assert hidden not in page
    for path in ("/receipt", "/receipt.json", "/artifacts/model.safetensors", "/compare.csv"):
        assert client.get(f"/shared/{link['token']}{path}").status_code == 404
    assert f"/shared/{link['token']}" not in client.get(f"/runs/{study.runs[0].id}").text
    assert client.post(f"/shares/{link['token']}/revoke").location.endswith(f"/studies/{study.id}#share")
    assert client.get(f"/shared/{link['token']}").status_code == 404
    client.post(f"/api/v1/studies/{study.id}/shares")
    assert client.delete(f"/api/v1/studies/{study.id}/shares").status_code == 204
    assert client.get(f"/api/v1/studies/{study.id}/shares").json["items"] == []


def test_a_long_list_of_studies_is_leafed_through_from_where_one_was(client, session, monkeypatch):
    monkeypatch.setattr("webapp.actions.studies.studies_page.__defaults__", (2,))
    names = [seed_study(session, name=f"Study {number}").name for number in range(5)][::-1]

    def shown(address):
        page = Page(client.get(address).text)
        found = [link["title"] for link in page.of("a", class_="row-link truncate")]
        return found, {own["href"] for own in page.of("a", rel="nofollow")}

    assert shown("/studies")[0] == names[:2]
    (address,) = [link for link in shown("/studies")[1] if "?from=" in link]
    session.delete(session.scalars(select(Study).where(Study.name == names[1])).one())  # where the cursor is
    session.commit()
    assert shown(address)[0] == names[2:4]
    assert shown("/studies?to=end")[0] == names[3:]
    (back,) = [link for link in shown("/studies?to=end")[1] if "?to=" in link and "end" not in link]
    assert shown(back)[0] == [names[0], names[2]]
    assert "Begin at its top again" in client.get("/studies?from=nonsense").text

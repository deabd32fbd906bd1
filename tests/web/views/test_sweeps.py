"""Sweeps and fronts by page and API: planned, begun, told with their knee, taken, extended, tried again, deleted."""

import csv
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select

from tests.web.views.api_errors import error_of
from tests.web.views.page import Page
from tests.web.views.seeded import measured, metric, seed_checkpoint, seed_dataset
from tests.web.views.seeded_receipt import receipt
from tests.web.views.seeded_studies import FACTS, seed_profile
from webapp.store.models import Deployment, Run, RunState, Study

SIX = {"technique": "magnitude_pruning", "settings": {"sparsity": "0.3..0.8 step 0.1"}}


def recipe(*steps):
    return {"version": 2, "steps": list(steps) or [SIX]}


@pytest.fixture
def sweep(session):
    checkpoint, dataset = seed_checkpoint(session), seed_dataset(session)
    return {"checkpoint_id": checkpoint.id, "dataset_id": dataset.id, "recipe": recipe()}


def count(session, table):
    return session.scalar(select(func.count()).select_from(table))


def start(client, sweep, **more):
    answer = client.post("/api/v1/studies", json={"sweep": sweep, **more})
    assert answer.status_code == 202, answer.text
    return answer.json


def end_runs(session, study_id, accuracies):
    """As its runs leave them: the sizes fall with the sparsity."""
    runs = sorted(session.get(Study, study_id).runs, key=lambda run: run.role["number"])
    for run, accuracy in zip(runs, accuracies, strict=False):
        sparsity = run.recipe["steps"][0]["settings"]["sparsity"]
        run.state, run.progress = RunState.SUCCEEDED, 1.0
        run.baseline, run.result = (
            measured(10_008, 0.0, metric(0.97)),
            measured(round(10_008 * (1 - sparsity)), sparsity, metric(accuracy)),
        )
        run.receipt = receipt(run.name, run.baseline, run.result)
    session.commit()
    return runs


def finish(session, study_id):
    study = session.get(Study, study_id)
    study.state = RunState.SUCCEEDED
    study.conclusion = {"winner": None, "sentence": "6 of 6 runs ended with a result."}
    session.commit()


def test_a_plan_says_what_will_run_and_starts_nothing(client, session, sweep):
    plan = client.post("/api/v1/studies/plan", json={"sweep": sweep}).json
    assert [run["title"] for run in plan["runs"]] == [f"Sparsity 0.{tenth}" for tenth in range(3, 9)]
    sizes = [run["size_bytes"] for run in plan["runs"]]
    assert sizes == sorted(sizes, reverse=True)
    assert plan["size_bytes"] == sum(sizes)
    assert plan["stages"] == 1 + 6 * 3  # the baseline is shared; each run has a step, an export and a proof
    assert (plan["stages_done"], plan["seconds"], plan["untimed_stages"]) == (0, None, plan["stages"])
    assert plan["matches"][0]["selected"] == ["layers.0", "layers.2"]
    assert "sparsity: 0.3..0.8 step 0.1" in plan["recipe_yaml"]
    assert (count(session, Run), count(session, Study)) == (0, 0)


def test_a_sweep_begins_a_run_for_each_value(client, session, sweep):
    study = start(client, sweep, name="How sparse?")
    assert (study["kind"], study["state"], study["name"]) == ("sweep", "queued", "How sparse?")
    assert [run["settings"]["steps.0.settings.sparsity"] for run in study["runs"]] == [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    assert study["sweep"]["axes"] == [
        {"path": "steps.0.settings.sparsity", "title": "Sparsity", "values": [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]}
    ]
    assert {run.state for run in session.scalars(select(Run))} == {RunState.QUEUED}
    assert client.get(f"/api/v1/studies/{study['id']}").json == study


def test_a_run_takes_no_recipe_with_ranges_and_says_where_they_belong(client, session, sweep):
    for path in ("/api/v1/runs", "/api/v1/recipes/predict"):
        asked = {key: value for key, value in sweep.items() if key != "dataset_id" or path.endswith("runs")}
        error = error_of(client.post(path, json=asked), 422)
        assert (error["code"], "study" in error["message"]) == ("recipe_varies", True)
    assert count(session, Run) == 0


def test_recipes_that_cannot_run_are_left_out_and_said(client, session, sweep):
    sweep["recipe"] = recipe({"technique": "magnitude_pruning", "settings": {"sparsity": [0.5, 7]}})
    plan = client.post("/api/v1/studies/plan", json={"sweep": sweep}).json
    assert [run["title"] for run in plan["runs"]] == ["Sparsity 0.5"]
    (left,) = plan["left_out"]
    assert left["title"] == "Sparsity 7"
    assert "less than" in left["message"]
    study = start(client, sweep)
    assert len(study["runs"]) == 1
    page = Page(client.get(f"/studies/{study['id']}").text)
    assert "Sparsity 7" in page.text
    assert "cannot run" in page.text


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"recipe": recipe({"technique": "magnitude_pruning", "settings": {"sparsity": [7, 8]}})}, 422, "sparsity"),
        ({"recipe": recipe({"technique": "magnitude_pruning", "settings": {"sparsity": "0.1..0.9"}})}, 422, "no step"),
        ({"recipe": recipe({"technique": "alchemy", "settings": {"bits": [1, 2]}})}, 422, "alchemy"),
        ({"recipe": "steps:\n- technique: cast\n  settings:\n    dtype: []\n"}, 422, "line 4"),
        ({"checkpoint_id": "2" * 12}, 404, "no checkpoint"),
        ({"dataset_id": "2" * 12}, 404, "no dataset"),
        ({"checkpoint_id": None}, 422, "checkpoint_id"),
        ({"run_id": "2" * 12}, 422, "one of the two"),
        ({"checkpoint_id": None, "run_id": "2" * 12}, 404, "no run"),
    ],
)
def test_a_sweep_that_cannot_be_begins_nothing(client, session, sweep, changes, status, words):
    for path in ("/api/v1/studies", "/api/v1/studies/plan"):
        error = error_of(client.post(path, json={"sweep": sweep | changes}), status)
        assert words in error["message"], error
    assert (count(session, Run), count(session, Study)) == (0, 0)


def test_a_study_asks_one_question(client, session, sweep):
    for asked in ({}, {"sweep": sweep, "profile_id": "x"}, {"sweep": sweep, "locks": {"a": 1}}, {"front": {}}):
        error_of(client.post("/api/v1/studies", json=asked), 422)
    error_of(client.post("/api/v1/studies/plan", json={"profile_id": "x", "front": {}}), 400)


def test_the_knee_is_where_more_bytes_stop_to_pay(client, session, sweep):
    study = start(client, sweep)
    assert client.get(f"/studies/{study['id']}").status_code == 200  # before any has ended
    runs = end_runs(session, study["id"], [0.968, 0.966, 0.965, 0.80, 0.55, 0.20])
    told = client.get(f"/api/v1/studies/{study['id']}").json
    assert told["sweep"]["knee"] == runs[2].id
    assert set(told["sweep"]["front"]) == {run.id for run in runs}
    html = client.get(f"/studies/{study['id']}").text
    assert "The knee of the curve is Sparsity 0.5" in Page(html).text
    figures = [json.loads(text) for text in re.findall(r'id="figure-(?:curve|parallel)">(.*?)</script>', html)]
    assert {trace.get("name") for trace in figures[0]["data"]} >= {
        "Magnitude pruning",
        "Pareto front",
        "Knee",
        f"{session.get(Study, study['id']).checkpoint.name} (original)",
    }
    assert figures[1]["layout"]["xaxis"]["ticktext"][0] == "Sparsity"


def test_a_long_table_of_runs_has_pages_and_the_charts_have_all(client, session, sweep):
    step = {"technique": "magnitude_pruning", "settings": {"sparsity": "0.1..0.695 step 0.005"}}
    study = start(client, sweep | {"recipe": {"version": 2, "steps": [step]}})
    runs = end_runs(session, study["id"], [0.9 - number / 1000 for number in range(120)])
    assert len(runs) == 120
    seen, address = [], f"/studies/{study['id']}?metric=accuracy"
    while address:
        page = Page(client.get(address).text)
        rows = [link["href"].rpartition("/")[2] for link in page.of("a", class_="row-link")]
        assert 20 <= len(rows) <= 50
        seen += rows
        following = page.of("a", rel="next")
        address = following[0]["href"] if following else ""
    assert seen == [run.id for run in runs]
    html = client.get(f"/studies/{study['id']}?first=100000").text  # beyond the end: from the beginning
    assert "Runs 1 to 50 of 120" in Page(html).text
    curve = json.loads(re.search(r'id="figure-curve">(.*?)</script>', html)[1])
    assert [len(t["x"]) for t in curve["data"] if t["name"] == "Magnitude pruning"] == [120]


def test_a_run_is_taken_and_stays_taken(client, session, sweep):
    study = start(client, sweep)
    runs = end_runs(session, study["id"], [0.96, 0.95])
    error_of(client.post(f"/api/v1/studies/{study['id']}/take", json={"run_id": runs[4].id}), 409)
    error_of(client.post(f"/api/v1/studies/{study['id']}/take", json={"run_id": "2" * 12}), 404)
    answer = client.post(f"/studies/{study['id']}/take", data={"run": runs[1].id})
    assert answer.location == f"/runs/{runs[1].id}"
    assert client.get(f"/api/v1/studies/{study['id']}").json["taken_run_id"] == runs[1].id
    assert "Taken: Sparsity 0.4" in Page(client.get(f"/studies/{study['id']}").text).text


def test_the_table_as_csv_has_the_settings_and_what_was_measured(client, session, sweep):
    study = start(client, sweep)
    end_runs(session, study["id"], [0.96, 0.95])
    for path in (f"/studies/{study['id']}/table.csv", f"/api/v1/studies/{study['id']}/table.csv"):
        rows = list(csv.DictReader(io.StringIO(client.get(path).text)))
        assert [row["Sparsity"] for row in rows] == ["0.3", "0.4", "0.5", "0.6", "0.7", "0.8"]
        assert [row["metric:accuracy"] for row in rows[:3]] == ["0.96", "0.95", ""]
        assert rows[0]["size_bytes"] == "7006"


def test_a_share_shows_the_study_without_a_way_to_its_runs(client, session, sweep):
    study = start(client, sweep)
    runs = end_runs(session, study["id"], [0.96, 0.95])
    url = client.post(f"/api/v1/studies/{study['id']}/shares").json["url"]
    shown = client.get(url).text
    assert "Sparsity 0.4" in shown
    assert not any(run.id in shown for run in runs)
    table = client.get(f"{url}/study.csv").text
    assert "0.95" in table
    assert not any(run.id in table for run in runs)


def test_an_extension_begins_only_what_is_not_there_yet(client, session, sweep):
    study = start(client, sweep)
    end_runs(session, study["id"], [0.9] * 6)
    finish(session, study["id"])
    more = {"recipe": recipe({"technique": "magnitude_pruning", "settings": {"sparsity": [0.8, 0.9]}})}
    told = client.post(f"/api/v1/studies/{study['id']}/extend", json=more).json
    assert [run["title"] for run in told["runs"]][-2:] == ["Sparsity 0.8", "Sparsity 0.9"]
    assert len(told["runs"]) == 7
    assert (told["state"], told["conclusion"]) == ("running", None)
    assert told["sweep"]["axes"][0]["values"] == [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    error_of(client.post(f"/api/v1/studies/{study['id']}/extend", json=more), 409)
    error_of(client.post(f"/api/v1/studies/{study['id']}/extend", json={"sizes": [1]}), 409)
    error_of(client.post(f"/api/v1/studies/{study['id']}/extend", json={}), 422)
    page = client.post(f"/studies/{study['id']}/extend", data={"recipe": "steps:\n- technique: [cast, 7]\n"})
    assert page.status_code == 422
    assert "techniques&#39; names" in page.text


def test_what_failed_is_tried_again_as_one(client, session, sweep):
    study = start(client, sweep)
    runs = end_runs(session, study["id"], [0.9] * 4)
    error_of(client.post(f"/api/v1/studies/{study['id']}/retry"), 409)
    runs[4].state, runs[4].error = RunState.FAILED, {"code": "x", "message": "It broke."}
    runs[5].state = RunState.CANCELLED
    session.commit()
    finish(session, study["id"])
    told = client.post(f"/api/v1/studies/{study['id']}/retry").json
    assert [run["state"] for run in told["runs"]] == ["succeeded"] * 4 + ["queued"] * 2
    assert told["state"] == "running"


def test_a_study_is_deleted_with_its_runs_or_without(client, session, sweep):
    first, second = start(client, sweep), start(client, sweep | {"seed": 1})
    for study in (first, second):
        end_runs(session, study["id"], [0.9] * 6)
        finish(session, study["id"])
    assert client.delete(f"/api/v1/studies/{first['id']}").status_code == 204
    assert count(session, Run) == 12
    assert client.delete(f"/api/v1/studies/{second['id']}?runs=true").status_code == 204
    assert (count(session, Run), count(session, Study)) == (6, 0)


def test_the_builder_begins_a_study_of_a_recipe_with_ranges_and_opens_it_again(client, session, sweep):
    form = {"checkpoint": sweep["checkpoint_id"], "dataset": sweep["dataset_id"], "training_dataset": "", "seed": "3"}
    form |= {"recipe": json.dumps(recipe()), "name": "Six"}
    answer = client.post("/runs/new", data=form)
    assert answer.status_code == 302, Page(answer.text).text
    study = session.scalar(select(Study))
    assert answer.location == f"/studies/{study.id}"
    assert ({run.seed for run in study.runs}, study.name) == ({3}, "Six")
    page = Page(client.get(f"/runs/new?study={study.id}").text)
    assert json.loads(page.of("input", name="recipe")[0]["value"]) == recipe()
    wrong = client.post(
        "/runs/new", data=form | {"recipe": json.dumps(recipe({**SIX, "settings": {"sparsity": "1..0"}}))}
    )
    assert wrong.status_code == 422
    assert "a range goes up" in wrong.text


def test_a_front_runs_budgets_of_many_sizes(client, session):
    profile = seed_profile(session)
    study = client.post("/api/v1/studies", json={"profile_id": profile.id, "front": {"points": 5}}).json
    sizes = [session.get(Run, run["id"]).expected["size_bytes"] for run in study["runs"]]
    assert (study["kind"], study["unit"]) == ("front", "nats")
    assert 3 <= len(sizes) <= 5
    assert sizes == sorted(sizes)
    assert all(run["expected"]["value"] > 0 for run in study["runs"])
    size = round(FACTS.weights_bytes / 2.7)
    told = client.post(f"/api/v1/studies/{study['id']}/extend", json={"sizes": [size]}).json
    assert len(told["runs"]) == len(sizes) + 1
    assert client.get(f"/studies/{study['id']}").status_code == 200
    error_of(client.post("/api/v1/studies", json={"profile_id": profile.id, "front": {"sizes": [10]}}), 422)
    page = client.post(f"/studies/{study['id']}/extend", data={"sizes": "many", "unit": "kB"})
    assert page.status_code == 400
    assert "Name 1 to 50 sizes" in page.text


def test_the_fit_page_begins_a_front(client, session):
    profile = seed_profile(session)
    form = {"profile": profile.id, "size": "20", "tolerance": "", "families": "Quantization", "points": "4"}
    path = f"/checkpoints/{profile.checkpoint_id}/fit/front"
    answer = client.post(path, data=form)
    assert answer.status_code == 302, Page(answer.text).text
    study = session.scalar(select(Study))
    assert (study.kind, study.question["families"]) == ("front", ["Quantization"])
    assert 2 <= len(study.runs) <= 4
    refused = client.post(path, data=form | {"points": "1"})
    assert refused.status_code == 422
    assert "2 to 50" in Page(refused.text).text


def test_an_open_page_is_told_that_nothing_has_changed(client, session, sweep):
    study = start(client, sweep)
    path, asks = f"/studies/{study['id']}", {"X-Refresh": "1"}
    etag = client.get(path, headers=asks).headers["ETag"]
    again = client.get(path, headers=asks | {"If-None-Match": etag})
    assert (again.status_code, again.data) == (304, b"")
    assert client.get(path, headers={"If-None-Match": etag}).status_code == 200  # somebody who opens it anew
    end_runs(session, study["id"], [0.96])
    changed = client.get(path, headers=asks | {"If-None-Match": etag})
    assert (changed.status_code, changed.headers["ETag"] == etag) == (200, False)


def test_where_one_run_is_deployed_a_study_keeps_all_of_them(client, session, sweep):
    study = start(client, sweep)
    runs = end_runs(session, study["id"], [0.9] * 6)
    finish(session, study["id"])
    about = {"stage": "export-onnx", "artifact": "model.onnx", "about": {}, "machine": "m"}
    session.add(Deployment(name="held", run_id=runs[3].id, token_hash="x" * 64, **about))
    session.commit()
    error = error_of(client.delete(f"/api/v1/studies/{study['id']}?runs=true"), 409)
    assert "deployed as held" in error["message"]
    assert (count(session, Run), count(session, Study)) == (6, 1)


def test_a_taken_run_that_is_deleted_is_taken_no_more(client, session, sweep):
    study = start(client, sweep)
    runs = end_runs(session, study["id"], [0.9] * 6)
    client.post(f"/api/v1/studies/{study['id']}/take", json={"run_id": runs[2].id})
    assert client.delete(f"/api/v1/runs/{runs[2].id}").status_code == 204
    assert client.get(f"/api/v1/studies/{study['id']}").json["taken_run_id"] is None


def test_extensions_at_the_same_moment_double_nothing(client, session, sweep, app):
    study = start(client, sweep)
    more = {"recipe": recipe({"technique": "magnitude_pruning", "settings": {"sparsity": [0.11, 0.12, 0.13]}})}
    path = f"/api/v1/studies/{study['id']}/extend"
    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(lambda _: app.test_client().post(path, json=more).status_code, range(4)))
    assert sorted(statuses) == [202, 409, 409, 409]
    session.expire_all()
    assert count(session, Run) == 9


@pytest.mark.parametrize("sizes", [[0], [-5], [10**30], [1.5], ["x"]])
def test_sizes_that_are_none_are_refused(client, session, sizes):
    profile = seed_profile(session)
    error_of(client.post("/api/v1/studies", json={"profile_id": profile.id, "front": {"sizes": sizes}}), 422)
    study = client.post("/api/v1/studies", json={"profile_id": profile.id, "front": {"points": 3}}).json
    error_of(client.post(f"/api/v1/studies/{study['id']}/extend", json={"sizes": sizes}), 422)
    if all(isinstance(size, int) for size in sizes):
        page = client.post(f"/studies/{study['id']}/extend", data={"sizes": str(sizes[0]), "unit": "kB"})
        assert page.status_code == 400
    twice = {"points": 3, "sizes": [1800]}
    error_of(client.post("/api/v1/studies", json={"profile_id": profile.id, "front": twice}), 422)


def test_a_sweep_whose_beginning_was_deleted_says_so_when_it_is_extended(client, session, sweep):
    study = start(client, sweep)
    row = session.get(Study, study["id"])
    row.question = {**row.question, "run_id": "2" * 12}
    session.commit()
    error = error_of(client.post(f"/api/v1/studies/{study['id']}/extend", json={"recipe": recipe()}), 409)
    assert "was deleted" in error["message"]

"""A dataset replayed through a deployment: asked for, done by the deployer, stopped, gone on with, told."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.patience import until
from tests.serving import small_models
from tests.serving.seeded_deployment import ROWS, WRITER, seed_onnx_run
from tests.serving.small_models import WEIGHT
from tests.web.views.page import Page
from webapp.engine.data.inspect import inspect_dataset
from webapp.engine.progress import Silent
from webapp.jobs.deployer import Deployer
from webapp.store.database import make_engine, make_sessions
from webapp.store.models import Dataset, Deployment, Replay, Run, RunState, UploadState

REPLAYS = "/api/v1/deployments/small-one/replays"


@pytest.fixture
def rows(session, files, tmp_path):
    """A dataset of 30 rows; the small classifier is right on 24."""
    x = np.random.default_rng(1).normal(size=(30, 3)).astype(np.float32)
    answers = (x @ WEIGHT).argmax(1)
    np.savez(tmp_path / "rows.npz", x=x, y=np.where(np.arange(30) < 24, answers, 1 - answers))
    out = tmp_path / "inspected"
    out.mkdir()
    facts = inspect_dataset(tmp_path / "rows.npz", "rows.npz", "all", out, Silent())
    row = Dataset(name="rows.npz", filename="rows.npz", state=UploadState.READY, size_bytes=1, digest="e" * 64)
    row.facts, row.files = facts.model_dump(mode="json"), files.put_folder(out)
    session.add(row)
    session.commit()
    return row


@pytest.fixture
def deployed(client, session, deploy, rows):
    """The small classifier, deployed, of a run on these rows."""
    made = deploy(small_models.classifier, ROWS)
    run = session.get(Run, made["run_id"])
    run.dataset, run.task = rows, "classification"
    facts = run.checkpoint.facts
    run.checkpoint.facts = facts | {"architecture": facts["architecture"] | {"config": {"classes": 2}}}
    session.commit()
    return made


def ended(client, deployer, id):
    def look():
        deployer.look()
        found = client.get(f"{REPLAYS}/{id}").json
        return found if found["state"] not in ("queued", "running") else None

    return until(look)


def test_it_is_sent_through_the_deployment_and_its_original_in_turns(client, deployed, deployer):
    page = client.get("/deployments/small-one").text
    assert "Replay and A/B" in page
    asked = client.post("/deployments/small-one/replays", data={"samples": "25", "seconds": "60", "beside": "original"})
    assert asked.location == "/deployments/small-one#replay"
    (replay,) = client.get(REPLAYS).json["items"]
    assert (replay["state"], replay["samples"]) == ("queued", 25)
    assert "Stop replay" in client.get("/deployments/small-one").text
    found = ended(client, deployer, replay["id"])
    assert found["state"] == "succeeded", found["error"]
    one, other = found["result"]["sides"]
    assert one["metrics"]["accuracy"]["value"] == pytest.approx(24 / 25)
    assert other["metrics"]["accuracy"]["n"] == 25
    assert found["result"]["between"]["agreement"]["value"] == 1.0
    assert any("95 % interval" in sentence for sentence in found["sentences"])
    text = Page(client.get("/deployments/small-one").text).text
    assert "25 samples in" in text
    assert "The original" in text
    assert "96.00" in text
    assert len(client.get("/api/v1/deployments").json["items"]) == 1, "what is started for it is not listed"

    def requests():
        deployer.look()
        return client.get("/api/v1/deployments/small-one/traffic").json["whole"]["requests"]

    until(lambda: requests() >= 25)


def test_two_deployments_of_a_checkpoint_are_compared(client, deployed, deployer):
    client.post("/api/v1/deployments", json={"run_id": deployed["run_id"], "name": "another-one"})
    refused = client.post(REPLAYS, json={"beside": "another-one"})
    assert (refused.status_code, "another-one is starting" in refused.json["error"]["message"]) == (409, True)
    until(lambda: deployer.look() or client.get("/api/v1/deployments/another-one").json["state"] == "ready")
    assert 'option value="another-one"' in client.get("/deployments/small-one").text
    id = client.post(REPLAYS, json={"beside": "another-one"}).json["id"]
    found = ended(client, deployer, id)
    assert [side["title"] for side in found["result"]["sides"]] == ["small-one", "another-one"]
    text = Page(client.get("/deployments/small-one").text).text
    assert "Agreement with another-one" in text
    assert "95 % interval" in text
    client.delete("/api/v1/deployments/another-one")
    assert "Agreement with another-one" in Page(client.get("/deployments/small-one").text).text


def test_the_original_is_deployed_too_and_then_taken_for_the_comparison(client, session, deployed, deployer):
    made = client.post(f"/runs/{deployed['run_id']}/deployments", data={"artifact": "model.onnx", "side": "original"})
    assert made.location == "/deployments/original-of-small-one"
    until(lambda: deployer.look() or client.get("/api/v1/deployments/original-of-small-one").json["state"] == "ready")
    page = Page(client.get("/deployments/small-one").text).text
    assert "The original is deployed as original-of-small-one" in page
    assert "Deploy the original too" not in page
    assert "This deployment is the original itself" in Page(client.get(made.location).text).text
    found = ended(client, deployer, client.post(REPLAYS, json={"samples": 5, "beside": "original"}).json["id"])
    assert found["result"]["sides"][1]["name"] == "original-of-small-one"
    assert "deployed as original-of-small-one" not in Page(client.get(f"/runs/{deployed['run_id']}").text).text
    refused = client.post("/api/v1/deployments/original-of-small-one/replays", json={"beside": "original"})
    assert (refused.status_code, "is the original itself" in refused.json["error"]["message"]) == (422, True)


def test_one_that_was_under_way_when_pare_ended_begins_anew(client, session, settings, files, deployed, deployer):
    id = client.post(REPLAYS, json={"samples": 5}).json["id"]
    row = session.get(Replay, id)
    row.state, row.progress = RunState.RUNNING, 0.5
    session.commit()
    deployer.end()
    engine = make_engine(settings.database_url)
    with tempfile.TemporaryDirectory(prefix="pare-") as sockets:
        another = Deployer(settings, make_sessions(engine), files, Path(sockets))  # whose rows say "ready" at first
        found = ended(client, another, id)
        another.end()
    engine.dispose()
    assert found["result"]["replayed"] == 5
    assert (found["result"]["sides"][0]["answered"], found["result"]["sides"][0]["errors"]) == (5, {})
    assert "The run kept no answers" in client.get(f"{REPLAYS}/{id}").json["sentences"][0]


def test_it_is_stopped_and_another_can_begin(client, session, deployed, deployer):
    id = client.post(REPLAYS, json={}).json["id"]
    second = client.post(REPLAYS, json={})
    assert (second.status_code, "under way already" in second.json["error"]["message"]) == (409, True)
    client.post(f"/deployments/small-one/replays/{id}/stop")
    assert client.get(f"{REPLAYS}/{id}").json["state"] == "cancelled"
    assert "was stopped" in client.get("/deployments/small-one").text
    deployer.look()  # which leaves it alone
    assert client.post(f"{REPLAYS}/{id}/stop").json["state"] == "cancelled"
    assert client.post(REPLAYS, json={}).status_code == 202


def test_one_that_is_stopped_while_it_runs_ends_its_process(client, session, deployed, deployer):
    id = client.post(REPLAYS, json={}).json["id"]

    def running():
        deployer.look()
        return deployer._replays.place.children.processes

    until(running)
    client.post(f"{REPLAYS}/{id}/stop")
    until(lambda: not deployer._replays.place.children.processes)
    assert client.get(f"{REPLAYS}/{id}").json["state"] == "cancelled"


@pytest.mark.parametrize(
    ("asked", "status", "told"),
    [
        ({"samples": 0}, 422, "amples"),
        ({"samples": "many"}, 422, "amples"),
        ({"seconds": 100_000}, 422, "econds"),
        ({"beside": "another"}, 422, "cannot be compared with small-one; there is original"),
    ],
)
def test_what_cannot_be_asked_is_told_on_the_page_too(client, deployed, asked, status, told):
    answer = client.post(REPLAYS, json=asked)
    assert (answer.status_code, told in answer.json["error"]["message"]) == (status, True)
    page = client.post("/deployments/small-one/replays", data=asked)
    assert page.status_code == status
    assert told in Page(page.text).text
    assert client.get(REPLAYS).json["items"] == []


def test_a_deployment_that_does_not_run_replays_nothing(client, session, deployed):
    client.post("/deployments/small-one/stop")
    refused = client.post(REPLAYS, json={})
    assert (refused.status_code, "has to run before" in refused.json["error"]["message"]) == (409, True)
    row = session.query(Deployment).one()
    row.machine = "elsewhere"
    session.commit()
    assert client.post(REPLAYS, json={}).status_code == 503


def test_a_run_without_a_dataset_says_so(client, session, files, tmp_path):
    run = seed_onnx_run(session, files, small_models.writer(tmp_path / "w"), "Small one", **WRITER)
    client.post("/api/v1/deployments", json={"run_id": run.id})
    assert "nothing to replay" in Page(client.get("/deployments/small-one").text).text
    assert client.post(REPLAYS, json={}).status_code == 409


def test_an_original_that_could_not_be_written_is_not_offered(client, session, deployed):
    run = session.get(Run, deployed["run_id"])
    session.delete(next(stage for stage in run.stages if stage.name == "original-onnx"))
    session.commit()
    page = Page(client.get("/deployments/small-one").text).text
    assert "compared with those that the run recorded" in page
    assert "only what the run recorded of it is beside" in page  # where it is tried
    refused = client.post(REPLAYS, json={"beside": "original"})
    assert (refused.status_code, "could not be written" in refused.json["error"]["message"]) == (409, True)


def test_ten_are_kept_and_none_without_its_deployment(client, session, deployed):
    for _ in range(12):
        id = client.post(REPLAYS, json={}).json["id"]
        client.post(f"{REPLAYS}/{id}/stop")
    assert len(client.get(REPLAYS).json["items"]) == 10
    assert client.get(f"{REPLAYS}/nothing").status_code == 404
    assert client.get("/api/v1/deployments/a%00b").status_code == 404
    client.delete("/api/v1/deployments/small-one")
    session.expire_all()
    assert session.query(Replay).count() == 0


def test_a_replay_that_was_not_answered_is_no_success_on_the_page(client, session, deployed):
    id = client.post(REPLAYS, json={}).json["id"]
    row = session.get(Replay, id)
    shown = {"value": 0.5, "n": 4, "ci95": None, "higher_is_better": True, "title": "Accuracy", "unit": ""}
    recorded = {"side": "result", "metrics": {"accuracy": shown}, "compared": 4, "different": 0, "examples": []}
    side = {
        "name": "small-one",
        "title": "small-one",
        "answered": 4,
        "errors": {"400": 1, "500": 2, "0": 3},
        "error": "The input x is missing.",
        "latency_ms": {"p50": 1.0, "p95": 2.0},
        "client_latency_ms": {"p50": 1.5, "p95": 2.5},
        "latencies": {"0": 4},
        "metrics": {"accuracy": shown},
        "recorded": recorded,
    }
    result = {
        "sent_as": "numbers",
        "tokens": None,
        "total": 30,
        "replayed": 10,
        "seconds": 60.0,
        "gone": [],
        "load": 0.5,
    }
    row.result = result | {"sides": [side], "speed": None, "between": None, "paired": 0}
    row.state = RunState.SUCCEEDED
    session.commit()
    html = client.get("/deployments/small-one").text
    text = Page(html).text
    assert "3 not answered, 1 refused (400), 2 failed (500)" in text
    assert "The first was told: The input x is missing." in text
    assert "10 of 30 samples, for the 60 s were over" in text
    assert "notice-good" not in html
    recorded |= {"metrics": {"accuracy": shown | {"value": 0.75}}, "different": 1, "examples": [2]}
    row.result = result | {"sides": [side | {"errors": {}, "recorded": recorded}], "speed": None, "between": None}
    session.commit()
    (sentence,) = client.get(f"{REPLAYS}/{id}").json["sentences"]
    assert sentence == (
        "As served, small-one answers 4 samples with accuracy 50.00\N{NO-BREAK SPACE}%, where the run measured "
        "accuracy 75.00\N{NO-BREAK SPACE}% on the same ones; 1 of the 4 answers is not the recorded one."
    )
    slow, gone = side | {"client_latency_ms": {"p50": 9.0, "p95": 9.5}}, {"gone": ["small-one"]}
    row.result = result | gone | {"sides": [slow, side | {"title": "The original"}], "speed": None, "between": None}
    row.result = row.result | {"paired": 3}
    session.commit()
    text = Page(client.get("/deployments/small-one").text).text
    assert "It was ended after 10 samples of 30, for small-one did not answer any more." in text
    assert "Both are scored on the 3 samples that both answered." in text
    assert "The machine was busy: of the 9 ms" in text
    row.result = result | {"sides": [side | {"errors": {}, "recorded": recorded}], "speed": None, "between": None}
    session.commit()
    broken = {"accuracy": shown, "not_finite": shown | {"title": "Answers with NaN or infinity", "value": 0.25}}
    unsided = result | {"load": 3.0, "speed": None, "between": None}
    row.result = unsided | {"sides": [side | {"errors": {}, "metrics": broken}]}
    session.commit()
    html = client.get("/deployments/small-one").text
    assert "% of the answers of small-one hold NaN or infinity" in Page(html).text
    assert "3.0 programs shared each of its processors" in Page(html).text
    assert "notice-good" not in html
    row.result = result | {"sides": [side | {"errors": {}, "recorded": recorded}], "speed": None, "between": None}
    session.commit()
    assert "Answered otherwise than recorded: sample 2" in Page(client.get("/deployments/small-one").text).text

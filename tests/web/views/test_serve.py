"""What reaches a deployed model and what does not: the token, the protocols' own refusals, streams, limits."""

import json

import pytest

from tests.patience import until
from tests.serving import small_models
from tests.serving.seeded_deployment import ROWS, WRITER, seed_onnx_run
from tests.web.views.page import Page
from webapp.store.clock import now
from webapp.store.models import Deployment, DeploymentMinute, DeploymentState


def bearer(made):
    return {"Authorization": f"Bearer {made['token']}"}


def test_a_deployed_model_answers_to_its_token(client, deploy, deployer):
    made = deploy(small_models.classifier, ROWS)
    assert made["name"] == "small-one"
    assert made["url"] == "http://localhost/serve/small-one"
    path = "/serve/small-one/v1/models/small-one:predict"
    answer = client.post(path, json={"instances": [[1, 2, 3]]}, headers=bearer(made))
    assert answer.json == {"predictions": [[7.0, -1.0]]}
    body = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}
    infer = client.post("/serve/small-one/v2/models/small-one/infer", json=body, headers=bearer(made))
    assert infer.json["outputs"][0]["data"] == [7.0, -1.0]
    assert client.get("/serve/small-one/v2", headers=bearer(made)).json["name"] == "pare"
    refused = client.post(path, json={"instances": [[1, 2]]}, headers=bearer(made))
    assert (refused.status_code, "expected [batch, 3]" in refused.json["error"]) == (400, True)


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic {token}", "{token}", "Bearer ", "Bearer ä"])
def test_without_its_token_nobody_is_answered(client, deploy_row, header):
    headers = {"Authorization": header.format(token=deploy_row["token"])} if header else {}
    for path, own in (("v1/models/x:predict", str), ("v2/models/x/infer", str), ("v1/chat/completions", dict)):
        answer = client.post(f"/serve/{deploy_row['name']}/{path}", json={}, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert isinstance(answer.json["error"], own)
    unknown = client.post("/serve/nobody/v1/models/x:predict", json={}, headers=headers)
    assert unknown.status_code == 401
    assert unknown.json == client.post(f"/serve/{deploy_row['name']}/v1/models/x:predict", headers=headers).json


@pytest.fixture
def deploy_row(client, session, files, tmp_path):
    """Deployed, and never started: there is no deployer."""
    run = seed_onnx_run(session, files, small_models.classifier(tmp_path / "small"), "Small one", **ROWS)
    return client.post("/api/v1/deployments", json={"run_id": run.id}).json


def test_the_token_is_kept_as_a_hash_alone_and_can_be_renewed(client, session, deploy_row):
    row = session.query(Deployment).one()
    assert deploy_row["token"] not in json.dumps({c.name: str(getattr(row, c.name)) for c in row.__table__.columns})
    assert "token" not in client.get("/api/v1/deployments/small-one").json
    path = "/serve/small-one/v1/models"
    renewed = client.post("/api/v1/deployments/small-one/token").json
    assert client.get(path, headers=bearer(deploy_row)).status_code == 401
    assert client.get(path, headers=bearer(renewed)).status_code == 503


def test_a_model_that_does_not_run_says_so_in_each_form(client, session, deploy_row):
    row = session.query(Deployment).one()
    for state, word in (("starting", "starting"), ("stopped", "stopped"), ("failed", "could not be started: bad file")):
        row.state, row.reason = DeploymentState(state), "bad file"
        session.commit()
        answer = client.get("/serve/small-one/v1/models", headers=bearer(deploy_row))
        assert answer.status_code == 503
        assert word in answer.json["error"]["message"]
        assert answer.headers["Retry-After"]
    row.state, row.socket = DeploymentState.READY, "/nowhere"
    session.commit()
    answer = client.post("/serve/small-one/v1/models/small-one:predict", json={}, headers=bearer(deploy_row))
    assert "does not answer" in answer.json["error"]


def test_what_is_not_for_clients_is_not_passed_on(client, deploy_row):
    for path in ("-/state", "v3/x", "v", "nothing"):
        assert client.get(f"/serve/small-one/{path}", headers=bearer(deploy_row)).status_code == 404


def test_a_request_that_is_too_large_is_refused(app, client, deploy_row):
    large = b"x" * (app.extensions["pare"].settings.max_request_bytes + 1)
    answer = client.post("/serve/small-one/v1/completions", data=large, headers=bearer(deploy_row))
    assert answer.status_code == 413
    assert answer.json["error"]["message"].startswith("The request is larger than 64,000,000 bytes")


def test_a_page_of_another_site_may_not_ask(client, deploy_row):
    headers = bearer(deploy_row) | {"Origin": "https://evil.example"}
    assert client.post("/serve/small-one/v1/completions", json={}, headers=headers).status_code == 403


def test_a_stream_stays_a_stream(client, deploy):
    made = deploy(small_models.writer, WRITER)
    body = {"model": "small-one", "prompt": "one", "temperature": 0, "stream": True}
    with client.post("/serve/small-one/v1/completions", json=body, headers=bearer(made), buffered=False) as answer:
        assert answer.mimetype == "text/event-stream"
        assert len(list(answer.response)) >= 4
    body = {"model": "small-one", "prompt": "one", "temperature": 0, "stop": "three"}
    answer = client.post("/serve/small-one/v1/completions", json=body, headers=bearer(made))
    assert answer.json["choices"][0]["text"] == "two "


def test_a_run_is_tried_beside_its_original(client, session, files, tmp_path, deployer):
    run = seed_onnx_run(session, files, small_models.writer(tmp_path / "small"), "Small one", **WRITER)
    for side in ("original", "result"):
        body = {"side": side, "text": "one", "max_tokens": 2}
        while (found := client.post(f"/api/v1/runs/{run.id}/try", json=body).json)["state"] == "starting":
            deployer.look()
        assert (found["state"], found["text"], found["tokens"]) == ("ready", "two three", ["two", " three"])
        assert found["took_ms"] > 0
    assert client.get("/api/v1/deployments").json["items"] == [], "a try-out is not listed"
    assert client.get(f"/serve/try-{run.id}-result/v1/models").status_code == 401
    assert client.post(f"/api/v1/runs/{run.id}/try", json={"side": "result"}).status_code == 422
    assert client.delete(f"/api/v1/runs/{run.id}").status_code == 204
    deployer.look()
    assert session.query(Deployment).count() == 0


def test_rows_are_tried_with_the_names_of_their_classes(client, session, files, tmp_path, deployer):
    run = seed_onnx_run(session, files, small_models.classifier(tmp_path / "small"), "Small one", **ROWS)
    body = {"side": "result", "values": [0, 0, 1]}
    while (found := client.post(f"/api/v1/runs/{run.id}/try", json=body).json)["state"] == "starting":
        deployer.look()
    assert found["classes"][0] == {"name": "0", "probability": pytest.approx(0.9526, abs=1e-4)}
    refused = client.post(f"/api/v1/runs/{run.id}/try", json=body | {"values": [1, 2]})
    assert refused.status_code == 422
    assert "expected [batch, 3]" in refused.json["error"]["message"]


def test_what_its_process_measured_is_in_the_charts(client, session, deploy, deployer):
    made = deploy(small_models.classifier, ROWS)
    assert client.get("/api/v1/deployments/small-one/traffic").json["steps"] == []
    path = "/serve/small-one/v1/models/small-one:predict"
    for row in ([1, 2, 3], [1, 2, 3], [1, 2]):
        client.post(path, json={"instances": [row]}, headers=bearer(made))

    def told():
        deployer.look()
        return client.get("/api/v1/deployments/small-one/traffic").json["whole"]

    until(lambda: told()["requests"] == 3)
    whole = told()
    assert (whole["answered"], whole["refused"], whole["failed"], whole["left"]) == (2, 1, 0, 0)
    assert 0 < whole["p50"] <= whole["p95"]
    page = Page(client.get("/deployments/small-one").text)
    assert "1 (33.3" in page.text
    assert "figure-latency" in client.get("/deployments/small-one").text
    kept = session.query(DeploymentMinute).all()
    assert sum(each.requests for each in kept) == 3
    client.delete("/api/v1/deployments/small-one")
    assert session.query(DeploymentMinute).count() == 0


def test_minutes_of_two_lives_add_up_and_what_is_older_than_the_window_is_left_out(client, session, deploy_row):
    row, last = session.query(Deployment).one(), int(now().timestamp() // 60)
    lives = [(last, 1, 3, {"400": 1}, {"0": 2}), (last, 2, 5, {"500": 1, "499": 1}, {"100": 3})]
    for minute, started_at, requests, errors, latencies in [*lives, (last - 90, 1, 7, {}, {"0": 7})]:
        figures = {"requests": requests, "errors": errors, "latencies": latencies}
        session.add(DeploymentMinute(deployment_id=row.id, minute=minute, started_at=started_at, **figures))
    session.commit()
    hour = client.get("/api/v1/deployments/small-one/traffic").json
    assert [step["requests"] for step in hour["steps"]] == [8]
    (step,) = hour["steps"]
    assert (step["answered"], step["refused"], step["failed"], step["left"]) == (5, 1, 1, 1)
    assert step["p50"] > 100 > 1
    day = client.get("/api/v1/deployments/small-one/traffic?window=day").json
    assert day["whole"]["requests"] == 15
    assert day["step_minutes"] == 15
    assert client.get("/api/v1/deployments/small-one/traffic?window=year").status_code == 400


def test_a_deployment_is_tried_without_its_token(client, session, deploy, deployer):
    deploy(small_models.classifier, ROWS)
    found = client.post("/api/v1/deployments/small-one/try", json={"values": [1, 2, 3]}).json
    assert (found["state"], found["classes"][0]["name"]) == ("ready", "0")
    assert found["classes"][0]["probability"] > 0.99
    refused = client.post("/api/v1/deployments/small-one/try", json={"values": [1, 2]})
    assert (refused.status_code, "expected [batch, 3]" in refused.json["error"]["message"]) == (422, True)
    client.post("/deployments/small-one/stop")
    assert client.post("/api/v1/deployments/small-one/try", json={"values": [1, 2, 3]}).json["state"] == "stopped"
    row = session.query(Deployment).one()
    row.machine = "elsewhere"
    session.commit()
    elsewhere = client.post("/api/v1/deployments/small-one/try", json={"values": [1, 2, 3]})
    assert (elsewhere.status_code, elsewhere.json["error"]["code"]) == (503, "unavailable")

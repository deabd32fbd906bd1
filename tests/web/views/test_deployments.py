"""The pages of deployments, and what may be deployed."""

import re

import pytest

from tests.serving import small_models
from tests.serving.seeded_deployment import ROWS, WRITER, seed_onnx_run
from tests.web.views.page import Page
from tests.web.views.seeded import seed_dataset
from webapp.actions import deployments
from webapp.actions.deployments import DeploymentRequest
from webapp.actions.errors import NotFound


@pytest.fixture
def small(session, files, tmp_path):
    return seed_onnx_run(session, files, small_models.classifier(tmp_path / "small"), "Small one", **ROWS)


def test_one_click_deploys_and_shows_the_token_once(client, small):
    assert "No deployments yet" in client.get("/deployments").text
    assert ">Deploy<" in client.get(f"/runs/{small.id}").text
    answer = client.post(f"/runs/{small.id}/deployments", data={"artifact": "model.onnx"})
    assert answer.location == "/deployments/small-one"
    page = client.get(answer.location).text
    token = re.search(r'id="token"[^>]*value="([\w-]+)"', page)[1]
    assert f"Bearer {token}" in page
    again = client.get(answer.location).text
    assert token not in again
    assert "$PARE_TOKEN" in again
    assert "small-one" in client.get("/deployments").text


def test_deploying_twice_says_so(client, small):
    client.post(f"/runs/{small.id}/deployments", data={"artifact": "model.onnx"})
    text = Page(client.get(f"/runs/{small.id}").text).text
    assert "deployed as small-one" in text
    assert "Deploy again" in text
    second = client.post(f"/runs/{small.id}/deployments", data={"artifact": "model.onnx"})
    assert "was deployed already, as small-one, and still is" in Page(client.get(second.location).text).text


def test_a_run_without_onnx_says_how_to_get_one(client, session, run):
    page = client.get(f"/runs/{run.id}").text
    assert "fork this run with ONNX" in page
    assert ">Deploy<" not in page
    assert "data-try" not in page
    refused = client.post("/api/v1/deployments", json={"run_id": run.id})
    assert refused.status_code == 409
    assert "fork it with ONNX" in refused.json["error"]["message"]
    assert client.post(f"/api/v1/runs/{run.id}/try", json={"side": "result", "values": [1]}).status_code == 409
    run.checkpoint.facts = run.checkpoint.facts | {"architecture": None}  # which no such format takes
    session.commit()
    assert "fork this run" not in client.get(f"/runs/{run.id}").text


def test_a_row_to_try_is_one_of_the_dataset(client, session, small):
    assert ">0, 0, 0</textarea>" in client.get(f"/runs/{small.id}").text
    dataset = seed_dataset(session, shape=(3,))
    dataset.facts = dataset.facts | {"samples": [{"numbers": [0.5, -1.0, 2.25], "label": 1}]}
    small.dataset = dataset
    session.commit()
    assert ">0.5, -1.0, 2.25</textarea>" in client.get(f"/runs/{small.id}").text


def test_names_are_free_or_refused(client, small):
    body = {"run_id": small.id}
    assert [client.post("/api/v1/deployments", json=body).json["name"] for _ in range(3)] == [
        "small-one",
        "small-one-2",
        "small-one-3",
    ]
    assert client.post("/api/v1/deployments", json=body | {"name": "mine"}).json["name"] == "mine"
    assert client.post("/api/v1/deployments", json=body | {"name": "mine"}).status_code == 409
    assert client.post("/api/v1/deployments", json=body | {"name": "../x"}).status_code == 422
    reserved = client.post("/api/v1/deployments", json=body | {"name": f"try-{small.id}-original"})
    assert (reserved.status_code, "only tried" in reserved.json["error"]["message"]) == (422, True)
    assert client.post("/api/v1/deployments", json=body | {"artifact": "model.safetensors"}).status_code == 409
    assert client.post("/api/v1/deployments", json={"run_id": "nothing"}).status_code == 404


def test_several_deployed_at_once_get_names_of_their_own(session, small, monkeypatch):
    taken = iter(["small-one", "small-one", "small-one", "small-one-2"])  # as two that look at the same moment find
    monkeypatch.setattr(deployments, "free_name", lambda *_: next(taken))
    asked = DeploymentRequest(run_id=small.id)
    assert [deployments.create_deployment(session, "here", asked)[0].name for _ in range(2)] == [
        "small-one",
        "small-one-2",
    ]


def test_one_that_was_deleted_meanwhile_is_not_restarted(client, session, small, settings):
    client.post(f"/runs/{small.id}/deployments")
    row = deployments.deployment_of(session, "small-one")
    client.delete("/api/v1/deployments/small-one")
    with pytest.raises(NotFound, match="may have been deleted"):
        deployments.restart(session, row)


def test_it_is_stopped_restarted_and_deleted_from_its_page(client, small):
    client.post(f"/runs/{small.id}/deployments")
    api = "/api/v1/deployments/small-one"
    client.post("/deployments/small-one/stop")
    assert client.get(api).json["state"] == "stopped"
    assert "Start<" in client.get("/deployments/small-one").text
    assert client.post("/deployments/small-one/restart", data={"next": "list"}).location == "/deployments"
    assert client.get(api).json["state"] == "starting"
    assert client.post("/deployments/small-one/token").status_code == 302
    assert 'id="token"' in client.get("/deployments/small-one").text
    client.post("/deployments/small-one/delete")
    assert client.get(api).status_code == 404


def test_a_deployed_run_is_not_deleted_before_its_deployment(client, small):
    client.post(f"/runs/{small.id}/deployments")
    refused = client.delete(f"/api/v1/runs/{small.id}")
    assert refused.status_code == 409
    assert "deployed as small-one" in refused.json["error"]["message"]
    assert client.delete("/api/v1/deployments/small-one").status_code == 204
    assert client.delete(f"/api/v1/runs/{small.id}").status_code == 204


def test_snippets_in_python_are_python(client, small, session, files, tmp_path):
    writer = seed_onnx_run(session, files, small_models.writer(tmp_path / "writer"), "A writer", **WRITER)
    for id, name in ((small.id, "small-one"), (writer.id, "a-writer")):
        client.post(f"/runs/{id}/deployments")
        for token in (True, False):  # shown, and not any more
            page = client.get(f"/deployments/{name}").text
            found = re.findall(r'<pre class="snippet" id="snippet-[^>]*>(.*?)</pre>', page, re.DOTALL)
            python = [text for text in found if not text.startswith("curl")]
            assert python
            for text in python:
                code = text.replace("&#39;", "'").replace("&#34;", '"').replace("&lt;", "<").replace("&gt;", ">")
                compile(code, name, "exec")
                assert ("PARE_TOKEN" in code) != token


def test_a_model_of_images_is_asked_with_a_file(client, small, session):
    small.preprocessing = {"resize": "stretch", "height": 2, "width": 2, "shortest": 2}
    session.commit()
    client.post(f"/runs/{small.id}/deployments")
    page = client.get("/deployments/small-one").text
    shell, python, *_ = re.findall(r'<pre class="snippet" id="snippet-[^>]*>(.*?)</pre>', page, re.DOTALL)
    assert "image.jpg" in shell
    assert "b64" in shell
    code = python.replace("&#39;", "'").replace("&#34;", '"')
    assert '{"instances": [{"b64": image}]}' in code
    compile(code, "requests", "exec")
    assert "data-prepared" in client.get(f"/runs/{small.id}").text

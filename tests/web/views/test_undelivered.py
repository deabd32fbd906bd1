"""A format that failed is named with its reason wherever files are listed, and nothing can be made of it."""

import json

import pytest

from tests.web.views.page import Page
from tests.web.views.seeded import fail_format, seed_checkpoint
from webapp.store.models import Run, RunState

REASON = "The operator Erf cannot be written."


@pytest.fixture
def partly(session, run):
    fail_format(session, run, REASON)
    return run


def test_the_run_has_succeeded_and_says_which_format_did_not(client, partly):
    page = Page(client.get(f"/runs/{partly.id}").text)
    assert "Succeeded 1 format failed" in page.text
    assert "model.onnx ONNX · not delivered" in page.text
    assert REASON in page.text
    assert page.of("form", action=f"/runs/{partly.id}/artifacts/model.onnx/retry")
    assert not page.of("a", href=f"/api/v1/runs/{partly.id}/artifacts/model.onnx")
    assert not page.of("form", action=f"/runs/{partly.id}/deployments")
    for address in ("/", "/runs"):
        assert "1 format failed" in Page(client.get(address).text).text


def test_the_receipt_and_a_shared_link_say_why_without_a_way_to_retry(client, partly):
    assert REASON in Page(client.get(f"/runs/{partly.id}/receipt").text).text
    url = client.post(f"/api/v1/runs/{partly.id}/shares").json["url"].partition("localhost")[2]
    shared = client.get(url).text
    assert REASON in shared
    assert "1 format failed" in shared
    assert "retry" not in shared.lower()
    assert REASON in client.get(f"{url}/receipt").text
    assert client.get(f"{url}/artifacts/model.onnx").status_code == 404


def test_the_api_tells_state_and_reason(client, partly):
    answer = client.get(f"/api/v1/runs/{partly.id}").json
    assert answer["state"] == "succeeded"
    lost, kept = answer["artifacts"]
    assert (lost["name"], lost["state"], lost["digest"], lost["size_bytes"], lost["url"]) == (
        "model.onnx",
        "failed",
        None,
        None,
        None,
    )
    assert lost["reason"]["message"] == REASON
    assert (kept["state"], kept["reason"]) == ("succeeded", None)
    assert answer["undelivered"][0]["reason"]["message"] == REASON
    assert [stage["error"] and stage["error"]["message"] for stage in answer["stages"]][-2:] == [REASON, None]
    assert client.get("/api/v1/runs").json["items"][0]["undelivered"][0]["artifact"] == "model.onnx"


def test_what_was_not_proven_is_withheld(client, partly):
    here = f"/api/v1/runs/{partly.id}"
    for answer in (
        client.get(f"{here}/artifacts/model.onnx"),
        client.get(f"{here}/packages/flask"),
        client.post("/api/v1/deployments", json={"run_id": partly.id}),
    ):
        assert answer.status_code in (404, 409)
        assert f"model.onnx was not delivered. {REASON}" in answer.json["error"]["message"]
    assert client.get(f"{here}/packages").json["items"] == []
    assert client.get(f"/runs/{partly.id}/artifacts/model.onnx").status_code == 404


def test_a_retry_is_asked_for_on_the_page_and_by_the_api(client, session, partly):
    client.post(f"/runs/{partly.id}/artifacts/model.onnx/retry")
    session.expire_all()
    run = session.get(Run, partly.id)
    assert (run.state, run.attempt) == (RunState.QUEUED, 2)
    assert [stage.state.value for stage in run.stages] == ["succeeded", "waiting", "waiting", "waiting"]
    page = Page(client.get(f"/runs/{run.id}").text)  # while it waits: what is proven is there
    assert page.of("a", href=f"/api/v1/runs/{run.id}/artifacts/model.safetensors")
    assert not page.of("form", action=f"/runs/{run.id}/artifacts/model.onnx/retry")
    again = client.post(f"/api/v1/runs/{run.id}/artifacts/model.onnx/retry")
    assert (again.status_code, again.json["error"]["code"]) == (409, "conflict")
    assert client.post(f"/api/v1/runs/{run.id}/cancel").json["state"] == "succeeded"
    assert client.post(f"/api/v1/runs/{run.id}/artifacts/model.onnx/retry").status_code == 202


def test_only_what_failed_is_retried(client, partly):
    here = f"/api/v1/runs/{partly.id}/artifacts"
    assert client.post(f"{here}/model.safetensors/retry").status_code == 409
    assert client.post(f"{here}/model.gguf/retry").status_code == 404


def test_what_is_known_before_a_run_is_told_with_the_upload_and_refused_by_page_and_api(client, session):
    checkpoint = seed_checkpoint(session)
    why = "It cannot be traced: its forward is made for one length of text."
    checkpoint.facts = {**checkpoint.facts, "unwritable": {"onnx": why}}
    session.commit()
    assert why in Page(client.get(f"/checkpoints/{checkpoint.id}").text).text
    assert client.get(f"/runs/new/datasets?checkpoint={checkpoint.id}").json["exports"]["onnx"] == why
    recipe = {"version": 1, "steps": [{"technique": "cast"}]}
    asked = {"checkpoint_id": checkpoint.id, "recipe": recipe, "exports": ["onnx"]}
    answer = client.post("/api/v1/runs", json=asked)
    assert (answer.status_code, answer.json["error"]["field"]) == (422, "exports.0")
    assert why in answer.json["error"]["message"]
    form = {"checkpoint": checkpoint.id, "dataset": "", "recipe": json.dumps(recipe), "exports": "onnx", "seed": "0"}
    assert why in Page(client.post("/runs/new", data=form).text).text
    assert session.query(Run).count() == 0
    made = client.post("/api/v1/runs", json=asked | {"exports": ["program"]})
    assert made.json["exports"] == ["safetensors", "program"]

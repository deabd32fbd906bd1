"""Checkpoints that nobody uploads, by page and API."""

import pytest
from sqlalchemy import select

from tests.web.views.api_errors import error_of
from webapp.config import InstallationSettings
from webapp.store.models import Checkpoint


@pytest.fixture
def models(tmp_path):
    path = tmp_path / "models"
    (path / "bert").mkdir(parents=True)
    (path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    (path / "bert" / "model.safetensors").write_bytes(b"x" * 10)
    return path


@pytest.fixture
def settings(tmp_path, models):
    return InstallationSettings.load(tmp_path / "instance", import_folders=[str(models)], min_free_bytes=0)


def test_what_can_be_imported_is_listed_and_taken_in(client, session, models):
    [one] = client.get("/api/v1/imports").json["items"]
    assert one == {"path": str(models / "bert"), "name": "bert", "size_bytes": 10}
    answer = client.post("/api/v1/imports", json={"path": one["path"], "task": "embedding"})
    assert answer.status_code == 201
    assert (answer.json["state"], answer.json["digest"], answer.json["progress"]) == ("inspecting", "", 0)
    assert answer.json["source"] == {"kind": "path", "path": one["path"]}
    assert session.get(Checkpoint, answer.json["id"]).task == "embedding"
    page = client.get(f"/checkpoints/{answer.json['id']}").text
    assert "bert" in page
    assert "SHA-256" not in page


def test_a_path_that_is_not_listed_is_refused_with_a_sentence(client, session, models):
    told = error_of(client.post("/api/v1/imports", json={"path": str(models.parent)}), 400)
    assert told["field"] == "path"
    assert "none of the folders" in told["message"]
    assert error_of(client.post("/api/v1/imports", json={"path": str(models / "gone")}), 404)["code"] == "not_found"
    assert "task" in error_of(client.post("/api/v1/imports", json={"path": str(models), "task": "?"}), 422)["field"]
    assert session.scalars(select(Checkpoint)).all() == []


def test_the_page_offers_them_and_takes_one_in(client, session, models):
    page = client.get("/checkpoints/new").text
    assert f'value="{models / "bert"}"' in page
    answer = client.post("/checkpoints/import", data={"path": str(models / "bert"), "dequantize": "1", "task": ""})
    row = session.scalars(select(Checkpoint)).one()
    assert answer.location == f"/checkpoints/{row.id}"
    assert (row.dequantize, row.task) == (True, None)
    answer = client.post("/checkpoints/import", data={"path": "/etc"}, follow_redirects=True)
    assert "none of the folders" in answer.text


def test_without_the_setting_the_page_says_nothing_of_it(tmp_path, client, app, settings, monkeypatch):
    monkeypatch.setattr(type(settings), "import_folders", (), raising=False)
    object.__setattr__(settings, "import_folders", ())
    assert "From a folder of this machine" not in client.get("/checkpoints/new").text


@pytest.fixture
def with_hub(settings):
    object.__setattr__(settings, "hub_url", "https://hub.example")
    return settings


def test_a_model_is_taken_in_by_its_name(with_hub, client, session):
    answer = client.post("/api/v1/imports", json={"repo_id": "someone/tiny", "revision": "v1"})
    assert answer.status_code == 201
    assert (answer.json["name"], answer.json["state"], answer.json["size_bytes"]) == ("someone/tiny", "inspecting", 0)
    assert answer.json["source"]["asked"] == "v1"
    assert 'name="repo_id"' in client.get("/checkpoints/new").text
    answer = client.post("/checkpoints/import", data={"repo_id": " someone/tiny ", "revision": ""})
    row = session.get(Checkpoint, answer.location.rpartition("/")[2])
    assert row.source["asked"] == "main"
    assert "someone/tiny" in client.get(answer.location).text
    told = error_of(client.post("/api/v1/imports", json={"repo_id": "some one"}), 400)
    assert told["field"] == "repo_id"


def test_without_a_hub_that_is_said(client):
    assert "hub_url" in error_of(client.post("/api/v1/imports", json={"repo_id": "a/b"}), 409)["message"]
    assert 'name="repo_id"' not in client.get("/checkpoints/new").text


def test_one_thing_is_asked_for(client, models):
    both = {"repo_id": "a/b", "path": str(models / "bert")}
    for body in ({}, both, {"path": str(models / "bert"), "revision": "main"}):
        error_of(client.post("/api/v1/imports", json=body), 422)


def test_a_run_s_result_is_pushed_from_its_page_and_by_the_api(with_hub, client, session, run):
    assert "Push it" not in client.get(f"/runs/{run.id}").text
    assert (
        "hub_token"
        in error_of(client.post(f"/api/v1/runs/{run.id}/publications", json={"repo_id": "a/b"}), 409)["message"]
    )
    object.__setattr__(with_hub, "hub_token", "hf_secret")
    page = client.get(f"/runs/{run.id}").text
    assert "Push it" in page
    assert "hf_secret" not in page
    answer = client.post(f"/api/v1/runs/{run.id}/publications", json={"repo_id": "a/b", "private": False})
    assert answer.status_code == 202
    assert (answer.json["state"], answer.json["private"], answer.json["url"]) == ("queued", False, None)
    assert client.get(f"/api/v1/runs/{run.id}/publications").json["items"] == [answer.json]
    assert (
        "right now" in client.post(f"/runs/{run.id}/publications", data={"repo_id": "a/b"}, follow_redirects=True).text
    )
    client.post(f"/runs/{run.id}/publications", data={"repo_id": " a/c ", "private": "1"})
    [newest, _] = client.get(f"/api/v1/runs/{run.id}/publications").json["items"]
    assert (newest["repo_id"], newest["private"]) == ("a/c", True)
    assert (
        "no name of a model"
        in client.post(f"/runs/{run.id}/publications", data={"repo_id": "?"}, follow_redirects=True).text
    )

"""Errors are pages for people and JSON of one shape for programs."""

import pytest

from webapp import create_app
from webapp.config import InstallationSettings
from webapp.store.errors import DatabaseUnusable


@pytest.fixture
def app(tmp_path):
    settings = InstallationSettings.load(tmp_path / "instance", min_free_bytes=0)
    app = create_app({"SETTINGS": settings})
    yield app
    app.extensions["pare"].jobs.close()


@pytest.fixture
def client(app):
    return app.test_client()


def test_the_api_answers_json_and_pages_answer_html(client):
    program = client.get("/api/v1/nowhere")
    assert program.status_code == 404
    assert set(program.json["error"]) >= {"code", "message"}
    person = client.get("/nowhere")
    assert person.status_code == 404
    assert person.mimetype == "text/html"
    asked = client.get("/nowhere", headers={"Accept": "application/json"})
    assert asked.json["error"]["code"] == "not_found"


def test_a_wrong_method_names_the_right_ones(client):
    answer = client.post("/api/v1/openapi.json")
    assert answer.status_code == 405
    assert "GET" in answer.headers["Allow"]
    assert answer.json["error"]["code"] == "method_not_allowed"


def test_a_mistake_of_ours_says_nothing_of_its_inside(client, app, monkeypatch, caplog):
    def broken():
        raise ZeroDivisionError("a secret of the inside")

    monkeypatch.setitem(app.view_functions, "home.index", broken)
    answer = client.get("/")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "a secret of the inside" in caplog.text


def test_an_error_of_the_store_keeps_its_sentence_and_status(client, app, monkeypatch):
    def broken():
        raise DatabaseUnusable("The database cannot be reached.")

    monkeypatch.setitem(app.view_functions, "home.index", broken)
    answer = client.get("/", headers={"Accept": "application/json"})
    assert answer.status_code == 503
    assert answer.json == {"error": {"code": "database_unusable", "message": "The database cannot be reached."}}

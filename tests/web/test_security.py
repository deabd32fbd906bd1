"""What every answer carries, and who may write."""

import socket

import pytest

from webapp import create_app
from webapp.config import InstallationSettings


@pytest.fixture
def app(tmp_path):
    settings = InstallationSettings.load(tmp_path / "instance", min_free_bytes=0)
    app = create_app({"SETTINGS": settings, "TESTING": True})
    yield app
    app.extensions["pare"].jobs.close()


@pytest.fixture
def client(app):
    return app.test_client()


def test_every_answer_carries_the_headers(client):
    for address in ("/", "/nowhere", "/healthz", "/api/v1/runs", "/static/pare.css"):
        with client.get(address) as answer:
            headers = answer.headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert "'unsafe-inline'" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"


def test_a_form_without_its_token_is_refused(client):
    answer = client.post("/runs/abc/delete")
    assert answer.status_code == 400
    assert "The form has expired" in answer.text


def test_the_recipe_form_comes_back_when_its_token_is_missing(client):
    answer = client.post("/runs/new", data={"name": "kept"})
    assert answer.status_code == 422


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_site_may_not_write(client, headers):
    answer = client.put("/api/v1/checkpoints?name=a.pt", data=b"x", headers=headers)
    assert answer.status_code == 403
    assert answer.json["error"]["code"] == "cross_site"


@pytest.mark.parametrize(
    "headers", [{}, {"Origin": "http://localhost"}, {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}]
)
def test_programs_and_our_own_pages_may_write(client, headers):
    answer = client.post(
        "/api/v1/recipes/parse", json={"text": "version: 1\nsteps: [{technique: cast}]"}, headers=headers
    )
    assert answer.status_code == 200


def test_another_site_may_read_nothing_it_could_not_before(client):
    answer = client.get("/api/v1/runs", headers={"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_a_versioned_file_is_kept_and_any_other_is_asked_for_again(client):
    with client.get("/static/pare.css?v=1") as versioned, client.get("/static/pare.css") as plain:
        assert "immutable" in versioned.headers["Cache-Control"]
        assert "immutable" not in plain.headers["Cache-Control"]


@pytest.mark.parametrize(
    ("trusted", "host", "status"),
    [
        ("", "localhost:8000", 200),
        ("", "127.0.0.1", 200),
        ("", "[::1]:8000", 200),
        ("", "192.168.7.7:8000", 200),  # an address leads nowhere else
        ("", socket.gethostname(), 200),
        ("", "rebound.example", 400),
        ("", "127.0.0.1.rebound.example", 400),
        ("", "localhost.rebound.example", 400),
        ("pare.example, .inner.example", "pare.example:8000", 200),
        ("pare.example, .inner.example", "a.inner.example", 200),
        ("pare.example, .inner.example", "rebound.example", 400),
        ("pare.example", "127.0.0.1", 200),
        ("*", "any.example", 200),
    ],
)
def test_a_name_that_is_not_ours_is_refused(tmp_path, trusted, host, status):
    settings = InstallationSettings.load(tmp_path / "instance", trusted_hosts=trusted)
    app = create_app({"SETTINGS": settings, "TESTING": True})
    client = app.test_client()
    answer = client.get("/", headers={"Host": host})
    assert answer.status_code == status
    told = client.get("/api/v1/runs", headers={"Host": host})
    assert told.status_code == status
    if status == 400:
        assert "trusted_hosts" in answer.text
        assert told.get_json()["error"]["code"] == "host_not_trusted"
    app.extensions["pare"].jobs.close()

"""Beyond this machine nothing is shown or done without the access token, but what has tokens of its own."""

import re

import pytest

from tests.web.views.api_errors import error_of
from webapp import create_app
from webapp.config import InstallationSettings, SettingInvalid
from webapp.jobs.supervisor import access_of
from webapp.web import access
from webapp.web.access import PUBLIC, PUBLIC_PAGES, TRIES

TOKEN = "a-token-of-sixteen-or-more"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
HTML = {"Accept": "text/html"}


@pytest.fixture
def settings(tmp_path):
    return InstallationSettings.load(tmp_path / "instance", min_free_bytes=0, access_token=TOKEN)


def sign_in(client, token=TOKEN, address="/sign-in"):
    return client.post(address, data={"token": token})


def test_no_address_answers_without_it_but_those_that_are_named(app, client):
    """Whatever is added later is closed until it is named."""
    for rule in app.url_map.iter_rules():
        address = re.sub(r"<(?:\w+:)?\w+>", "x", rule.rule)
        method = next(iter(rule.methods - {"HEAD", "OPTIONS"}))
        public = address.startswith(PUBLIC) or address in PUBLIC_PAGES
        with client.open(address, method=method, headers={"Accept": "application/json"}) as answer:
            refused = answer.status_code == 401 and "access_refused" in answer.text
        assert refused != public, f"{method} {address}: {answer.status_code}"
    assert client.get("/nowhere").status_code == 401


def test_a_program_sends_it_with_every_request(client):
    refused = client.get("/api/v1/runs")
    assert error_of(refused, 401)["code"] == "access_refused"
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    assert client.get("/api/v1/runs", headers=BEARER).status_code == 200
    assert client.put("/api/v1/checkpoints?name=a.pt", data=b"x", headers=BEARER).status_code == 201
    assert client.get("/runs", headers=BEARER).status_code == 200
    error_of(client.get("/api/v1/runs", headers={"Authorization": f"Bearer {TOKEN}x"}), 401)
    error_of(client.get("/api/v1/runs", headers={"Authorization": f"Basic {TOKEN}"}), 401)


def test_a_browser_signs_in_once_and_lands_where_it_was_going(client):
    asked = client.get("/runs?state=failed", headers=HTML)
    assert asked.status_code == 302
    page = client.get(asked.location, headers=HTML)
    assert "Access token" in page.text
    assert "/runs/new" not in page.text
    done = sign_in(client, address=asked.location)
    assert done.location == "/runs?state=failed"
    assert client.get("/runs", headers=HTML).status_code == 200
    assert client.get("/api/v1/runs").status_code == 200
    assert "Sign out" in client.get("/", headers=HTML).text
    client.post("/sign-out")
    assert client.get("/runs", headers=HTML).status_code == 302


def test_a_wrong_one_is_told_and_too_many_are_not_looked_at(client):
    for _ in range(TRIES):
        answer = sign_in(client, "wrong")
        assert answer.status_code == 401
        assert "not Pare&#39;s access token" in answer.text
    assert sign_in(client).status_code == 429
    error_of(client.get("/api/v1/runs", headers=BEARER), 429)
    elsewhere = {"REMOTE_ADDR": "192.0.2.7"}
    assert client.get("/api/v1/runs", headers=BEARER, environ_base=elsewhere).status_code == 200


def test_tries_from_one_network_count_together_and_few_are_kept(monkeypatch):
    assert (
        access._network("2001:db8:1:2::1") == access._network("2001:db8:1:2:ffff::9") != access._network("2001:db8::1")
    )
    assert access._network("192.0.2.1") != access._network("192.0.2.2")
    monkeypatch.setattr(access, "MOST_ADDRESSES", 3)
    tries = access.Tries()
    monkeypatch.setattr(access, "TRIES_SECONDS", -1)
    for address in "abcdef":
        tries.note(address)
    assert len(tries._at) <= 3


def test_another_token_ends_what_was_signed_in(client, settings):
    sign_in(client)
    cookie = client.get_cookie("pare").value
    other = InstallationSettings.load(settings.instance, access_token="b" * 16)
    app = create_app({"SETTINGS": other, "TESTING": True})
    client = app.test_client()
    client.set_cookie("pare", cookie)
    assert client.get("/runs", headers=HTML).status_code == 302
    app.extensions["pare"].jobs.close()


@pytest.mark.parametrize(
    "target", ["//evil.example", "https://evil.example", "/\\evil.example", "/\t/evil.example", "x"]
)
def test_signing_in_leads_nowhere_else(client, target):
    assert sign_in(client, address="/sign-in").location == "/"
    assert client.get("/sign-in", query_string={"next": target}).location == "/"


def test_the_form_of_another_site_signs_nobody_in(settings):
    app = create_app({"SETTINGS": settings, "TESTING": True})
    client = app.test_client()
    assert sign_in(client).status_code == 400
    client.get("/sign-in")
    assert client.post("/sign-in", data={"token": TOKEN}, headers={"Origin": "https://evil.example"}).status_code == 403
    app.extensions["pare"].jobs.close()


def test_beyond_this_machine_a_token_is_made_once_and_said_once(tmp_path):
    settings = InstallationSettings.load(tmp_path)
    assert access_of(settings, alone=True, is_open=False) == ("", settings)
    notice, made = access_of(settings, alone=False, is_open=False)
    assert len(made.access_token) >= 32
    assert made.access_token in notice
    assert (tmp_path / "access_token").stat().st_mode & 0o77 == 0
    notice, again = access_of(settings, alone=False, is_open=False)
    assert again.access_token == made.access_token
    assert made.access_token not in notice
    assert str(tmp_path / "access_token") in notice
    notice, opened = access_of(settings, alone=False, is_open=True)
    assert opened.access_token == ""
    assert "WARNING" in notice
    given = InstallationSettings.load(tmp_path, access_token=TOKEN)
    assert access_of(given, alone=True, is_open=False)[1].access_token == TOKEN
    with pytest.raises(SettingInvalid, match="remove one of them"):
        access_of(given, alone=False, is_open=True)


@pytest.mark.parametrize("token", ["short", "with spaces in its middle", "ünusual-characters"])
def test_a_weak_one_is_refused(tmp_path, token):
    with pytest.raises(SettingInvalid, match="16 or more"):
        InstallationSettings.load(tmp_path, access_token=token)

"""Webhooks are made, changed, tried and deleted by page and API; a message is what the document says."""

import json
import re
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from tests.web.views.page import Page
from webapp.config import InstallationSettings, SettingInvalid
from webapp.outgoing.signing import signed_headers
from webapp.store.models import RunState, Webhook, WebhookDelivery
from webapp.web.views.api.schemas import RunFacts, WebhookMessage

DOCS = Path(__file__).parents[3] / "docs/webhooks.md"
HERE = "http://127.0.0.1:9/hook"
FORM = {
    "url": HERE,
    "events": ["run.succeeded", "study.failed"],
    "own_address": "https://pare.example/",
    "enabled": "1",
}


@pytest.fixture
def settings(tmp_path):
    return InstallationSettings.load(tmp_path / "instance", min_free_bytes=0, webhook_networks="127.0.0.0/8")


@pytest.fixture
def webhook(client):
    """As the API answers with it: its id and its secret."""
    answer = client.post("/api/v1/webhooks", json={"url": HERE, "own_address": "https://pare.example"})
    assert answer.status_code == 201, answer.json
    return answer.json


def end_again(session, run, state=RunState.SUCCEEDED):
    """The run that was seeded ends while there are webhooks."""
    receipt, run.receipt, run.state = run.receipt, None, RunState.RUNNING
    session.commit()
    run.receipt, run.state = receipt, state
    session.commit()


def test_the_page_makes_one_and_shows_its_secret_once(client, session):
    answer = client.post("/webhooks", data=FORM, follow_redirects=True)
    (secret,) = re.findall(r"whsec_[\w+/=]+", answer.text)
    row = session.scalar(select(Webhook))
    assert (row.url, row.events, row.own_address) == (HERE, ["run.succeeded", "study.failed"], "https://pare.example")
    assert "whsec_" not in client.get(f"/webhooks/{row.id}").text
    renewed = client.post(f"/webhooks/{row.id}/secret", follow_redirects=True)
    assert re.findall(r"whsec_[\w+/=]+", renewed.text) not in ([], [secret])
    assert HERE in Page(client.get("/webhooks").text).text
    assert secret not in " ".join(map(str, vars(row).values()))


def test_a_secret_waits_for_the_page_that_it_is_of(client, session, webhook):
    made = client.post("/webhooks", data=FORM)
    assert "whsec_" not in client.get(f"/webhooks/{webhook['id']}").text  # another window looked first
    assert "whsec_" not in client.get(made.location, headers={"X-Refresh": "1"}).text
    assert "whsec_" in client.get(made.location).text
    assert "whsec_" not in client.get(made.location).text


def test_an_open_page_is_sent_again_only_where_something_changed(client, session, run, webhook):
    address, asks = f"/webhooks/{webhook['id']}", {"X-Refresh": "1"}
    first = client.get(address, headers=asks)
    again = client.get(address, headers=asks | {"If-None-Match": first.headers["ETag"]})
    assert (first.status_code, again.status_code) == (200, 304)
    end_again(session, run)
    changed = client.get(address, headers=asks | {"If-None-Match": first.headers["ETag"]})
    assert changed.status_code == 200
    assert "run.succeeded" in Page(changed.text).text


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"url": "http://10.0.0.1/"}, "10.0.0.1 is not a public address"),
        ({"url": "http://169.254.169.254/latest/meta-data"}, "is not a public address"),
        ({"url": "ftp://a.example/"}, "begins with https:// or http://"),
        ({"url": "https://me:pass@127.0.0.1/"}, "a user or a password"),
        ({"events": []}, "Choose at least one event"),
        ({"own_address": "pare.example"}, "own address begins with https"),
    ],
)
def test_what_cannot_be_is_said_beside_what_was_typed(client, session, webhook, changed, says):
    for address in ("/webhooks", f"/webhooks/{webhook['id']}"):
        answer = client.post(address, data=FORM | changed)
        assert answer.status_code == 422
        page = Page(answer.text)
        assert says in page.text
        assert page.of("input", name="url")[0]["value"] == (FORM | changed)["url"]
    assert session.scalars(select(Webhook.url)).all() == [HERE]


def test_the_page_changes_switches_off_and_deletes(client, session, webhook):
    address = f"/webhooks/{webhook['id']}"
    client.post(address, data={"url": f"{HERE}2", "events": ["run.failed"], "own_address": "http://localhost:1"})
    row = session.get(Webhook, webhook["id"])
    assert (row.url, row.events, row.enabled, row.own_address) == (
        f"{HERE}2",
        ["run.failed"],
        False,
        "http://localhost:1",
    )
    assert "switched off" in Page(client.get(address).text).text
    assert client.post(f"{address}/test").status_code == 409
    client.post(f"{address}/delete")
    assert client.get(address).status_code == 404


def test_a_message_is_what_the_document_says_and_is_sent_again_with_its_id(client, session, webhook, run):
    end_again(session, run)
    row = session.scalar(select(WebhookDelivery))
    (told,) = client.get(f"/api/v1/webhooks/{webhook['id']}/deliveries").json["items"]
    assert (told["id"], told["event"], told["state"], told["tries"]) == (row.id, "run.succeeded", "queued", 0)
    message = WebhookMessage.model_validate_json(told["body"])
    assert message.data.url == f"https://pare.example/runs/{run.id}"
    assert client.get(message.data.url.removeprefix("https://pare.example")).status_code == 200
    for artifact in message.data.artifacts:
        answer = client.get(artifact.url.removeprefix("https://pare.example"))
        assert (answer.status_code, answer.headers["ETag"].strip('"')) == (200, artifact.digest)
    assert json.loads(told["body"])["data"]["result"]["metrics"] == run.result["metrics"]
    row.state, row.tries, row.error, row.status = RunState.FAILED, 7, "It broke.", 500
    session.commit()
    assert "It broke." in Page(client.get(f"/webhooks/{webhook['id']}").text).text
    again = client.post(f"/api/v1/webhooks/{webhook['id']}/deliveries/{row.id}/again")
    assert (again.status_code, again.json["id"], again.json["state"], again.json["tries"]) == (202, row.id, "queued", 0)
    other = client.post("/api/v1/webhooks", json={"url": HERE}).json["id"]
    assert client.post(f"/api/v1/webhooks/{other}/deliveries/{row.id}/again").status_code == 404


def test_a_test_has_the_facts_of_the_last_run_that_succeeded(client, webhook, seed):
    path = f"/api/v1/webhooks/{webhook['id']}/test"
    empty = WebhookMessage.model_validate_json(client.post(path).json["body"])
    assert (empty.type, empty.data) == ("test", None)
    run = seed()
    message = WebhookMessage.model_validate_json(client.post(path).json["body"])
    assert (message.type, message.data.id) == ("test", run.id)
    page = client.post(f"/webhooks/{webhook['id']}/test", follow_redirects=True)
    assert Page(page.text).text.count("Send again") == 3


def test_the_api_changes_and_says_what_is_wrong(client, webhook):
    path = f"/api/v1/webhooks/{webhook['id']}"
    assert client.get("/api/v1/webhooks").json["items"] == [client.get(path).json]
    assert "secret" not in client.get(path).json
    assert client.patch(path, json={"events": ["run.failed"], "enabled": False}).json["events"] == ["run.failed"]
    refused = client.patch(path, json={"url": "http://192.168.0.1/"})
    assert (refused.status_code, refused.json["error"]["field"]) == (422, "url")
    assert client.patch(path, json={"events": ["run.begun"]}).status_code == 422
    assert client.patch(path, json={"own_address": "ftp://x"}).status_code == 422
    assert client.post(f"{path}/secret").json["secret"] != webhook["secret"]
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404


def test_links_begin_with_the_address_by_which_pare_was_reached(client):
    given = {"json": {"url": HERE}, "base_url": "http://localhost:8000"}
    assert client.post("/api/v1/webhooks", **given).json["own_address"] == "http://localhost:8000"


def test_there_are_at_most_twenty(client, webhook):
    for _ in range(19):
        assert client.post("/api/v1/webhooks", json={"url": HERE}).status_code == 201
    answer = client.post("/api/v1/webhooks", json={"url": HERE})
    assert (answer.status_code, answer.json["error"]["code"]) == (409, "conflict")


def test_a_network_that_is_none_is_said(tmp_path):
    with pytest.raises(SettingInvalid, match=r"webhook_networks names '10\.0\.0\.1/8', which is no network"):
        InstallationSettings.load(tmp_path, webhook_networks="127.0.0.1, 10.0.0.1/8")


def test_the_documented_check_takes_what_is_signed_and_nothing_else(webhook):
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)  # noqa: S102 - as a reader would
    check, at, body = names["is_from_pare"], int(time.time()), '{"type": "ä"}'.encode()
    headers = signed_headers(webhook["secret"], "m", at, body)
    assert check(webhook["secret"], headers, body)
    rotated = headers | {"webhook-signature": f"v1,AAAA {headers['webhook-signature']}"}
    assert check(webhook["secret"], rotated, body)
    assert not check(webhook["secret"], headers, body + b" ")
    assert not check(webhook["secret"], headers | {"webhook-id": "n"}, body)
    assert not check("whsec_" + "A" * 43 + "=", headers, body)
    assert not check(webhook["secret"], signed_headers(webhook["secret"], "m", at - 301, body), body)


def test_the_documented_message_has_the_fields_of_a_real_one():
    (example,) = re.findall(r"```json\n(.*?)```", DOCS.read_text(encoding="utf8"), re.DOTALL)
    told = json.loads(example)
    assert set(told) == set(WebhookMessage.model_fields)
    assert list(told["data"]) == list(RunFacts.model_fields)

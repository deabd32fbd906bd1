"""What ends is written for webhooks in the same transaction, once, with the facts as they were then."""

import json
from datetime import UTC, datetime

import pytest
from sqlalchemy import select

from webapp.store.models import Artifact, Checkpoint, Run, RunState, Study, Webhook, WebhookDelivery

AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
ALL = ["run.succeeded", "run.failed", "run.cancelled", "study.succeeded", "study.failed", "study.cancelled"]
VERDICT = {"verdict": "no difference shown", "sentence": "50 % smaller; …"}


@pytest.fixture
def run(sessions):
    with sessions.begin() as session:
        row = Checkpoint(name="c", filename="c.pt", size_bytes=5, digest="0" * 64)
        run = Run(name="r", checkpoint=row, recipe={"steps": []}, state=RunState.RUNNING)
        session.add(run)
    return run


def hook(sessions, **given):
    with sessions.begin() as session:
        row = Webhook(**({"url": "https://a.example/", "events": ALL, "own_address": "https://pare.example"} | given))
        session.add(row)
    return row.id


def written(sessions):
    with sessions() as session:
        return session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.created_at)).all()


def end(sessions, run, state=RunState.SUCCEEDED, **columns):
    with sessions.begin() as session:
        row = session.get(Run, run.id)
        for name, value in (columns | {"finished_at": AT, "state": state}).items():
            setattr(row, name, value)


def test_the_facts_are_those_of_the_end_and_links_begin_with_the_address_that_was_given(sessions, run):
    hook(sessions)
    with sessions.begin() as session:
        row = session.get(Run, run.id)
        row.baseline = {"size_bytes": 20, "metrics": {"accuracy": {"value": 0.9}}, "layers": [1], "bytes": {}}
        row.result = {"size_bytes": 10, "metrics": {"accuracy": {"value": None}}}
        row.receipt = {"verdict": VERDICT}
        row.artifacts = [
            Artifact(name="model.safetensors", format="safetensors", digest="a" * 64, size_bytes=10),
            Artifact(name="samples.parquet", format="samples", digest="b" * 64, size_bytes=10),
        ]
        row.state, row.finished_at = RunState.SUCCEEDED, AT
    (delivery,) = written(sessions)
    assert (delivery.event, delivery.subject, delivery.state, delivery.tries) == ("run.succeeded", "r", "queued", 0)
    told = json.loads(delivery.body)
    assert (told["type"], told["timestamp"]) == ("run.succeeded", "2026-01-02T03:04:00+00:00")
    data = told["data"]
    assert told["text"] == f"r has succeeded: 50 % smaller; … https://pare.example/runs/{run.id}"
    assert data["url"] == f"https://pare.example/runs/{run.id}"
    assert data["baseline"] == {"size_bytes": 20, "metrics": {"accuracy": {"value": 0.9}}}
    assert data["result"]["metrics"] == {"accuracy": {"value": None}}
    assert data["verdict"] == VERDICT
    assert [(each["name"], each["digest"]) for each in data["artifacts"]] == [("model.safetensors", "a" * 64)]
    assert data["checkpoint"] == {"id": run.checkpoint_id, "name": "c", "digest": "0" * 64}


def test_only_those_that_asked_for_the_event_and_are_switched_on_are_told(sessions, run):
    asked = hook(sessions, events=["run.failed"])
    hook(sessions, events=["run.succeeded"])
    hook(sessions, enabled=False)
    end(sessions, run, RunState.FAILED, error={"code": "c", "message": "It broke."})
    (delivery,) = written(sessions)
    assert delivery.webhook_id == asked
    told = json.loads(delivery.body)
    assert told["data"]["error"]["message"] == "It broke."
    assert told["text"] == f"r has failed: It broke. https://pare.example/runs/{run.id}"


def test_what_is_taken_back_was_never_told(sessions, run):
    hook(sessions)
    with sessions() as session:
        session.get(Run, run.id).state = RunState.CANCELLED
        session.flush()
        session.rollback()
    assert written(sessions) == []


def test_a_retry_that_ends_is_told_again_but_more_work_on_a_run_that_has_delivered_is_not(sessions, run):
    hook(sessions)
    end(sessions, run, RunState.FAILED)
    end(sessions, run, RunState.QUEUED, attempt=2)
    end(sessions, run, receipt={"verdict": VERDICT})
    end(sessions, run, RunState.RUNNING, attempt=3)
    end(sessions, run, receipt={"verdict": VERDICT, "blame": {}})
    end(sessions, run, RunState.RUNNING, attempt=4)
    end(sessions, run)
    assert sorted(each.event for each in written(sessions)) == ["run.failed", "run.succeeded"]
    end(sessions, run, name="renamed")
    assert len(written(sessions)) == 2


def test_a_study_tells_how_many_of_its_runs_are_in_which_state(sessions, run):
    hook(sessions)
    with sessions.begin() as session:
        study = Study(name="s", kind="sweep", checkpoint_id=run.checkpoint_id, question={}, state=RunState.RUNNING)
        session.add(study)
        session.flush()
        for state in (RunState.SUCCEEDED, RunState.SUCCEEDED, RunState.FAILED):
            session.add(
                Run(name="x", checkpoint_id=run.checkpoint_id, recipe={"steps": []}, state=state, study_id=study.id)
            )
    with sessions.begin() as session:
        row = session.get(Study, study.id)
        row.state, row.finished_at, row.conclusion = RunState.SUCCEEDED, AT, {"winner": None, "sentence": "Done."}
    (delivery,) = written(sessions)
    told = json.loads(delivery.body)["data"]
    assert (told["kind"], told["runs"]) == ("study", {"failed": 1, "succeeded": 2})
    assert told["conclusion"]["sentence"] == "Done."
    assert json.loads(delivery.body)["text"] == f"s has succeeded: Done. {told['url']}"
    assert told["url"] == f"https://pare.example/studies/{study.id}"


def test_messages_go_with_their_webhook(sessions, run):
    hook_id = hook(sessions)
    end(sessions, run)
    with sessions.begin() as session:
        session.delete(session.get(Webhook, hook_id))
    assert written(sessions) == []


def test_the_sentence_holds_no_links_or_mentions_of_a_chat(sessions, run):
    hook(sessions)
    end(sessions, run, name="<!channel> <http://a.example|click> & more")
    (delivery,) = written(sessions)
    told = json.loads(delivery.body)
    assert told["text"].startswith("&lt;!channel&gt; &lt;http://a.example|click&gt; &amp; more has succeeded")
    assert told["data"]["name"] == "<!channel> <http://a.example|click> & more"

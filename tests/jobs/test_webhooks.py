"""Messages reach their receiver once it takes them: signed, tried again a bounded number of times, by any worker."""

import json
import threading
from datetime import timedelta
from types import SimpleNamespace

import pytest
from sqlalchemy import select, update

from tests.jobs.bench import Bench
from tests.patience import PATIENCE_SECONDS
from tests.postgresql import fresh_database
from tests.webhook_receiver import receiving
from webapp.actions.webhooks import (
    WebhookChanges,
    WebhookRequest,
    change_webhook,
    create_webhook,
    secret_of,
    send_again,
)
from webapp.jobs import webhooks
from webapp.jobs.webhooks import PAUSES, Messenger, forget_old
from webapp.outgoing.addresses import AddressRefused
from webapp.outgoing.signing import signed_headers
from webapp.store.clock import now
from webapp.store.database import writing
from webapp.store.events import EVENTS
from webapp.store.models import Run, RunState, Study, Webhook, WebhookDelivery

DONE = {"stages": {"a": [["write", "a"]]}}
HERE = {"webhook_networks": "127.0.0.0/8"}


@pytest.fixture
def receiver():
    with receiving() as found:
        yield found


@pytest.fixture(params=["sqlite", "postgresql"])
def bench(request, tmp_path):
    database = {"database_url": fresh_database()} if request.param == "postgresql" else {}
    bench = Bench(tmp_path, "tests.jobs.scripted_worker", **HERE, **database)
    yield bench
    bench.close()


@pytest.fixture
def place(bench):
    """What of a worker's the messages need."""
    return SimpleNamespace(settings=bench.settings, sessions=bench.sessions)


def send_due(place):
    messenger = Messenger(place)
    messenger.look()
    messenger.finish()


def hook(bench, url, **given):
    with bench.sessions() as session:
        asked = WebhookRequest(**({"url": url, "events": list(EVENTS)} | given))
        return create_webhook(session, bench.settings, asked, "http://pare.example:8000/")


def message(bench, webhook, **given):
    """One that waits to be sent."""
    with bench.sessions.begin() as session:
        row = WebhookDelivery(
            webhook_id=webhook.id, **({"event": "test", "subject": "s", "body": '{"a": "ä"}'} | given)
        )
        session.add(row)
    return row.id


def due_now(bench):
    """As if the pauses were over."""
    with bench.sessions.begin() as session:
        session.execute(update(WebhookDelivery).values(due_at=now()))


def all_messages(bench):
    with bench.sessions() as session:
        return session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.created_at)).all()


def test_a_run_that_ends_is_told_with_its_facts_and_a_signature(bench, receiver):
    webhook = hook(bench, f"{receiver.url}/hook?to=me")
    bench.start_worker()
    run = bench.ended(bench.run(DONE))
    assert run.state is RunState.SUCCEEDED, run.error
    (got,) = bench.until(lambda: receiver.got)
    told = got.json
    assert (got.path, got.headers["content-type"], told["type"]) == ("/hook?to=me", "application/json", "run.succeeded")
    assert told["data"]["id"] == run.id
    assert told["data"]["url"] == f"http://pare.example:8000/runs/{run.id}"
    assert told["data"]["result"]["size_bytes"] == run.result["size_bytes"]
    assert told["data"]["verdict"] == run.receipt["verdict"]
    digests = {artifact.name: artifact.digest for artifact in run.artifacts}
    assert {each["name"]: each["digest"] for each in told["data"]["artifacts"]} == digests
    seconds = int(got.headers["webhook-timestamp"])
    assert abs(seconds - now().timestamp()) < 600
    expected = signed_headers(secret_of(bench.settings, webhook), got.headers["webhook-id"], seconds, got.body)
    assert got.headers["webhook-signature"] == expected["webhook-signature"]
    bench.until(lambda: all_messages(bench)[0].state is RunState.SUCCEEDED)
    (kept,) = all_messages(bench)
    assert (kept.id, kept.status, kept.error, kept.tries) == (got.headers["webhook-id"], 200, None, 1)


def test_a_run_that_is_cancelled_is_told_though_no_worker_had_it(bench, place, receiver):
    hook(bench, receiver.url, events=["run.cancelled"])
    run_id = bench.run(DONE)
    bench.jobs.cancel_run(run_id)
    bench.jobs.cancel_run(run_id)
    send_due(place)
    assert [(each.json["type"], each.json["data"]["id"]) for each in receiver.got] == [("run.cancelled", run_id)]


def test_a_worker_that_dies_while_it_sends_loses_nothing(bench, receiver):
    webhook, held = hook(bench, receiver.url), threading.Event()
    receiver.slow = lambda handler: held.wait()
    message_id = message(bench, webhook)
    worker = bench.start_worker()
    bench.until(lambda: receiver.got)
    bench.end(worker)
    assert all_messages(bench)[0].state is RunState.QUEUED
    receiver.slow = lambda handler: None
    held.set()
    due_now(bench)
    bench.start_worker()
    bench.until(lambda: all_messages(bench)[0].state is RunState.SUCCEEDED)
    assert [each.headers["webhook-id"] for each in receiver.got] == [message_id] * 2
    assert len({each.body for each in receiver.got}) == 1


def test_workers_that_die_at_every_try_end_it_too(bench, place, receiver):
    message_id = message(bench, hook(bench, receiver.url), tries=len(PAUSES))
    receiver.answers = [500]
    send_due(place)
    due_now(bench)
    with bench.sessions.begin() as session:  # as it is left by one that dies at the last try
        row = session.get(WebhookDelivery, message_id)
        row.state, row.error = RunState.QUEUED, None
    send_due(place)
    (row,) = all_messages(bench)
    assert (row.state, row.error) == (RunState.FAILED, "The workers that sent it died before they were answered.")
    assert len(receiver.got) == 1


def test_what_nobody_foresaw_is_said_and_tried_again(bench, place, receiver, monkeypatch):
    message(bench, hook(bench, receiver.url))
    with monkeypatch.context() as patch:
        patch.setattr(webhooks, "post", lambda *_: [][1])
        send_due(place)
    (row,) = all_messages(bench)
    assert (row.state, row.error) == (
        RunState.QUEUED,
        "Something went wrong inside Pare (IndexError). The worker's log has the details.",
    )
    due_now(bench)
    send_due(place)
    assert len(receiver.got) == 1


def test_what_is_refused_is_tried_again_after_longer_and_longer_and_then_given_up(bench, place, receiver):
    message(bench, hook(bench, receiver.url))
    receiver.answers, receiver.said = [500] * 99, b"out\x00 of\n order"
    for number, pause in enumerate((*PAUSES, None), start=1):
        began = now()
        send_due(place)
        (row,) = all_messages(bench)
        assert (len(receiver.got), row.tries, row.status) == (number, number, 500)
        assert row.error == "127.0.0.1 answered with an error (500): out of order"
        if pause is not None:
            assert row.state is RunState.QUEUED
            assert abs(row.due_at - began - pause) < timedelta(seconds=5)
            send_due(place)  # it is not due yet
        due_now(bench)
    assert row.state is RunState.FAILED
    send_due(place)
    assert len(receiver.got) == len(PAUSES) + 1
    receiver.answers.clear()
    with bench.sessions() as session:
        send_again(session, session.get(Webhook, row.webhook_id), row.id)
    send_due(place)
    (row,) = all_messages(bench)
    assert (row.state, row.status, row.error, row.tries) == (RunState.SUCCEEDED, 200, None, 1)
    assert len({each.headers["webhook-id"] for each in receiver.got}) == 1


def test_a_redirect_is_not_followed_and_said(bench, place, receiver):
    message(bench, hook(bench, f"{receiver.url}/hook"))
    receiver.answers, receiver.location = [307], f"{receiver.url}/elsewhere"
    send_due(place)
    assert [each.path for each in receiver.got] == ["/hook"]
    assert all_messages(bench)[0].error == (
        "127.0.0.1 answered with a redirect (307), which is not followed. Enter where it leads."
    )


def test_a_slow_receiver_is_left_and_holds_up_no_other(bench, place, receiver, monkeypatch):
    monkeypatch.setattr(webhooks, "post", lambda *given: real(*given, seconds=0.5))
    held = threading.Event()
    with receiving() as slow:
        slow.slow = lambda handler: held.wait()
        message(bench, hook(bench, slow.url))
        quick = hook(bench, receiver.url)
        for _ in range(3):
            message(bench, quick)
        send_due(place)
        held.set()
    assert len(receiver.got) == 3
    errors = [each.error for each in all_messages(bench) if each.error]
    assert errors == ["127.0.0.1 did not answer within 0.5 seconds."]


def test_a_webhook_that_is_deleted_as_a_run_ends_spoils_no_run(bench, receiver):
    """The deletion is under way when the end is written, and done before that is committed."""
    webhook, other, run_id = hook(bench, receiver.url), hook(bench, receiver.url), bench.run(DONE)

    def end():
        with writing(bench.sessions) as session:
            run = session.get(Run, run_id)
            run.state, run.finished_at = RunState.SUCCEEDED, now()

    with writing(bench.sessions) as session:
        session.delete(session.get(Webhook, webhook.id))
        session.flush()
        ending = threading.Thread(target=end)
        ending.start()
        ending.join(1)
        assert ending.is_alive()
    ending.join(PATIENCE_SECONDS)
    assert bench.get(Run, run_id).state is RunState.SUCCEEDED
    assert [each.webhook_id for each in all_messages(bench)] == [other.id]


def test_of_a_study_that_is_cancelled_its_open_runs_count_as_cancelled(bench, receiver):
    hook(bench, receiver.url, events=["study.cancelled"])
    with bench.sessions.begin() as session:
        done, *open_ = [session.get(Run, bench.run(DONE)) for _ in range(3)]
        done.state = RunState.SUCCEEDED
        study = Study(name="s", kind="sweep", checkpoint_id=done.checkpoint_id, question={}, runs=[done, *open_])
        session.add(study)
    bench.jobs.cancel_study(study.id)
    (told,) = [json.loads(each.body)["data"]["runs"] for each in all_messages(bench)]
    assert told == {"cancelled": 2, "succeeded": 1}


def test_one_whose_name_is_gone_can_be_switched_off(bench):
    with bench.sessions.begin() as session:
        row = Webhook(url="https://gone.invalid/", events=list(EVENTS), own_address="http://pare.example")
        session.add(row)
    with bench.sessions() as session:
        row = session.get(Webhook, row.id)
        change_webhook(session, bench.settings, row, WebhookChanges(url=row.url, enabled=False))
        assert not session.get(Webhook, row.id).enabled


real = webhooks.post


def test_many_messages_to_a_slow_receiver_hold_up_no_other_that_comes_later(bench, place, receiver):
    held, messenger = threading.Event(), Messenger(place)
    with receiving() as slow:
        slow.slow = lambda handler: held.wait()
        late = hook(bench, slow.url)
        for _ in range(150):
            message(bench, late)
        messenger.look()
        bench.until(lambda: slow.got)
        message(bench, hook(bench, receiver.url))
        messenger.look()
        bench.until(lambda: receiver.got)
        assert len(slow.got) == 1  # one at a time
        with bench.sessions() as session:
            change_webhook(session, bench.settings, session.get(Webhook, late.id), WebhookChanges(enabled=False))
        held.set()
        messenger.finish()
    assert len(slow.got) == 1


def test_an_address_that_has_become_a_private_one_is_not_called(bench, place, receiver):
    message(bench, hook(bench, receiver.url))
    place.settings = bench.settings.model_copy(update={"webhook_networks": ""})
    send_due(place)
    assert receiver.got == []
    (row,) = all_messages(bench)
    assert "127.0.0.1 is not a public address" in row.error
    assert (row.state, row.tries) == (RunState.QUEUED, 1)
    elsewhere = WebhookChanges(url=f"{receiver.url}/b")
    with bench.sessions() as session, pytest.raises(AddressRefused, match="not a public address"):
        change_webhook(session, place.settings, session.get(Webhook, row.webhook_id), elsewhere)


def test_two_workers_send_a_message_once(bench, place, receiver):
    ids = [message(bench, hook(bench, receiver.url)) for _ in range(4)]
    both = [threading.Thread(target=send_due, args=[place]) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert sorted(each.headers["webhook-id"] for each in receiver.got) == sorted(ids)


def test_one_that_is_switched_off_is_sent_nothing_not_even_what_waited(bench, place, receiver):
    webhook = hook(bench, receiver.url)
    message(bench, webhook)
    with bench.sessions() as session:
        change_webhook(session, bench.settings, session.get(Webhook, webhook.id), WebhookChanges(enabled=False))
    send_due(place)
    bench.jobs.cancel_run(bench.run(DONE))
    send_due(place)
    assert receiver.got == []
    (row,) = all_messages(bench)
    assert (row.state, row.error) == (RunState.FAILED, "The webhook was switched off before this was sent.")


def test_old_messages_are_forgotten_but_none_that_waits(bench, place, receiver):
    webhook, old = hook(bench, receiver.url), now() - timedelta(days=31)
    waits = message(bench, webhook, created_at=old)
    message(bench, webhook, created_at=old, state=RunState.SUCCEEDED)
    recent = message(bench, webhook, state=RunState.FAILED)
    forget_old(place)
    assert {each.id for each in all_messages(bench)} == {waits, recent}


def test_a_study_of_many_that_is_cancelled_tells_of_each_run(bench, place, receiver):
    hook(bench, receiver.url, events=["run.cancelled"])
    checkpoint = bench.checkpoint()
    ids = [bench.run(DONE, checkpoint, queue=False) for _ in range(20)]
    for run_id in ids:
        bench.jobs.cancel_run(run_id)
    send_due(place)
    assert sorted(each.json["data"]["id"] for each in receiver.got) == sorted(ids)
    with bench.sessions() as session:
        assert json.loads(all_messages(bench)[0].body)["data"]["state"] == session.get(Run, ids[0]).state

"""What holds for every page: it answers, loads nothing from elsewhere, runs nothing inline, and escapes names."""

import pytest

from tests.web.views.page import Page
from tests.web.views.seeded import seed_checkpoint, seed_dataset, seed_run
from tests.web.views.seeded_profile import seed_profile
from tests.web.views.seeded_studies import seed_study
from webapp.samples import CHECKPOINT, digest_of
from webapp.store.models import Checkpoint, Run, RunState, UploadState, Webhook, WebhookDelivery

HOSTILE = "<script>alert(1)</script>\"'.pt"

EMPTY = {
    "/": "No runs yet",
    "/checkpoints": "No checkpoints yet",
    "/checkpoints/new": "Drop a file or a folder here",
    "/datasets": "No datasets yet",
    "/datasets/new": "Drop a file here",
    "/runs": "No runs yet",
    "/runs?state=failed": "No run matches",
    "/runs/new": "No checkpoint is ready",
    "/techniques": "Magnitude pruning",
    "/studies": "No studies yet",
    "/webhooks": "An address that is told when runs and studies end",
    "/compare": "No run to compare yet",
    "/deployments": "No deployments yet",
}
WITH_A_NEXT_STEP = ("/", "/checkpoints", "/datasets", "/runs", "/runs/new", "/studies", "/compare", "/deployments")


@pytest.fixture
def full(session, files, tmp_path) -> list[str]:
    """One of everything, each with a name that is an attack. Returns the addresses of all pages."""
    checkpoint = seed_checkpoint(session, HOSTILE)
    dataset = seed_dataset(session, HOSTILE)
    done = seed_run(session, files, tmp_path, checkpoint, dataset, name=HOSTILE)
    refused = Checkpoint(
        name=HOSTILE,
        filename=HOSTILE,
        size_bytes=1,
        digest="0" * 64,
        state=UploadState.REFUSED,
        reason={"message": HOSTILE},
    )
    inspecting = Checkpoint(name=HOSTILE, filename=HOSTILE, size_bytes=1, digest="0" * 64)
    live = Run(name=HOSTILE, checkpoint_id=checkpoint.id, recipe=done.recipe, state=RunState.RUNNING, message=HOSTILE)
    failed = Run(
        name=HOSTILE, checkpoint_id=checkpoint.id, recipe=done.recipe, state=RunState.FAILED, error={"message": HOSTILE}
    )
    session.add_all([refused, inspecting, live, failed])
    session.commit()
    webhook = Webhook(url=f"https://a.example/{HOSTILE}", events=["run.failed"], own_address=HOSTILE)
    session.add(webhook)
    session.flush()
    told = {"subject": HOSTILE, "body": HOSTILE, "error": HOSTILE, "status": 500, "tries": 1}
    session.add(WebhookDelivery(webhook_id=webhook.id, event="run.failed", **told))
    session.commit()
    studies = [seed_study(session, kind, HOSTILE, ended) for kind in ("race", "smallest") for ended in (True, False)]
    shapes = {HOSTILE: (48, 64), f"{HOSTILE}2": (64, 48)}
    profiles = [seed_profile(session, shapes, dataset, HOSTILE)]
    for state in (RunState.RUNNING, RunState.FAILED):
        error = {"message": HOSTILE} if state is RunState.FAILED else None
        told = {"state": state, "facts": None, "message": HOSTILE, "error": error}
        profiles.append(seed_profile(session, shapes, dataset, HOSTILE, **told))
    return [
        f"/webhooks/{webhook.id}",
        *(f"/studies/{study.id}" for study in studies),
        f"/studies/new?profile={studies[0].profile_id}",
        *(address for address in EMPTY if "?" not in address),
        *(f"/checkpoints/{row.id}" for row in (checkpoint, refused, inspecting)),
        f"/checkpoints/{checkpoint.id}/fit",
        *(f"/checkpoints/{row.checkpoint_id}/fit" for row in profiles),
        f"/checkpoints/{profiles[0].checkpoint_id}/fit?new=1",
        f"/datasets/{dataset.id}",
        *(f"/runs/{row.id}" for row in (done, live, failed)),
        f"/runs/{done.id}/receipt",
        f"/runs/{done.id}/blame",
        f"/runs/{done.id}/samples",
        f"/runs/{done.id}/prompts",
        f"/compare/samples?run={done.id}",
        f"/runs/new?checkpoint={checkpoint.id}",
        f"/runs/new?fork={done.id}",
        f"/compare?run={done.id}",
        "/nowhere",
    ]


@pytest.mark.parametrize(("address", "sentence"), EMPTY.items())
def test_an_empty_pare_says_what_to_do(client, address, sentence):
    answer = client.get(address)
    assert answer.status_code == 200
    assert sentence in Page(answer.text).text


@pytest.mark.parametrize("address", WITH_A_NEXT_STEP)
def test_where_there_is_nothing_the_sample_is_one_click_away(client, address):
    page = Page(client.get(address).text)
    assert page.of("form", action="/sample", method="post")
    assert "Use the sample" in page.text


@pytest.mark.parametrize("address", ["/", "/runs", "/compare", "/deployments"])
def test_the_next_step_is_what_has_not_been_done_yet(client, session, address):
    """With a checkpoint that is being read, one that is ready, a run under way, and one that has succeeded."""
    checkpoint = seed_checkpoint(session, "reader.pt")
    checkpoint.state = UploadState.INSPECTING
    session.commit()
    assert Page(client.get(address).text).of("a", href=f"/checkpoints/{checkpoint.id}", class_="btn btn-primary")
    checkpoint.state = UploadState.READY
    session.commit()
    page = Page(client.get(address).text)
    assert page.of("a", href=f"/checkpoints/{checkpoint.id}/fit", class_="btn btn-primary")
    assert "Make reader.pt smaller" in page.text
    recipe = {"version": 2, "steps": [{"technique": "cast", "settings": {"dtype": "float16"}}]}
    run = Run(name="Half", checkpoint_id=checkpoint.id, recipe=recipe, state=RunState.RUNNING)
    session.add(run)
    session.commit()
    page = Page(client.get(address).text)
    if address == "/deployments":
        assert page.of("a", href=f"/runs/{run.id}", class_="btn btn-primary")
        run.state = RunState.SUCCEEDED
        session.commit()
        assert Page(client.get(address).text).of("a", href="/runs?state=succeeded", class_="btn btn-primary")
    else:
        assert page.of("a", href=f"/runs/{run.id}")  # in a list, where nothing needs to be explained any more


def test_pages_of_one_thing_that_have_nothing_to_show_say_what_is_missing_and_lead_on(client, session, run):
    run.artifacts = [each for each in run.artifacts if each.format != "samples"]
    session.commit()
    for address, words, link in (
        (f"/runs/{run.id}/samples", "the worst first", f"/runs/new?fork={run.id}"),
        (f"/compare/samples?run={run.id}", "which run gets which sample wrong", f"/compare?run={run.id}#picker"),
        (f"/runs/{run.id}/prompts", "writes no text", f"/runs/{run.id}"),
        ("/compare", "There is one run so far", f"/runs/new?fork={run.id}"),
        (f"/runs/new?checkpoint={run.checkpoint_id}", "Dataset", "/runs"),
    ):
        page = Page(client.get(address).text)
        assert words in page.text, address
        assert page.of("a", href=link), address
    sample = seed_checkpoint(session, "sample.safetensors")
    assert "Use the sample's digits" not in client.get(f"/checkpoints/{sample.id}/fit").text
    sample.digest = digest_of(CHECKPOINT)
    session.commit()
    client.post(f"/runs/{run.id}/delete")
    client.post(f"/datasets/{run.dataset_id}/delete")
    page = Page(client.get(f"/checkpoints/{sample.id}/fit").text)
    assert "Use the sample's digits" in page.text
    assert page.of("form", action="/sample", method="post")
    assert "There is none yet" in Page(client.get("/runs/new").text).text


def test_pages_load_nothing_from_elsewhere_and_run_nothing_inline(client, full):
    for address in full:
        page = Page(client.get(address).text)
        for tag, own in page.elements:
            assert not [name for name in own if name.startswith("on")], (address, tag, own)
            for loaded in ("src", "data", "poster", "action", "formaction"):
                assert own.get(loaded, "/").startswith("/"), (address, tag, own)
            if tag == "link":
                assert own["href"].startswith("/"), (address, own)
            if tag == "script":
                assert "src" in own or own.get("type") == "application/json", (address, own)


def test_names_are_text_wherever_they_are_shown(client, full):
    for address in full:
        answer = client.get(address)
        assert "<script>alert" not in answer.text, address
        assert not Page(answer.text).of("script", type="")


def test_inline_styles_are_allowed_on_pages_with_charts_only(client, full):
    for address in full:
        answer = client.get(address)
        charts = "data-figure" in answer.text
        assert ("'unsafe-inline'" in answer.headers["Content-Security-Policy"]) == charts, address
        if not charts:
            page = Page(answer.text)
            assert not [own for _, own in page.elements if "style" in own], address
            assert not page.of("style"), address


def test_every_page_has_one_heading_a_title_and_a_way_past_the_menu(client, full):
    for address in full:
        page = Page(client.get(address).text)
        assert len(page.of("h1")) == 1, address
        assert page.of("a", href="#content"), address
        assert page.of("main", id="content"), address
        assert page.of("html", lang="en"), address


def test_forms_that_write_carry_a_token(client, full):
    for address in full:
        page = Page(client.get(address).text)
        writing = page.of("form", method="post")
        assert len(page.of("input", name="csrf_token")) == len(writing), address

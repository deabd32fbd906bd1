"""The tour follows what is there: each step is left by doing it."""

import re

import pytest

from tests.web.views.page import Page
from tests.web.views.seeded import seed_checkpoint, seed_dataset, seed_run
from tests.web.views.seeded_studies import seed_study
from webapp.samples import CHECKPOINT, digest_of
from webapp.store.models import Checkpoint, Profile, Run, RunState, UploadState


@pytest.fixture
def sample(session) -> Checkpoint:
    made = seed_checkpoint(session, CHECKPOINT.name)
    made.digest = digest_of(CHECKPOINT)
    session.commit()
    return made


def shown(client, address: str = "/") -> str:
    """The panel's text; "" without one."""
    text = Page(client.get(address).text).text
    found = re.search(r"Step \d of 5 .*?(Leave|Finish) the tour", text)
    return found[0] if found else ""


def note(client, **what) -> None:
    """As starting a run does."""
    with client.session_transaction() as session:
        session["tour"] = {"read": 2, "left": False} | what


def test_it_begins_with_the_sample_which_it_adds(client, session):
    assert shown(client) == ""
    begun = client.post("/tour").location
    (sample,) = session.query(Checkpoint)
    assert begun == f"/checkpoints/{sample.id}#tour"
    assert "Step 1 of 5 Look at the sample" in shown(client)
    assert "is reading the sample" in shown(client, begun)
    sample.state, sample.reason = UploadState.REFUSED, {"message": "Damaged."}
    session.commit()
    assert "could not be read" in shown(client, begun)


def test_each_step_is_left_by_doing_it(client, session, files, tmp_path, sample):
    begun = client.post("/tour").location
    assert "Next: say how small" in shown(client, begun)
    assert "Open the sample" in shown(client)
    assert client.post("/tour/next").location == f"/checkpoints/{sample.id}/fit#tour"
    assert "Press Profile it" in shown(client)
    profile = Profile(checkpoint_id=sample.id, state=RunState.RUNNING, seed=0, key="k")
    session.add(profile)
    session.commit()
    assert "The page goes on by itself" in shown(client)
    profile.state = RunState.CANCELLED
    session.commit()
    assert "Press Retry" in shown(client)
    profile.state = RunState.SUCCEEDED
    session.commit()
    assert "Choose a size with the slider" in shown(client)
    run = seed_run(session, files, tmp_path, sample, seed_dataset(session), name="Small")
    run.state = RunState.RUNNING
    session.commit()
    note(client, run=run.id)
    assert "Step 3 of 5 Watch it being made" in shown(client)
    assert "Watch it" in shown(client)
    run.state = RunState.FAILED
    session.commit()
    assert "Step 2 of 5" in shown(client)
    assert "did not succeed" in shown(client)
    run.state = RunState.SUCCEEDED
    session.commit()
    assert "Step 4 of 5 Read the receipt" in shown(client)
    assert client.post("/tour/next").location == f"/runs/{run.id}#tour"
    assert "Step 5 of 5 Take it with you" in shown(client, f"/runs/{run.id}")
    assert client.post("/tour/next").location == "/"
    assert shown(client) == ""


def test_a_study_is_watched_to_its_end_and_its_winner_is_gone_on_with(client, session, sample):
    study = seed_study(session)
    study.state = RunState.RUNNING
    session.commit()
    client.post("/tour")
    note(client, study=study.id)
    assert "Step 3 of 5" in shown(client)
    second = study.runs[1]
    study.state, study.conclusion = RunState.SUCCEEDED, {"winner": second.id, "sentence": "It wins."}
    session.commit()
    assert f'href="/runs/{second.id}/receipt#tour"' in client.get("/").text
    client.post(f"/studies/{study.id}/delete")
    assert "Step 2 of 5" in shown(client)


def test_what_is_started_on_the_tour_is_what_it_goes_on_with(client, session, sample):
    recipe = '{"version": 2, "steps": [{"technique": "cast"}]}'
    asked = {"checkpoint": sample.id, "dataset": "", "training_dataset": "", "seed": "0", "recipe": recipe}
    client.post("/runs/new", data=asked)
    client.post("/tour")
    client.post("/tour/next")
    assert "Step 2 of 5" in shown(client)  # a run from before the tour is none of it
    other = seed_checkpoint(session, "other.pt")
    client.post("/runs/new", data=asked | {"checkpoint": other.id})
    assert "Step 2 of 5" in shown(client)
    address = client.post("/runs/new", data=asked).location
    assert "Step 3 of 5" in shown(client)
    assert f'href="{address}#tour"' in client.get("/").text
    assert session.query(Run).count() == 3


@pytest.mark.parametrize(
    ("number", "read", "state"),
    [
        (1, 1, None),
        (2, 2, None),
        (3, 2, RunState.QUEUED),
        (4, 2, RunState.SUCCEEDED),
        (5, 5, RunState.SUCCEEDED),
    ],
)
def test_it_is_left_at_any_step_and_resumed_there(client, session, files, tmp_path, sample, number, read, state):
    run = seed_run(session, files, tmp_path, sample, seed_dataset(session)) if state else None
    if run:
        run.state = state
        session.commit()
    note(client, read=read, **({"run": run.id} if run else {}))
    assert f"Step {number} of 5" in shown(client)
    assert client.post("/tour/leave").location == "/"
    for address in (
        "/",
        f"/checkpoints/{sample.id}",
        f"/checkpoints/{sample.id}/fit",
        *([f"/runs/{run.id}"] if run else []),
    ):
        assert shown(client, address) == ""
    assert f"Resume the tour at step {number}" in Page(client.get("/").text).text
    client.post("/tour/next")  # of a page that was open in another tab
    assert f"Resume the tour at step {number}" in Page(client.get("/").text).text
    resumed = client.post("/tour").location
    assert f"Step {number} of 5" in shown(client, resumed)


def test_it_is_nowhere_for_whom_did_not_start_it_nor_where_things_went_wrong(client, app, sample):
    client.post("/tour")
    assert shown(client, "/nowhere") == ""
    assert shown(app.test_client()) == ""


def test_without_the_sample_it_is_offered_anew(client, session, sample):
    client.post("/tour")
    session.delete(sample)
    session.commit()
    assert shown(client) == ""
    assert "Take the tour" in Page(client.get("/").text).text

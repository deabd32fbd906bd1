"""A run may name the checkpoint that teaches: by the API and the form alike, and only one that can."""

import json

import pytest

from tests.web.views.api_errors import error_of
from tests.web.views.page import Page
from tests.web.views.seeded import seed_checkpoint, seed_dataset
from webapp.store.models import Run, RunState

DISTIL = {"version": 1, "steps": [{"technique": "distillation", "settings": {"epochs": 1}}]}
PRUNE = {"version": 1, "steps": [{"technique": "magnitude_pruning", "settings": {"sparsity": 0.5}}]}


@pytest.fixture
def asked(session):
    """A body for POST /runs with a teacher of its own."""
    student, teacher = seed_checkpoint(session), seed_checkpoint(session, "teacher.safetensors")
    return {
        "checkpoint_id": student.id,
        "dataset_id": seed_dataset(session).id,
        "teacher_checkpoint_id": teacher.id,
        "recipe": DISTIL,
    }


def test_the_api_takes_it_a_fork_keeps_it_and_the_page_shows_it(client, session, asked):
    made = client.post("/api/v1/runs", json=asked)
    assert made.status_code == 202, made.text
    assert made.json["teacher_checkpoint_id"] == asked["teacher_checkpoint_id"]
    forked = client.post(f"/api/v1/runs/{made.json['id']}/fork", json={"seed": 1})
    assert forked.json["teacher_checkpoint_id"] == asked["teacher_checkpoint_id"]
    without = client.post(f"/api/v1/runs/{made.json['id']}/fork", json={"teacher_checkpoint_id": None})
    assert without.json["teacher_checkpoint_id"] is None
    page = Page(client.get(f"/runs/{made.json['id']}").text)
    assert page.of("a", href=f"/checkpoints/{asked['teacher_checkpoint_id']}")
    fork = Page(client.get(f"/runs/new?fork={made.json['id']}").text)
    chosen = [own for own in fork.of("option", value=asked["teacher_checkpoint_id"]) if "selected" in own]
    assert len(chosen) == 1


def test_the_form_takes_it(client, session, asked):
    form = {
        "checkpoint": asked["checkpoint_id"],
        "dataset": asked["dataset_id"],
        "training_dataset": "",
        "teacher_checkpoint": asked["teacher_checkpoint_id"],
        "recipe": json.dumps(DISTIL),
    }
    answer = client.post("/runs/new", data=form)
    assert answer.status_code == 302, answer.text
    made = session.get(Run, answer.headers["Location"].rsplit("/", 1)[1])
    assert made.teacher_checkpoint_id == asked["teacher_checkpoint_id"]


def test_one_that_cannot_teach_is_refused_with_the_reason(client, session, asked):
    def refusal(status=422, **changed):
        error = error_of(client.post("/api/v1/runs", json=asked | changed), status)
        assert error["field"] == "teacher_checkpoint_id"
        return error["message"]

    assert "no checkpoint" in refusal(404, teacher_checkpoint_id="nowhere")
    assert "No step of the recipe learns from a teacher" in refusal(recipe=PRUNE)
    other = seed_checkpoint(session, "other.safetensors")
    architecture = other.facts["architecture"] | {"config": {"classes": 7}}
    other.facts = other.facts | {"architecture": architecture}
    bare = seed_checkpoint(session, "bare.safetensors")
    bare.facts = bare.facts | {"architecture": None, "weights_only_because": "Its shapes are of no known kind."}
    session.commit()
    assert "has 7 classes" in refusal(teacher_checkpoint_id=other.id)
    assert "of no known kind" in refusal(teacher_checkpoint_id=bare.id)


def test_a_teacher_is_kept_as_long_as_its_runs_are(client, session, asked):
    run_id = client.post("/api/v1/runs", json=asked).json["id"]
    error = error_of(client.delete(f"/api/v1/checkpoints/{asked['teacher_checkpoint_id']}"), 409)
    assert "is used by the run" in error["message"]
    run = session.get(Run, run_id)
    run.state = RunState.CANCELLED
    session.commit()
    assert client.delete(f"/api/v1/runs/{run_id}").status_code == 204
    assert client.delete(f"/api/v1/checkpoints/{asked['teacher_checkpoint_id']}").status_code == 204

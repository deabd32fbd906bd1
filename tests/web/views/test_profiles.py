"""Profiles by the API: asked for once, found again, listed with what they know."""

import pytest

from tests.web.views.api_errors import error_of
from tests.web.views.seeded import seed_checkpoint, seed_dataset
from webapp.store.models import Profile, RunState

OPTIONS = [
    {"label": "kept", "family": "Kept", "bytes": 8192, "loss": 0.0},
    {
        "label": "4 bits",
        "family": "Quantization",
        "bytes": 1024,
        "loss": 0.25,
        "kind": "quantized",
        "steps": [{"technique": "gptq", "settings": {"bits": 4}}],
    },
]
MEASURED = {"predicted": {"Quantization": 0.25}, "loss": 0.3, "size_bytes": 3000}
FACTS = {
    "unit": "nats",
    "samples": 512,
    "layers": [
        {"name": "layers.0", "layers": ["layers.0"], "kind": "linear", "params": 2048, "options": OPTIONS},
    ],
    "measured": [MEASURED],
    "seconds": 1.5,
}


@pytest.fixture
def ids(session):
    return {"checkpoint_id": seed_checkpoint(session).id, "dataset_id": seed_dataset(session).id}


@pytest.fixture
def ask(client, ids):
    def post(status=202, **changed):
        answer = client.post("/api/v1/profiles", json=ids | changed)
        assert answer.status_code == status, answer.text
        return answer

    return post


@pytest.fixture
def finished(ask, session):
    profile = session.get(Profile, ask().json["id"])
    profile.facts, profile.state = FACTS, RunState.SUCCEEDED
    session.commit()
    return profile


def test_what_was_asked_for_before_is_not_computed_again(client, ask, session):
    first = ask().json
    assert (first["state"], first["url"]) == ("queued", f"/api/v1/profiles/{first['id']}")
    assert ask().json["id"] == first["id"]
    assert ask(seed=1).json["id"] != first["id"]
    client.post(f"/api/v1/profiles/{first['id']}/cancel")
    again = ask().json
    assert again["id"] != first["id"]
    session.get(Profile, again["id"]).state = RunState.FAILED
    session.commit()
    assert ask().json["id"] not in (first["id"], again["id"])


def test_the_same_content_uploaded_again_has_the_same_profile_at_once(ask, finished, session):
    twin = seed_checkpoint(session, "twin.safetensors")
    found = ask(checkpoint_id=twin.id).json
    assert found["id"] != finished.id
    assert (found["state"], found["checkpoint_id"], found["unit"]) == ("succeeded", twin.id, "nats")
    twin.facts = twin.facts | {"architecture": twin.facts["architecture"] | {"task": "embedding"}}
    session.commit()
    assert ask(checkpoint_id=twin.id).json["state"] == "queued"


def test_what_a_profile_found_is_told_and_its_options_when_asked(client, finished, session):
    finished.measured = [MEASURED | {"run_id": "r", "loss": 0.4}]
    session.commit()
    answer = client.get(f"/api/v1/profiles/{finished.id}").json
    assert {name: answer[name] for name in ("unit", "samples", "seconds", "layers", "cuts")} == {
        "unit": "nats",
        "samples": 512,
        "seconds": 1.5,
        "layers": None,
        "cuts": None,
    }
    assert [(each["loss"], each["run_id"]) for each in answer["measured"]] == [(0.3, None), (0.4, "r")]
    layers = client.get(f"/api/v1/profiles/{finished.id}?layers=1").json["layers"]
    assert [option["label"] for option in layers[0]["options"]] == ["kept", "4 bits"]
    assert layers[0]["options"][1]["steps"] == [{"technique": "gptq", "settings": {"bits": 4}}]


def test_the_profiles_of_a_checkpoint_are_listed(client, ask, session):
    ids = [ask(seed=seed).json["id"] for seed in range(3)]
    other = ask(checkpoint_id=seed_checkpoint(session, "other").id).json
    checkpoint = session.get(Profile, ids[0]).checkpoint_id
    items = client.get(f"/api/v1/profiles?checkpoint={checkpoint}&limit=2").json
    assert [item["id"] for item in items["items"]] == ids[:0:-1]
    assert len(client.get("/api/v1/profiles").json["items"]) == 4
    assert other["state"] == "queued"


def test_it_is_cancelled_and_retried(client, ask):
    address = ask().json["url"]
    error_of(client.post(f"{address}/retry"), 409)
    assert client.post(f"{address}/cancel").json["state"] == "cancelled"
    assert "already ended" in error_of(client.post(f"{address}/cancel"), 409)["message"]
    again = client.post(f"{address}/retry")
    assert (again.status_code, again.json["state"], again.json["attempt"]) == (202, "queued", 2)


def test_a_checkpoint_and_data_that_give_no_profile_are_told_why(client, ask, ids, session):
    assert error_of(ask(404, checkpoint_id="nothing"), 404)["field"] == "checkpoint_id"
    error = error_of(ask(422, dataset_id=None), 422)
    assert (error["code"], error["field"]) == ("profile_unfit", "dataset_id")
    assert error_of(ask(422, dataset_id=seed_dataset(session, "wide", (65,)).id), 422)["code"] == "dataset_unfit"
    all_of_it = seed_dataset(session, "all")
    all_of_it.facts = all_of_it.facts | {"training": None}
    session.commit()
    assert "all has no training split" in error_of(ask(422, dataset_id=all_of_it.id), 422)["message"]
    assert ask(dataset_id=all_of_it.id, training_dataset_id=ids["dataset_id"]).json["state"] == "queued"
    bare = seed_checkpoint(session, "bare")
    bare.facts = bare.facts | {"architecture": None, "weights_only_because": "its tensors fit no model"}
    session.commit()
    error = error_of(ask(422, checkpoint_id=bare.id), 422)
    assert (error["field"], "its tensors fit no model" in error["message"]) == ("checkpoint_id", True)

"""A run on images: the architecture's own preprocessing or what was asked, stored whole, and shown before it runs."""

import json

import numpy as np
import pytest

from tests.web.views.page import Page
from tests.web.views.seeded import seed_checkpoint, seed_dataset
from tests.web.views.test_run_builder import PRUNE, form
from webapp.store.models import Run

SAMPLES = [{"label": n % 2, "width": 20, "height": 10} for n in range(4)]


@pytest.fixture
def checkpoint(session):
    checkpoint = seed_checkpoint(session, "cnn.safetensors")
    spec = checkpoint.facts["architecture"] | {"family": "cnn", "inputs": {"shape": [3, 8, 8]}}
    checkpoint.facts = checkpoint.facts | {"architecture": spec}
    session.commit()
    return checkpoint


@pytest.fixture
def images(session, files, tmp_path):
    """Four images of 20 × 10, every second all black."""
    dataset = seed_dataset(session, "pets.zip")
    (tmp_path / "shown").mkdir()
    np.savez(tmp_path / "shown/shown.npz", *(np.full((10, 20, 3), 200 * (n % 2), np.uint8) for n in range(4)))
    parts = {"evaluation": {"n": 4, "digest": "b" * 64, "per_class": [2, 2]}, "training": None}
    dataset.facts = {"kind": "images", "split": "all", "labels": ["cat", "<dog>"], "samples": SAMPLES, **parts}
    dataset.files = files.put_folder(tmp_path / "shown")
    session.commit()
    return dataset


def preview(client, checkpoint, dataset, **asked):
    query = {"checkpoint": checkpoint.id, "dataset": dataset.id}
    if asked:
        query["preprocessing"] = json.dumps(asked)
    return client.get("/runs/new/preprocessing", query_string=query).json


def test_samples_are_shown_as_the_model_will_see_them(client, checkpoint, images):
    told = preview(client, checkpoint, images)
    assert (told["defaults"]["height"], told["defaults"]["resize"], told["error"]) == (8, "stretch", None)
    assert [sample["label"] for sample in told["samples"]] == ["cat", "<dog>"] * 2
    assert [round(sample["high"], 3) for sample in told["samples"]] == [0, 0.784] * 2
    changed = preview(client, checkpoint, images, mean=1, resize="pad")["samples"]
    assert [(round(s["low"], 3), round(s["high"], 3)) for s in changed] == [(-1, -1), (-1, -0.216)] * 2
    assert changed[1]["image"].startswith("data:image/png;base64,")


def test_what_cannot_be_shown_gets_its_sentence(client, checkpoint, images):
    assert preview(client, checkpoint, images, std=0)["error"].endswith("cannot be 0.")
    assert preview(client, checkpoint, images, height=9)["error"].endswith("takes 3 × 8 × 8.")
    for text in ("{", "[]", "[" * 5000):
        query = {"checkpoint": checkpoint.id, "dataset": images.id, "preprocessing": text}
        assert "not a JSON object" in client.get("/runs/new/preprocessing", query_string=query).json["error"]


def test_there_is_none_without_images(client, session, checkpoint, images):
    assert preview(client, checkpoint, seed_dataset(session)) == {"defaults": None}
    assert preview(client, seed_checkpoint(session), images)["defaults"] is None


def test_a_run_keeps_it_whole_and_a_fork_starts_with_it(client, session, checkpoint, images):
    asked = json.dumps({"mean": "0.5, 0.25, 0", "std": 0.5})
    answer = client.post("/runs/new", data=form(checkpoint, dataset=images.id, preprocessing=asked))
    assert answer.status_code == 302
    run = session.get(Run, answer.location.rsplit("/", 1)[1])
    assert (run.preprocessing["mean"], run.preprocessing["std"], run.preprocessing["height"]) == (
        [0.5, 0.25, 0],
        [0.5],
        8,
    )
    page = Page(client.get(f"/runs/new?fork={run.id}").text)
    assert json.loads(page.of("input", name="preprocessing")[0]["value"]) == run.preprocessing
    fork = client.post(f"/api/v1/runs/{run.id}/fork", json={"seed": 3})
    assert fork.json["preprocessing"] == run.preprocessing


def test_the_api_refuses_what_does_not_fit(client, session, checkpoint, images):
    def refused(dataset_id, **asked):
        body = {"checkpoint_id": checkpoint.id, "dataset_id": dataset_id, "recipe": PRUNE, "preprocessing": asked}
        answer = client.post("/api/v1/runs", json=body)
        assert answer.status_code == 422
        return answer.json["error"]

    error = refused(images.id, resize="squash")
    assert (error["code"], error["field"]) == ("preprocessing_invalid", "preprocessing.resize")
    assert "takes 3 × 8 × 8" in refused(images.id, width=4)["message"]
    assert "no dataset of the run holds any" in refused(None, width=4)["message"]


def test_a_fork_on_another_dataset_lets_it_go(client, session, checkpoint, images):
    body = {"checkpoint_id": checkpoint.id, "dataset_id": images.id, "recipe": PRUNE, "preprocessing": {"mean": 0.5}}
    run = client.post("/api/v1/runs", json=body).json
    fork = client.post(f"/api/v1/runs/{run['id']}/fork", json={"dataset_id": None})
    assert fork.json["preprocessing"] is None


def test_the_page_of_a_dataset_shows_its_images_and_classes(client, images):
    page = Page(client.get(f"/datasets/{images.id}").text)
    assert len([own for own in page.of("img") if own["src"].startswith("data:image/png")]) == 4
    assert "<dog>" in page.text
    assert "20 × 10" in page.text


def test_the_page_of_a_dataset_shows_questions_with_the_right_choice_marked(client, session):
    dataset = seed_dataset(session, "q.jsonl")
    told = {"context": "Two and two?", "choices": ["three", "four <b>"], "answer": 1}
    parts = {"evaluation": {"n": 1, "digest": "b" * 64}, "training": None, "labels": None, "sample_shape": None}
    dataset.facts = dataset.facts | {"kind": "multiple-choice", "samples": [told], "split": "all"} | parts
    session.commit()
    text = Page(client.get(f"/datasets/{dataset.id}").text).text
    assert "The right choice: four <b>" in text.replace("\n", " ").replace("  ", " ")

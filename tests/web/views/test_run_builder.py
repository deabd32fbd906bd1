import json
import re

import pytest

from tests.web.views.page import Page
from tests.web.views.seeded import seed_checkpoint, seed_dataset
from webapp.engine.exporters import exporters
from webapp.engine.techniques import techniques
from webapp.store.models import Run

PRUNE = {"version": 1, "steps": [{"technique": "magnitude_pruning", "settings": {"sparsity": 0.5}}]}


@pytest.fixture
def checkpoint(session):
    return seed_checkpoint(session)


@pytest.fixture
def dataset(session):
    return seed_dataset(session)


def form(checkpoint, **more):
    return {
        "checkpoint": checkpoint.id,
        "dataset": "",
        "training_dataset": "",
        "seed": "0",
        "recipe": json.dumps(PRUNE),
    } | more


def recipe_of(page):
    return json.loads(page.of("input", name="recipe")[0]["value"])


def test_there_is_a_card_for_every_technique_with_a_field_for_every_setting(client, checkpoint):
    page = Page(client.get("/runs/new").text)
    for name, technique in techniques().items():
        assert page.of("template", id=f"card-{name}")
        assert page.of("button", data_add=name)
        for setting in technique.Settings.model_fields:
            assert [own for _, own in page.elements if own.get("data-setting") == setting], (name, setting)


def test_a_card_has_rows_for_what_may_differ_by_layer(client, checkpoint):
    """A template in the card's, whose choices begin with what the step has."""
    text = client.get("/runs/new").text
    cards = re.findall(r'<template id="card-(\w+)">(.*?)</li>\s*</template>', text, re.DOTALL)
    assert [name for name, _ in cards] == list(techniques())
    for name, card in cards:
        assert re.findall(r'data-instead="(\w+)"', card) == techniques()[name].Settings.per_layer()
        assert ("data-add-override" in card) == bool(techniques()[name].Settings.per_layer())


def test_a_slider_has_the_bounds_of_its_setting(client, checkpoint):
    page = Page(client.get("/runs/new").text)
    number = next(own for own in page.of("input", data_setting="sparsity"))
    assert (number["min"], number["max"], number["value"]) == ("0.0", "0.99", "0.5")
    slider = page.of("input", type="range", aria_label="Sparsity, slider")[0]
    assert (slider["min"], slider["max"], slider["step"]) == ("0.0", "0.99", "0.01")


def test_the_first_dataset_that_fits_is_chosen(client, checkpoint, dataset, session):
    seed_dataset(session, "images.npz", shape=(3, 32, 32))
    page = Page(client.get(f"/runs/new?checkpoint={checkpoint.id}").text)
    assert page.of("option", value=dataset.id)[0].get("selected") is not None
    unfit = next(own for own in page.of("option") if own.get("data-name") == "images.npz")
    assert "disabled" in unfit
    assert "shape" in unfit["title"]


def test_a_recipe_starts_a_run(client, checkpoint, dataset, session):
    answer = client.post("/runs/new", data=form(checkpoint, dataset=dataset.id, name="Half of it", seed="7"))
    assert answer.status_code == 302
    run = session.get(Run, answer.headers["Location"].rsplit("/", 1)[1])
    assert (run.name, run.seed, run.dataset_id, run.state) == ("Half of it", 7, dataset.id, "queued")
    assert run.recipe["steps"][0]["settings"] == {"sparsity": 0.5}


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"recipe": "{"}, "neither YAML nor JSON"),
        ({"recipe": json.dumps({"version": 1, "steps": []})}, "at least 1 item"),
        (
            {"recipe": json.dumps({"version": 1, "steps": [PRUNE["steps"][0] | {"settings": {"sparsity": 1.5}}]})},
            "Step 1, sparsity: input should be less than or equal to 0.99 (it is 1.5)",
        ),
        (
            {
                "recipe": json.dumps(
                    {"version": 1, "steps": [PRUNE["steps"][0] | {"layers": {"include": ["encoder.*"]}}]}
                )
            },
            "'encoder.*' matches no layer",
        ),
        (
            {"recipe": json.dumps({"steps": [PRUNE["steps"][0] | {"overrides": [["layers.*", {"sparsity": 2}]]}]})},
            "Step 1, layers.*, sparsity: input should be less than or equal to 0.99 (it is 2)",
        ),
        ({"seed": "-1"}, "The seed is a whole number"),
        ({"name": "x" * 201}, "at most 200 characters"),
        ({"checkpoint": "gone"}, "Not a valid choice"),
    ],
)
def test_what_is_wrong_is_said_and_all_that_was_typed_is_kept(client, checkpoint, dataset, session, more, sentence):
    given = form(checkpoint, dataset=dataset.id, name="My <name>") | more
    answer = client.post("/runs/new", data=given)
    assert answer.status_code == 422
    page = Page(answer.text)
    assert sentence in page.text
    assert page.of("input", name="name")[0]["value"] == given["name"]
    assert page.of("input", name="recipe")[0]["value"] == given["recipe"]
    assert "selected" in page.of("option", value=dataset.id)[0]
    assert session.query(Run).count() == 0


def test_a_dataset_that_does_not_fit_is_refused_in_the_form(client, checkpoint, session):
    images = seed_dataset(session, "images.npz", shape=(3, 32, 32))
    answer = client.post("/runs/new", data=form(checkpoint, dataset=images.id))
    assert answer.status_code == 422
    assert "images.npz cannot be used" in Page(answer.text).text


def test_a_fork_starts_with_what_the_run_had(client, run):
    page = Page(client.get(f"/runs/new?fork={run.id}").text)
    assert recipe_of(page)["steps"][0]["settings"] == {"sparsity": 0.5}
    assert "selected" in page.of("option", value=run.dataset_id)[0]
    assert page.of("input", name="forked_from")[0]["value"] == run.id


def test_a_fork_keeps_the_order_of_overrides_and_reads_version_1(client, run, session):
    """They come as pairs: an object of JavaScript has names like numbers first."""
    settings = {"bits": 4, "bits_by_layer": "*=3, 2=6, 0=5"}
    run.recipe = {"version": 1, "steps": [{"technique": "gptq", "version": 1, "settings": settings}]}
    session.commit()
    (step,) = recipe_of(Page(client.get(f"/runs/new?fork={run.id}").text))["steps"]
    assert (step["settings"], step["overrides"]) == (
        {"bits": 4},
        [["*", {"bits": 3}], ["2", {"bits": 6}], ["0", {"bits": 5}]],
    )
    answer = client.get(f"/api/v1/runs/{run.id}").json
    assert answer["recipe"]["steps"][0]["overrides"] == dict(step["overrides"])
    assert "overrides:\n    '*':\n      bits: 3\n    '2':" in answer["recipe_yaml"]
    shown = Page(client.get(f"/runs/{run.id}").text).text
    assert "bits_by_layer" not in shown
    assert re.search(r"override\s*2\s*bits\s*6", shown)


def test_a_fork_remembers_where_it_comes_from(client, run, session):
    given = {"checkpoint": run.checkpoint_id, "dataset": "", "training_dataset": "", "recipe": json.dumps(PRUNE)}
    answer = client.post("/runs/new", data=given | {"forked_from": run.id})
    made = session.get(Run, answer.headers["Location"].rsplit("/", 1)[1])
    assert made.forked_from_id == run.id


def test_datasets_that_fit_are_told_for_another_checkpoint(client, checkpoint, dataset, session):
    images = seed_dataset(session, "images.npz", shape=(3, 32, 32))
    told = client.get(f"/runs/new/datasets?checkpoint={checkpoint.id}").json["datasets"]
    assert told[dataset.id] is None
    assert "shape" in told[images.id]


def test_forking_an_unknown_run_is_not_found(client):
    assert client.get("/runs/new?fork=nothinghere2").status_code == 404


def test_a_format_is_chosen_in_the_form_and_the_run_writes_it(client, checkpoint, session):
    page = Page(client.get(f"/runs/new?checkpoint={checkpoint.id}").text)
    choices = [name for name, format_ in exporters().items() if not format_.can.always]
    assert "onnx" in choices
    assert {box["value"] for box in page.of("input", name="exports")} == set(choices)
    client.post("/runs/new", data=form(checkpoint, exports="onnx"))
    assert session.query(Run).one().exports == ["safetensors", "onnx"]


def test_a_checkpoint_or_dataset_that_is_not_there_is_named_and_not_silently_another(client, checkpoint, dataset):
    text = Page(client.get("/runs/new?checkpoint=nothinghere2&dataset=gonegonegone").text).text
    assert "There is no checkpoint nothinghere2. It may have been deleted. Another checkpoint is chosen below." in text
    assert "There is no dataset gonegonegone. It may have been deleted. Another dataset is chosen below." in text
    assert "deleted" not in client.get(f"/runs/new?checkpoint={checkpoint.id}&dataset={dataset.id}").text


def test_data_that_does_not_fit_is_said_at_its_field(client, session, checkpoint):
    other = seed_dataset(session, "other.npz", shape=(3, 32, 32))
    answer = client.post("/runs/new", data=form(checkpoint, dataset=other.id, name="Kept"))
    assert answer.status_code == 422
    page = Page(answer.text)
    (field,) = page.of("select", id="dataset")
    assert field["aria-invalid"] == "true"
    assert "dataset-error" in field["aria-describedby"].split()
    assert page.of("p", id="dataset-error")
    assert page.of("input", id="name")[0]["value"] == "Kept"


@pytest.mark.parametrize("text", ["5", "[1]", "null", "true", '"a"', "", "{}", "[", "- a"])
def test_whatever_is_sent_as_a_recipe_comes_back_with_a_sentence(client, run, text):
    answer = client.post("/runs/new", data={"checkpoint": run.checkpoint_id, "recipe": text, "seed": "0"})
    assert answer.status_code == 422
    assert Page(answer.text).of("div", id="form-error")

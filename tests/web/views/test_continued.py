"""Going on from a run: its page offers it, the form shows its steps, and the API takes a run for a checkpoint."""

import json

import pytest

from tests.web.views.page import Page
from webapp.store.models import Run, RunState

CAST = {"version": 2, "steps": [{"technique": "cast", "settings": {"dtype": "float16"}}]}


def test_the_page_of_a_run_that_succeeded_offers_to_go_on(client, run, session):
    link = f"/runs/new?continue={run.id}"
    assert Page(client.get(f"/runs/{run.id}").text).of("a", href=link)
    run.state = RunState.FAILED
    session.commit()
    assert not Page(client.get(f"/runs/{run.id}").text).of("a", href=link)
    answer = client.get(link)
    assert answer.status_code == 409
    assert "only one that has succeeded can be continued" in Page(answer.text).text


def test_the_form_shows_the_earlier_steps_and_takes_new_ones(client, run, session):
    page = Page(client.get(f"/runs/new?continue={run.id}").text)
    assert "Steps of the run before Fork it to change them Magnitude pruning sparsity 0.5" in " ".join(
        page.text.split()
    )
    assert json.loads(page.of("input", name="recipe")[0]["value"])["steps"] == []
    assert [own["value"] for own in page.of("option", value=run.checkpoint_id)][:1] == [run.checkpoint_id]
    assert "will be made again" in page.text  # its rows are made up, and no step left anything
    given = {"checkpoint": run.checkpoint_id, "dataset": run.dataset_id, "training_dataset": "", "seed": "0"}
    answer = client.post("/runs/new", data=given | {"continued_from": run.id, "recipe": json.dumps(CAST)})
    made = session.get(Run, answer.headers["Location"].rsplit("/", 1)[1])
    assert (made.continued_from_id, made.checkpoint_id) == (run.id, run.checkpoint_id)
    assert [step["technique"] for step in made.recipe["steps"]] == ["magnitude_pruning", "cast"]
    assert f"continues {run.name}" in " ".join(Page(client.get(f"/runs/{made.id}").text).text.split())


def test_an_error_in_the_form_counts_from_the_earlier_steps(client, run):
    wrong = {"version": 2, "steps": [{"technique": "magnitude_pruning", "settings": {"sparsity": 2}}]}
    given = {"checkpoint": run.checkpoint_id, "dataset": "", "training_dataset": "", "continued_from": run.id}
    answer = client.post("/runs/new", data=given | {"recipe": json.dumps(wrong)})
    assert answer.status_code == 422
    assert "Step 2, sparsity: input should be less than or equal to 0.99" in Page(answer.text).text
    assert "Steps of the run before" in answer.text


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"recipe": CAST}, "begins with a checkpoint_id, or goes on from a run_id"),
        ({"checkpoint_id": "x", "run_id": "y", "recipe": CAST}, "one of the two"),
        ({"run_id": "y", "budget": {"profile_id": "p", "goal": {"ratio": 2}}}, "continued with a recipe"),
    ],
)
def test_a_run_has_one_beginning(client, asked, says):
    answer = client.post("/api/v1/runs", json=asked)
    assert answer.status_code == 422
    assert says in answer.json["error"]["message"]


def test_the_api_takes_a_run_in_place_of_a_checkpoint(client, run, session):
    answer = client.post("/api/v1/runs", json={"run_id": run.id, "recipe": CAST})
    assert answer.status_code == 202
    told = answer.json
    assert (told["continued_from_id"], told["dataset_id"]) == (run.id, run.dataset_id)
    assert len(told["recipe"]["steps"]) == 2
    assert client.post("/api/v1/runs", json={"run_id": "nothinghere2", "recipe": CAST}).status_code == 404
    alone = client.post("/api/v1/runs", json={"run_id": run.id, "recipe": CAST, "dataset_id": None}).json
    assert alone["dataset_id"] is None
    assert client.delete(f"/api/v1/runs/{run.id}").status_code == 204
    assert client.get(f"/api/v1/runs/{told['id']}").json["continued_from_id"] is None


def test_the_prediction_is_of_all_steps_and_the_matches_are_of_those_that_were_sent(client, run):
    told = client.post("/api/v1/recipes/predict", json={"run_id": run.id, "recipe": CAST}).json
    assert [step["technique"] for step in told["prediction"]["steps"]] == ["magnitude_pruning", "cast"]
    assert len(told["matches"]) == len(told["recipe"]["steps"]) == 1
    text = "version: 2\nsteps:\n- technique: cast\n  settings: {dtype: what}\n"
    refused = client.post("/api/v1/recipes/predict", json={"run_id": run.id, "recipe": text}).json["error"]
    assert refused["field"] == "steps.0.settings.dtype"
    assert "(line 4)" in refused["message"]

"""The API's promises. Every error has one shape: {"error": {"code", "message", "field"?}}."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select

from tests.web.views.api_errors import error_of
from tests.web.views.seeded import seed_checkpoint, seed_dataset
from webapp.store.models import KeptAnswer, LogLine, Profile, Run, RunState, UploadState

RECIPE = {"version": 1, "steps": [{"technique": "magnitude_pruning", "settings": {"sparsity": 0.5}}]}


@pytest.fixture
def checkpoint(session):
    return seed_checkpoint(session)


@pytest.fixture
def dataset(session):
    return seed_dataset(session)


def test_lists_come_in_pages(client, session):
    ids = [seed_checkpoint(session, f"{n}.safetensors").id for n in range(5)]
    first = client.get("/api/v1/checkpoints?limit=2").json
    second = client.get(f"/api/v1/checkpoints?limit=2&before={first['next']}").json
    third = client.get(f"/api/v1/checkpoints?limit=2&before={second['next']}").json
    seen = [item["id"] for page in (first, second, third) for item in page["items"]]
    assert seen == ids[::-1]
    assert third["next"] is None
    assert all(item["facts"] is None for item in first["items"])
    for wrong in ("limit=0", "limit=a", "limit=201", "before=nothere", "page=2"):
        error_of(client.get(f"/api/v1/checkpoints?{wrong}"), 400)


def test_techniques_say_what_they_take(client):
    items = {item["name"]: item for item in client.get("/api/v1/techniques").json["items"]}
    assert {"magnitude_pruning", "low_rank", "weight_quantization", "cast"} <= set(items)
    assert items["magnitude_pruning"]["settings"]["properties"]["sparsity"]["description"]


def test_a_prediction_says_bytes_and_matches(client, checkpoint):
    recipe = RECIPE | {"steps": [RECIPE["steps"][0] | {"layers": {"include": ["layers.*"], "exclude": ["layers.2"]}}]}
    answer = client.post("/api/v1/recipes/predict", json={"checkpoint_id": checkpoint.id, "recipe": recipe})
    assert answer.status_code == 200, answer.text
    assert answer.json["prediction"]["after"]["size_bytes"] < 10_008
    (step,) = answer.json["matches"]
    assert step["include"][0]["pattern"] == "layers.*"
    assert step["selected"] == ["layers.0"]
    assert step["overrides"] == []
    assert answer.json["recipe_yaml"].startswith("version: 2\n")


def test_a_prediction_says_for_which_layers_an_override_counts(client, checkpoint):
    overrides = {"layers.2": {"sparsity": 0.1}, "*": {"sparsity": 0.9}, "layers.0": {"sparsity": 0.2}}
    recipe = RECIPE | {"version": 2, "steps": [RECIPE["steps"][0] | {"overrides": overrides}]}
    answer = client.post("/api/v1/recipes/predict", json={"checkpoint_id": checkpoint.id, "recipe": recipe}).json
    assert list(answer["recipe"]["steps"][0]["overrides"]) == list(overrides)
    (step,) = answer["matches"]
    assert [(each["pattern"], each["layers"]) for each in step["overrides"]] == [
        ("layers.2", []),
        ("*", ["layers.2"]),
        ("layers.0", ["layers.0"]),
    ]
    unused = (
        "Step 1 (Magnitude pruning): the override of 'layers.2' counts for no layer, since later ones match the same."
    )
    assert unused in answer["prediction"]["warnings"]


def test_a_prediction_warns_of_steps_that_lack_data(client, checkpoint, dataset):
    body = {"checkpoint_id": checkpoint.id, "recipe": {"version": 1, "steps": [{"technique": "wanda"}]}}

    def warnings(**data):
        return client.post("/api/v1/recipes/predict", json=body | data).json["prediction"]["warnings"]

    unwarned = warnings()
    (told,) = [warning for warning in warnings(dataset_id=None) if warning not in unwarned]
    assert told.startswith("Wanda needs calibration data; choose a dataset")
    assert warnings(dataset_id=dataset.id) == unwarned
    assert warnings(dataset_id=None, training_dataset_id=dataset.id) == unwarned
    error_of(client.post("/api/v1/recipes/predict", json=body | {"dataset_id": "nothere"}), 404)


def test_a_pattern_that_matches_nothing_is_an_error_and_shown_as_matching_nothing(client, checkpoint):
    recipe = RECIPE | {"steps": [RECIPE["steps"][0] | {"layers": {"include": ["layers.0", "encoder.*"]}}]}
    body = {"checkpoint_id": checkpoint.id, "recipe": recipe}
    error = error_of(client.post("/api/v1/recipes/predict", json=body), 422)
    assert error["field"] == "steps.0.layers.include.1"
    answer = client.post("/api/v1/recipes/match", json=body).json
    (step,) = answer["matches"]
    assert "- encoder.*" in answer["recipe_yaml"]
    assert [len(each["layers"]) for each in step["include"]] == [1, 0]


def test_a_recipe_is_read_from_yaml_and_json(client):
    text = client.post("/api/v1/recipes/parse", json={"text": '{"version": 1, "steps": [{"technique": "cast"}]}'}).json
    again = client.post("/api/v1/recipes/parse", json={"text": text["recipe_yaml"]}).json
    assert again == text
    assert error_of(client.post("/api/v1/recipes/parse", json={"text": "steps: ["}), 422)["code"] == "recipe_invalid"


def test_a_run_is_queued(client, session, checkpoint, dataset):
    body = {"checkpoint_id": checkpoint.id, "dataset_id": dataset.id, "recipe": RECIPE, "name": "mine"}
    answer = client.post("/api/v1/runs", json=body)
    assert answer.status_code == 202, answer.text
    assert answer.json["state"] == "queued"
    assert answer.json["url"] == f"/runs/{answer.json['id']}"
    run = session.get(Run, answer.json["id"])
    assert run.name == "mine"
    assert run.recipe["steps"][0]["version"] == 1


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        ({"checkpoint_id": "abcdefghjkmn"}, 404, "checkpoint_id"),
        ({"dataset_id": "abcdefghjkmn"}, 404, "dataset_id"),
        ({"recipe": {"version": 3, "steps": []}}, 422, "version"),
        ({"recipe": {"version": 1, "steps": [{"technique": "magic"}]}}, 422, "steps.0.technique"),
        (
            {"recipe": RECIPE | {"steps": [{"technique": "magnitude_pruning", "settings": {"sparsity": 1.5}}]}},
            422,
            "steps.0.settings.sparsity",
        ),
        (
            {"recipe": RECIPE | {"steps": [{"technique": "magnitude_pruning", "settings": {"colour": 1}}]}},
            422,
            "steps.0.settings.colour",
        ),
        ({"exports": ["tflite"]}, 422, "exports.0"),
        ({"seed": -1}, 422, "seed"),
        ({"colour": "red"}, 422, "colour"),
    ],
)
def test_a_run_that_cannot_work_is_refused_with_the_field(client, session, checkpoint, changes, status, field):
    body = {"checkpoint_id": checkpoint.id, "recipe": RECIPE} | changes
    assert error_of(client.post("/api/v1/runs", json=body), status)["field"] == field
    assert session.query(Run).count() == 0


def test_a_dataset_of_another_shape_is_refused(client, session, checkpoint):
    images = seed_dataset(session, "images.npz", shape=(3, 32, 32))
    body = {"checkpoint_id": checkpoint.id, "dataset_id": images.id, "recipe": RECIPE}
    error = error_of(client.post("/api/v1/runs", json=body), 422)
    assert error["code"] == "dataset_unfit"
    assert "[3, 32, 32]" in error["message"]


def test_what_is_not_ready_cannot_be_run(client, session, checkpoint):
    checkpoint.state = UploadState.INSPECTING
    session.commit()
    error = error_of(client.post("/api/v1/runs", json={"checkpoint_id": checkpoint.id, "recipe": RECIPE}), 409)
    assert "still being inspected" in error["message"]


def test_a_run_tells_everything(client, run):
    told = client.get(f"/api/v1/runs/{run.id}").json
    assert told["result"]["size_bytes"] == 5_000
    assert told["result"]["layers"]
    assert told["receipt"] == run.receipt
    assert told["stages"][0]["state"] == "succeeded"
    assert told["artifacts"][0]["url"].endswith("/artifacts/model.safetensors")
    assert [line["text"] for line in told["log"]] == ["line 0", "line 1", "line 2"]
    assert "layers" not in client.get("/api/v1/runs").json["items"][0]["result"]


def test_the_log_goes_on_after_a_line(client, session, run):
    last = client.get(f"/api/v1/runs/{run.id}").json["log"][-1]["id"]
    session.add(LogLine(run_id=run.id, text="new"))
    session.commit()
    assert [line["text"] for line in client.get(f"/api/v1/runs/{run.id}?after={last}").json["log"]] == ["new"]
    error_of(client.get(f"/api/v1/runs/{run.id}?after=x"), 400)


def test_a_run_can_be_cancelled_retried_and_forked(client, checkpoint, dataset):
    body = {"checkpoint_id": checkpoint.id, "dataset_id": dataset.id, "recipe": RECIPE}
    id_ = client.post("/api/v1/runs", json=body).json["id"]
    error_of(client.post(f"/api/v1/runs/{id_}/retry"), 409)
    assert client.post(f"/api/v1/runs/{id_}/cancel").json["state"] == "cancelled"
    error_of(client.post(f"/api/v1/runs/{id_}/cancel"), 409)
    assert client.post(f"/api/v1/runs/{id_}/retry").json["state"] == "queued"
    fork = client.post(f"/api/v1/runs/{id_}/fork", json={"seed": 7, "dataset_id": None}).json
    assert (fork["forked_from_id"], fork["seed"], fork["dataset_id"]) == (id_, 7, None)
    assert fork["recipe"] == client.get(f"/api/v1/runs/{id_}").json["recipe"]
    assert fork["id"] != id_


def test_what_runs_depend_on_is_not_deleted(client, session, run):
    for noun, id_ in (("checkpoints", run.checkpoint_id), ("datasets", run.dataset_id)):
        assert run.name in error_of(client.delete(f"/api/v1/{noun}/{id_}"), 409)["message"]
    assert client.delete(f"/api/v1/runs/{run.id}").status_code == 204
    for noun, id_ in (("checkpoints", run.checkpoint_id), ("datasets", run.dataset_id)):
        assert client.delete(f"/api/v1/{noun}/{id_}").status_code == 204
        error_of(client.get(f"/api/v1/{noun}/{id_}"), 404)


def test_a_run_is_named_noted_tagged_and_starred(client, run):
    said = {"name": "a", "notes": "# b", "tags": ["c", "d"], "starred": True}
    assert client.patch(f"/api/v1/runs/{run.id}", json=said).status_code == 200
    told = client.get(f"/api/v1/runs/{run.id}").json
    assert {name: told[name] for name in said} == said
    assert client.patch(f"/api/v1/runs/{run.id}", json={"tags": []}).json["tags"] == []
    assert error_of(client.patch(f"/api/v1/runs/{run.id}", json={"tags": ["x" * 41]}), 422)["field"] == "tags"
    assert error_of(client.patch(f"/api/v1/runs/{run.id}", json={"seed": 1}), 422)["field"] == "seed"


def test_a_run_at_work_is_not_deleted(client, session, run):
    run.state = RunState.RUNNING
    session.commit()
    assert "cancel it" in error_of(client.delete(f"/api/v1/runs/{run.id}"), 409)["message"]


def test_a_deleted_run_is_forgotten_by_its_profile(client, session, run):
    measured = [{"predicted": {}, "loss": 0.1, "size_bytes": 1, "run_id": id_} for id_ in (run.id, "another")]
    profile = Profile(checkpoint_id=run.checkpoint_id, key="k", measured=measured)
    session.add(profile)
    session.flush()
    run.expected = {"profile_id": profile.id}
    session.commit()
    assert client.delete(f"/api/v1/runs/{run.id}").status_code == 204
    session.expire_all()
    assert [each["run_id"] for each in session.get(Profile, profile.id).measured] == ["another"]


def test_a_deleted_run_is_forgotten_by_its_forks(client, session, run):
    fork = client.post(f"/api/v1/runs/{run.id}/fork", json={}).json
    assert client.delete(f"/api/v1/runs/{run.id}").status_code == 204
    assert client.get(f"/api/v1/runs/{fork['id']}").json["forked_from_id"] is None


def test_the_comparison_as_a_table(client, run):
    answer = client.get(f"/api/v1/compare?run={run.id}").json
    assert answer["metric"] == "accuracy"
    assert answer["rows"][0]["size_bytes"] == 5_000
    assert answer["rows"][0]["pareto"] is True
    assert client.get(f"/api/v1/compare.csv?run={run.id}").mimetype == "text/csv"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/nothing", 404),
        ("PATCH", "/api/v1/runs", 405),
        ("GET", "/api/v1/runs/abcdefghjkmn", 404),
        ("GET", "/api/v1/runs/%00", 404),
        ("GET", "/api/v1/checkpoints/UPPER", 404),
        ("DELETE", "/api/v1/shares/nothing", 404),
    ],
)
def test_what_does_not_exist_is_answered_in_the_same_shape(client, method, path, status):
    error_of(client.open(path, method=method), status)


@pytest.mark.parametrize(
    ("data", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"[1]", "application/json", 422),
        (b"{}", "text/plain", 415),
        (b"{}", None, 415),
        (b"\xff", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"checkpoint_id": "\\ud800", "recipe": "x"}', "application/json", 422),
        (b'{"checkpoint_id": 1, "recipe": {}}', "application/json", 422),
        (b'{"checkpoint_id": "a", "checkpoint_id": "a", "recipe": "x"}', "application/json", 422),
    ],
)
def test_a_body_that_cannot_be_read(client, data, content_type, status):
    error_of(client.post("/api/v1/runs", data=data, content_type=content_type), status)


def test_another_site_cannot_write(client):
    answer = client.put("/api/v1/checkpoints?name=a", data=b"x", headers={"Origin": "https://elsewhere.example"})
    error_of(answer, 403)


def keyed(client, address, body, key="5f1c"):
    return client.post(f"/api/v1{address}", json=body, headers={"Idempotency-Key": key})


def test_a_request_that_comes_again_with_its_key_is_done_once(client, session, run):
    asked = {"seed": 3}
    first, again = (keyed(client, f"/runs/{run.id}/fork", asked) for _ in range(2))
    assert first.status_code == again.status_code == 202
    assert first.json == again.json
    assert session.scalar(select(func.count(Run.id))) == 2
    assert keyed(client, f"/runs/{run.id}/fork", asked, "another").json["id"] != first.json["id"]


def test_a_key_belongs_to_one_request(client, run):
    keyed(client, f"/runs/{run.id}/fork", {"seed": 3})
    for address, body in ((f"/runs/{run.id}/fork", {"seed": 4}), (f"/runs/{run.id}/shares", {"seed": 3})):
        assert error_of(keyed(client, address, body), 422)["field"] == "Idempotency-Key"
    error_of(keyed(client, f"/runs/{run.id}/fork", {}, "k" * 256), 400)


def test_what_was_refused_may_come_again_with_its_key(client, session, run):
    body = {"checkpoint_id": run.checkpoint_id, "recipe": {"version": 1, "steps": [{"technique": "cast"}]}}
    run.checkpoint.state = "inspecting"
    session.commit()
    error_of(keyed(client, "/runs", body), 409)
    run.checkpoint.state = "ready"
    session.commit()
    assert keyed(client, "/runs", body).status_code == 202


def test_a_request_whose_first_is_not_done_is_told_so_for_a_day(client, session, run):
    keyed(client, f"/runs/{run.id}/shares", {})
    row = session.scalars(select(KeptAnswer)).one()
    token = client.get(f"/api/v1/runs/{run.id}/shares").json["items"][0]["token"]
    assert token.encode() not in row.sealed
    row.status = row.sealed = None  # as while it is worked on, or after its process was killed
    session.commit()
    assert "new key" in error_of(keyed(client, f"/runs/{run.id}/shares", {}), 409)["message"]
    row.created_at -= timedelta(days=2)
    session.commit()
    assert keyed(client, f"/runs/{run.id}/shares", {}).status_code == 201

"""Profiles and budgets by the API: asked for once, found again, listed with what they know, and solved on."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from tests.web.views.api_errors import error_of
from tests.web.views.seeded import seed_checkpoint, seed_dataset
from webapp.actions import profiles
from webapp.store.models import Profile, Run, RunState

MEASURED = {"predicted": {"Quantization": 0.25}, "loss": 0.3, "size_bytes": 3000}


def options(params, loss):
    def option(label, family, bytes_, lost, kind, technique, **settings):
        steps = [{"technique": technique, "settings": settings}]
        return {"label": label, "family": family, "bytes": bytes_, "loss": lost, "kind": kind, "steps": steps}

    return [
        {"label": "kept", "family": "Kept", "bytes": 4 * params, "loss": 0.0},
        option("8 bits", "Quantization", params, loss / 200, "quantized", "weight_quantization", bits=8),
        option("4 bits", "Quantization", params // 2, loss, "quantized", "weight_quantization", bits=4),
        option("half the rank", "Low rank", 2 * params, loss / 3, "factored", "low_rank", by="rank", rank=8),
    ]


def layer(name, params, loss):
    return {"name": name, "layers": [name], "kind": "linear", "params": params, "options": options(params, loss)}


FACTS = {
    "unit": "nats",
    "samples": 512,
    "layers": [layer("layers.0", 2048, 0.1), layer("layers.2", 320, 0.2)],
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
    page = f"/checkpoints/{first['checkpoint_id']}/fit?profile={first['id']}"
    assert (first["state"], first["url"]) == ("queued", page)
    assert ask().json["id"] == first["id"]
    assert ask(seed=1).json["id"] != first["id"]
    client.post(f"/api/v1/profiles/{first['id']}/cancel")
    again = ask().json
    assert again["id"] != first["id"]
    session.get(Profile, again["id"]).state = RunState.FAILED
    session.commit()
    assert ask().json["id"] not in (first["id"], again["id"])


def test_those_who_ask_at_the_same_instant_get_the_same_profile(app, ids, monkeypatch):
    met, key = Barrier(8), profiles.profile_key

    def key_of_all_at_once(*given):
        met.wait(10)
        return key(*given)

    def ask(asked):
        return app.test_client().post("/api/v1/profiles", json=asked).json["id"]

    monkeypatch.setattr(profiles, "profile_key", key_of_all_at_once)
    with ThreadPoolExecutor(met.parties) as threads:
        for seed in range(8):
            found = threads.map(ask, [ids | {"seed": seed}] * 8)
            assert len(set(found)) == 1


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
    assert [option["label"] for option in layers[0]["options"]] == ["kept", "8 bits", "4 bits", "half the rank"]
    assert layers[0]["options"][2]["steps"] == [{"technique": "weight_quantization", "settings": {"bits": 4}}]


def test_the_profiles_of_a_checkpoint_are_listed(client, ask, session):
    ids = [ask(seed=seed).json["id"] for seed in range(3)]
    other = ask(checkpoint_id=seed_checkpoint(session, "other").id).json
    checkpoint = session.get(Profile, ids[0]).checkpoint_id
    items = client.get(f"/api/v1/profiles?checkpoint={checkpoint}&limit=2").json
    assert [item["id"] for item in items["items"]] == ids[:0:-1]
    assert len(client.get("/api/v1/profiles").json["items"]) == 4
    assert other["state"] == "queued"


def test_it_is_cancelled_and_retried(client, ask):
    address = f"/api/v1/profiles/{ask().json['id']}"
    error_of(client.post(f"{address}/retry"), 409)
    assert client.post(f"{address}/cancel").json["state"] == "cancelled"
    assert "already ended" in error_of(client.post(f"{address}/cancel"), 409)["message"]
    again = client.post(f"{address}/retry")
    assert (again.status_code, again.json["state"], again.json["attempt"]) == (202, "queued", 2)


@pytest.mark.parametrize("state", [RunState.QUEUED, RunState.SUCCEEDED])
def test_a_retry_of_one_that_was_asked_for_anew_leads_to_the_new_one(client, ask, session, state):
    first = ask().json["id"]
    client.post(f"/api/v1/profiles/{first}/cancel")
    anew = session.get(Profile, ask().json["id"])
    if state is RunState.SUCCEEDED:
        anew.facts, anew.state = FACTS, state
        session.commit()
    again = client.post(f"/api/v1/profiles/{first}/retry")
    assert (again.status_code, again.json["id"], again.json["state"]) == (202, anew.id, state.value)
    page = client.post(f"/checkpoints/{anew.checkpoint_id}/fit/profiles/{first}/retry")
    assert page.location.endswith(f"?profile={anew.id}")
    assert client.get(f"/api/v1/profiles/{first}").json["state"] == "cancelled"
    session.delete(session.get(Profile, anew.id))
    session.commit()
    assert client.post(f"/api/v1/profiles/{first}/retry").json["id"] == first


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


@pytest.fixture
def solve(client, finished):
    def post(status=200, **asked):
        answer = client.post("/api/v1/budgets", json={"profile_id": finished.id, "goal": {"bytes": 5000}} | asked)
        assert answer.status_code == status, answer.text
        return answer

    return post


def test_a_budget_is_answered_with_its_recipe_its_bytes_and_what_it_is_expected_to_lose(solve):
    found = solve(goal={"bytes": 5000}).json
    answered = {"recipe", "size_bytes", "format", "own_bytes", "expected", "layers", "cuts", "front", "uniform_bytes"}
    assert set(found) == answered
    assert (found["format"], found["own_bytes"]) == (None, found["size_bytes"])
    assert found["size_bytes"] <= 5000
    loss = found["expected"]["loss"]
    assert 0 < loss["low"] < loss["value"] < loss["high"]
    assert (loss["unit"], found["expected"]["points"]) == ("nats", None)
    assert [row["name"] for row in found["layers"]] == ["layers.0", "layers.2"]
    assert [point["size_bytes"] for point in found["front"]] == sorted({p["size_bytes"] for p in found["front"]})
    smaller = solve(goal={"bytes": 3500}).json
    assert smaller["expected"]["loss"]["value"] > loss["value"]


def test_families_locks_and_formats_bound_what_may_be_chosen(solve):
    low_rank = {"families": ["Low rank"], "goal": {"bytes": 8000}}
    assert {row["family"] for row in solve(**low_rank).json["layers"]} == {"Low rank", "Kept"}
    assert error_of(solve(422, **low_rank, exports=["onnx", "gguf"]), 422)["field"] == "exports.1"
    assert solve(locks={"layers.2": 0}).json["layers"][1]["option"] == 0
    assert error_of(solve(422, locks={"layers.2": 9}), 422)["field"] == "locks.layers.2"
    assert error_of(solve(422, families=["Magic"]), 422)["field"] == "families"


@pytest.mark.parametrize(
    ("goal", "code", "field"),
    [
        ({"bytes": 10}, "budget_invalid", "goal"),
        ({"bytes": 10**400}, "body_invalid", "goal.bytes"),
        ({"loss": 1, "points": 1}, "body_invalid", "goal"),
        ({"points": 0.5}, "budget_invalid", "goal.points"),
        ({}, "body_invalid", "goal"),
    ],
)
def test_a_goal_that_cannot_be_is_refused_with_its_field(solve, goal, code, field):
    error = error_of(solve(422, goal=goal), 422)
    assert (error["code"], error["field"]) == (code, field)


def test_a_profile_that_is_not_done_is_not_solved_on(client, ask):
    goal = {"goal": {"ratio": 0.5}}
    error = error_of(client.post("/api/v1/budgets", json={"profile_id": ask().json["id"]} | goal), 409)
    assert (error["field"], "is queued" in error["message"]) == ("profile_id", True)
    error_of(client.post("/api/v1/budgets", json={"profile_id": "nothing"} | goal), 404)


def test_what_runs_measured_since_moves_the_answer(solve, finished, session):
    before = solve().json["expected"]["loss"]["value"]
    finished.measured = [MEASURED | {"run_id": "r", "loss": 3.0}]
    session.commit()
    assert solve().json["expected"]["loss"]["value"] > before


def test_a_run_by_a_budget_has_its_recipe_and_keeps_what_was_expected(client, finished, session):
    budget = {"profile_id": finished.id, "goal": {"bytes": 5000}}
    answer = client.post("/api/v1/runs", json={"checkpoint_id": finished.checkpoint_id, "budget": budget})
    assert answer.status_code == 202, answer.text
    run = session.get(Run, answer.json["id"])
    solved = client.post("/api/v1/budgets", json=budget).json
    assert (run.dataset_id, run.seed) == (finished.dataset_id, finished.seed)
    assert {step["technique"] for step in run.recipe["steps"]} == {
        each["technique"] for each in solved["recipe"]["steps"]
    }
    chosen = [row for row in solved["layers"] if row["family"] != "Kept"]
    families = {row["family"] for row in chosen}
    assert run.expected["predicted"] == {
        name: pytest.approx(sum(row["loss"] for row in chosen if row["family"] == name)) for name in families
    }
    assert run.expected["size_bytes"] == solved["size_bytes"]
    assert run.expected["loss"] == solved["expected"]["loss"] | {"metric": "kl_divergence"}
    assert answer.json["expected"] == run.expected


def test_a_recipe_by_hand_is_foretold_where_the_profile_knows_what_it_does(client, ask, finished, session):
    def expected(bits, **more):
        step = {"technique": "weight_quantization", "settings": {"bits": bits}, "layers": {"include": ["layers.0"]}}
        asked = {
            "checkpoint_id": finished.checkpoint_id,
            "dataset_id": finished.dataset_id,
            "recipe": {"steps": [step]},
        }
        return client.post("/api/v1/runs", json=asked | more).json["expected"]

    found = expected(4)
    assert (found["profile_id"], found["predicted"]) == (finished.id, {"Quantization": 0.1})
    assert 0 < found["loss"]["low"] < found["loss"]["value"]
    assert expected(5) is None
    assert expected(4, dataset_id=None) is None
    newer = session.get(Profile, ask(seed=1).json["id"])  # has seen less
    newer.facts, newer.state = FACTS | {"samples": FACTS["samples"] - 1}, RunState.SUCCEEDED
    session.commit()
    assert expected(4)["profile_id"] == finished.id
    newer.state = finished.state = RunState.FAILED
    session.commit()
    assert expected(4) is None


def test_a_run_on_other_data_teaches_the_profile_nothing(client, finished, session):
    other = seed_dataset(session, "other")
    asked = {"checkpoint_id": finished.checkpoint_id, "dataset_id": other.id}
    budget = {"profile_id": finished.id, "goal": {"bytes": 5000}}
    run = session.get(Run, client.post("/api/v1/runs", json=asked | {"budget": budget}).json["id"])
    assert run.dataset_id == other.id
    assert "predicted" not in run.expected


def test_a_run_has_a_recipe_or_a_budget_that_asks_for_something(client, finished, session):
    asked = {"checkpoint_id": finished.checkpoint_id}
    budget = {"profile_id": finished.id, "goal": {"bytes": 20_000}}
    error = error_of(client.post("/api/v1/runs", json=asked), 422)
    assert error["message"] == "In the body, a run has a recipe or a budget, one of the two."
    recipe = {"steps": [{"technique": "cast"}]}
    error_of(client.post("/api/v1/runs", json=asked | {"recipe": recipe, "budget": budget}), 422)
    assert "nothing to do" in error_of(client.post("/api/v1/runs", json=asked | {"budget": budget}), 422)["message"]
    twin = {"checkpoint_id": seed_checkpoint(session, "twin").id}
    error = error_of(client.post("/api/v1/runs", json=twin | {"budget": budget}), 409)
    assert error["field"] == "budget.profile_id"

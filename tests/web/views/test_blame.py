"""What layers cost, by page and API; and a fork that gives one back, with what is expected of it."""

import pytest
from sqlalchemy import select

from tests.web.views.api_errors import error_of
from tests.web.views.page import Page
from tests.web.views.seeded import measured, metric
from tests.web.views.seeded_receipt import receipt
from tests.web.views.seeded_studies import FACTS, FOUND, divergence, seed_profile
from webapp.engine.facts import BlockRow, Structure
from webapp.engine.profiles.budget import BudgetGoal, Solver
from webapp.engine.profiles.facts import Cut, OptionStep
from webapp.engine.run.budgets import expected_of
from webapp.store.models import Profile, Run, RunState

QUALITY = metric(0.95) | divergence(0.05)


@pytest.fixture
def budget():
    return Solver(FOUND, FACTS).solve(BudgetGoal(ratio=0.25))


@pytest.fixture
def fitted(session, budget):
    """A run of a budget, done."""
    profile = seed_profile(session)
    run = Run(
        name="Fitted",
        checkpoint_id=profile.checkpoint_id,
        dataset_id=profile.dataset_id,
        recipe=budget.recipe,
        expected=expected_of(profile.id, budget),
        state=RunState.SUCCEEDED,
        baseline=measured(80_000, 0.0, metric(0.97)),
        result=measured(20_000, 0.5, QUALITY),
    )
    stored = {layer.name: layer.options[0].bytes for layer in FOUND.layers}
    shape = {"shape": [8, 8]}
    run.baseline["layers"] = [{"name": name, "stored_bytes": size} | shape for name, size in stored.items()]
    run.result["layers"] = [
        {"name": layer.name, "stored_bytes": layer.bytes, "storage": "somehow"} | shape for layer in budget.layers
    ]
    run.receipt = receipt(run.name, measured(80_000, 0.0, metric(0.97)), measured(20_000, 0.5, QUALITY))
    session.add(run)
    session.commit()
    return run


def told(session, run, differences):
    rows = [{"name": name, "bytes": 1, "differences": {"kl_divergence": row}} for name, row in differences.items()]
    run.receipt = {**run.receipt, "blame": {"metrics": divergence(0.05), "layers": rows, "seconds": 1.0}}
    session.commit()


def test_expected_costs_add_up_to_what_the_budget_expected_the_worst_first(client, fitted, budget):
    found = client.get(f"/api/v1/runs/{fitted.id}/blame").json
    assert found["expected"] == pytest.approx(budget.expected.loss.value)
    rows = found["layers"]
    assert sum(row["expected"] for row in rows) == pytest.approx(found["expected"], rel=1e-3)  # but for the vectors
    assert [row["expected"] for row in rows] == sorted((row["expected"] for row in rows), reverse=True)
    chosen = {layer.name: layer for layer in budget.layers}
    kept = {layer.name: layer.options[0].bytes for layer in FOUND.layers}
    for row in rows:
        assert row["option"] == chosen[row["name"]].label
        assert row["bytes_back"] == kept[row["name"]] - chosen[row["name"]].bytes


def test_what_was_measured_comes_first_and_is_told_with_its_interval(client, session, fitted):
    layer = client.get(f"/api/v1/runs/{fitted.id}/blame").json["layers"][-1]["name"]
    told(session, fitted, {layer: {"difference": -0.02, "ci95": [-0.03, -0.01], "verdict": "better"}})
    found = client.get(f"/api/v1/runs/{fitted.id}/blame").json
    assert (found["metric"], found["layers"][0]["name"]) == ("kl_divergence", layer)
    page = Page(client.get(f"/runs/{fitted.id}/blame").text)
    assert "-0.03 to -0.01" in page.text
    assert "Measured: given back, KL divergence" in page.text


def test_the_ten_worst_are_measured_unless_others_are_named(client, session, fitted):
    rows = client.get(f"/api/v1/runs/{fitted.id}/blame").json["layers"]
    unknown = client.post(f"/api/v1/runs/{fitted.id}/blame", json={"layers": [rows[0]["name"], "nothing"]})
    assert error_of(unknown, 422)["field"] == "layers"
    assert client.post(f"/api/v1/runs/{fitted.id}/blame", json={}).status_code == 202
    session.expire_all()
    assert fitted.state is RunState.QUEUED
    assert fitted.blame == [row["name"] for row in rows][:10]
    error_of(client.post(f"/api/v1/runs/{fitted.id}/blame", json={}), 409)  # it is under way
    fitted.state = RunState.SUCCEEDED
    session.commit()
    assert client.post(f"/runs/{fitted.id}/blame/measure").status_code == 302
    session.expire_all()
    assert "stay as they are" in Page(client.get(f"/runs/{fitted.id}/blame").text).text


def test_a_layer_whose_shape_was_cut_is_marked_and_not_measured(client, session, fitted):
    address = f"/api/v1/runs/{fitted.id}/blame"
    worst = client.get(address).json["layers"][0]["name"]

    def cut(*names):
        layers = [row | {"shape": [8, 6 if row["name"] in names else 8]} for row in fitted.result["layers"]]
        fitted.result = fitted.result | {"layers": layers}
        session.commit()

    cut(*(row["name"] for row in fitted.result["layers"]))
    assert error_of(client.post(address, json={}), 409)["message"].startswith("Every layer of Fitted has lost")
    page = Page(client.get(f"/runs/{fitted.id}/blame").text)
    assert "Every layer has lost some of its shape" in page.text
    assert not page.of("form", action=f"/runs/{fitted.id}/blame/measure")
    cut(worst)
    assert [row["name"] for row in client.get(address).json["layers"] if row["cut"]] == [worst]
    page = Page(client.get(f"/runs/{fitted.id}/blame").text)
    assert page.text.count(", cut") == 1
    assert client.post(address, json={}).status_code == 202
    session.expire_all()
    assert fitted.blame
    assert worst not in fitted.blame


def test_a_layer_is_given_back_by_a_fork_that_says_what_it_expects(client, session, fitted):
    found = client.get(f"/api/v1/runs/{fitted.id}/blame").json
    layer = found["layers"][0]
    answer = client.post(f"/api/v1/runs/{fitted.id}/give-back", json={"layers": [layer["name"]]})
    assert answer.status_code == 202, answer.text
    fork = session.get(Run, answer.json["id"])
    assert fork.forked_from_id == fitted.id
    assert fork.expected["size_bytes"] == pytest.approx(fitted.expected["size_bytes"] + layer["bytes_back"], abs=600)
    assert fork.expected["loss"]["value"] < fitted.expected["loss"]["value"]
    assert layer["name"] not in {row["name"] for row in worked_on(fork.recipe)}
    page = client.post(f"/runs/{fitted.id}/blame/give-back", data={"layer": [layer["name"]]})
    assert page.status_code == 302
    assert session.scalars(select(Run).where(Run.forked_from_id == fitted.id)).all()[-1].name.endswith("given back")


def worked_on(recipe):
    from webapp.engine.recipe import Recipe
    from webapp.engine.run.predict import prepare

    return [{"name": layer.name} for step in prepare(FACTS, Recipe.read(recipe)) for layer in step.layers]


def test_cuts_are_told_with_their_share_and_are_in_the_total(client, session, fitted):
    """A run without the second of two blocks: what follows it moves up, and is compared with itself."""
    row = BlockRow("model.layers", 2, "num_hidden_layers")
    facts = FACTS.model_copy(update={"structure": Structure(blocks=row)})
    gone = tuple(layer.name for layer in facts.layers if row.of(layer.weight) == 0)
    step = OptionStep(technique="layer_drop", settings={"blocks": 1, "by": "evenly"})
    cut = Cut(unit="blocks", label="1 of 2 removed", family="Pruning", step=step, layers=gone, loss=0.01)
    found = FOUND.model_copy(update={"cuts": (cut,)})
    solver = Solver(found, facts)
    budget = solver.solve(BudgetGoal(bytes=solver.smallest()))
    assert budget.cuts
    fitted.checkpoint.facts = facts.model_dump(mode="json")
    session.get(Profile, fitted.expected["profile_id"]).facts = found.model_dump(mode="json")
    fitted.recipe = budget.recipe
    about = {"storage": "somehow", "shape": [8, 8]}
    stays = [layer for layer in budget.layers if layer.name != "vectors"]
    told = [{"name": moved(layer.name), "stored_bytes": layer.bytes} | about for layer in stays]
    fitted.result = {**fitted.result, "layers": told}
    session.commit()
    blame = client.get(f"/api/v1/runs/{fitted.id}/blame").json
    assert blame["expected"] == pytest.approx(budget.expected.loss.value)
    assert [(row["unit"], row["label"]) for row in blame["cuts"]] == [("blocks", "1 of 2 removed")]
    parts = [row["expected"] for row in (*blame["cuts"], *blame["layers"])]
    assert sum(parts) == pytest.approx(blame["expected"], rel=1e-3)
    kept = {layer.name: layer.options[0].bytes for layer in FOUND.layers}
    for layer in stays:
        (found,) = (each for each in blame["layers"] if each["name"] == moved(layer.name))
        assert found["bytes_back"] == kept[layer.name] - layer.bytes
    page = Page(client.get(f"/runs/{fitted.id}/blame").text)
    assert "1 of 2 removed" in page.text


def moved(name):
    return name.replace("layers.1.", "layers.0.")


def test_what_no_step_works_on_cannot_be_given_back(client, session, fitted):
    error = error_of(client.post(f"/api/v1/runs/{fitted.id}/give-back", json={"layers": ["nothing"]}), 422)
    assert error["field"] == "layers"
    answer = client.post(f"/runs/{fitted.id}/blame/give-back", data={"layer": ["nothing"]})
    assert answer.status_code == 422
    assert "No step works on nothing" in Page(answer.text).text
    layer = Page(answer.text).of("input", name="layer")[0]["value"]
    answer = client.post(f"/runs/{fitted.id}/blame/give-back", data={"layer": [layer, "nothing"]})
    assert "checked" in Page(answer.text).of("input", name="layer", value=layer)[0]
    nothing = client.post(f"/runs/{fitted.id}/blame/give-back")
    assert nothing.status_code == 400
    assert Page(nothing.text).of("p", id="layers-refused", role="alert")
    assert "Tick the layers that are to be given back." in nothing.text


def test_a_run_without_a_profile_has_bytes_and_measurements(client, run):
    found = client.get(f"/api/v1/runs/{run.id}/blame").json
    assert (found["profile_id"], found["expected"]) == (None, None)
    assert [row["name"] for row in found["layers"]] == ["layers.0", "layers.2"]
    assert all(row["bytes_back"] == (10_008 - 5_000) // 2 for row in found["layers"])
    assert client.post(f"/api/v1/runs/{run.id}/blame", json={}).status_code == 202
    assert "There is no profile" in Page(client.get(f"/runs/{run.id}/blame").text).text


def test_a_run_without_a_result_has_nothing_to_blame(client, session, run):
    session.get(Run, run.id).result = None
    session.commit()
    error_of(client.get(f"/api/v1/runs/{run.id}/blame"), 409)


def test_the_comparison_has_what_layers_are_expected_and_measured_to_cost(client, session, seed, fitted, budget):
    layer = next(layer for layer in budget.layers if layer.name in {row["name"] for row in fitted.result["layers"]})
    whole = {"sparsity": 0.0, "bits_per_weight": 4.0}
    fitted.result = {**fitted.result, "layers": [row | whole for row in fitted.result["layers"]]}
    told(session, fitted, {layer.name: {"difference": 0.02, "ci95": [0.01, 0.03], "verdict": "worse"}})
    expected = {row["name"]: row["expected"] for row in client.get(f"/api/v1/runs/{fitted.id}/blame").json["layers"]}
    other = seed()
    rows = client.get(f"/api/v1/compare?run={fitted.id}&run={other.id}").json["layers"]
    row = next(row for row in rows if row["name"] == layer.name)
    assert row["values"]["expected"] == [expected[layer.name], None]
    assert abs(row["values"]["measured"][0]) == 0.02
    page = Page(client.get(f"/compare?run={fitted.id}&run={other.id}").text)
    assert "Measured loss, KL divergence" in page.text

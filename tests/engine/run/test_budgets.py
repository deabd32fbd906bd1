"""A budget as runs take it: on all that is known by now, and what a run keeps of what was expected."""

import numpy as np
import pytest

from tests.engine.profiles.drawn_profiles import drawn_facts, drawn_measurements, drawn_profile
from webapp.engine.architectures.reshape import describe_model
from webapp.engine.exporters import exporters
from webapp.engine.exporters.sizes import beside
from webapp.engine.profiles.budget import BudgetGoal
from webapp.engine.profiles.facts import ProfileFacts
from webapp.engine.profiles.options import layer_options
from webapp.engine.progress import Silent
from webapp.engine.recipe import Recipe
from webapp.engine.run.budgets import expected_of, limits_of, solver_of
from webapp.engine.run.predict import prepare_step
from webapp.engine.techniques import Context
from webapp.engine.weights.artifact import write_model
from webapp.engine.weights.model import Model


def with_drawn_losses(facts):
    """A profile whose options lose by the bits that they have, those of llama.cpp a little less."""
    layers = []
    for layer in layer_options(facts):
        size = layer.options[0].bytes
        losses = [
            0.0
            if option.family == "Kept"
            else (size / option.bytes - 0.9) * (0.5 if option.family == "llama.cpp" else 1)
            for option in layer.options
        ]
        options = [option.model_copy(update={"loss": loss}) for option, loss in zip(layer.options, losses, strict=True)]
        layers.append(layer.model_copy(update={"options": tuple(options)}))
    return ProfileFacts(unit="nats", task="causal-lm", samples=8, layers=tuple(layers))


@pytest.fixture(scope="module")
def solver():
    facts = drawn_facts()
    profile = drawn_profile(0, facts)
    runs = [
        each.model_copy(update={"run_id": "r"}) for each in drawn_measurements(np.random.default_rng(1), profile, 3)
    ]
    dumped = (each.model_dump(mode="json") for each in runs)
    return solver_of(profile.model_dump(mode="json"), dumped, facts.model_dump(mode="json"))


def test_what_runs_measured_is_among_what_the_profile_knows(solver):
    assert [each.run_id for each in solver.profile.measured] == ["r"] * 3


def test_a_budget_on_a_gguf_file_is_of_its_bytes_and_of_its_types(zoo, tmp_path):
    """Without the format, what llama.cpp alone runs is not chosen."""
    folder, facts = zoo.checkpoint("llama")
    facts = facts.model_copy(update={"beside": beside(folder, facts)})
    profile = with_drawn_losses(facts)
    assert any(option.family == "llama.cpp" for layer in profile.layers for option in layer.options)
    given = profile.model_dump(mode="json"), (), facts.model_dump(mode="json")
    plain, sized = solver_of(*given), solver_of(*given, ["gguf"])
    goal = BudgetGoal(bytes=int(0.4 * facts.weights_bytes))
    found = plain.solve(goal, limits_of(facts, None, {}))
    assert (found.format, found.own_bytes) == (None, found.size_bytes)
    assert "llama.cpp" not in {layer.family for layer in found.layers}
    assert "llama.cpp" not in {
        layer.family for layer in plain.solve(goal, limits_of(facts, None, {}, ["safetensors"])).layers
    }
    found = sized.solve(goal, limits_of(facts, None, {}, ["gguf"]))
    assert found.format == "gguf"
    assert "llama.cpp" in {layer.family for layer in found.layers}
    model = Model.of_checkpoint(folder, facts)
    for position, step in enumerate(Recipe.read(found.recipe).steps):
        now = describe_model(model, facts)
        ready = prepare_step(now, step, position)
        ready.applied(model, Context(ready.layers, 0, Silent(), None, facts=now))
    written = exporters()["gguf"].write(model, tmp_path)["size_bytes"]
    assert 0.9 * goal.bytes < written == found.size_bytes <= goal.bytes
    assert write_model(model, tmp_path / "model.safetensors") == found.own_bytes
    expected = expected_of("p", found)
    assert (expected["size_bytes"], expected["files"]) == (found.own_bytes, {"gguf": written})


def test_a_run_keeps_what_each_family_was_expected_to_lose(solver):
    budget = solver.solve(BudgetGoal(ratio=0.3))
    expected = expected_of("p", budget)
    assert (expected["profile_id"], expected["size_bytes"]) == ("p", budget.size_bytes)
    assert expected["loss"]["metric"] == {"nats": "kl_divergence", "cosine distance": "cosine"}.get(
        solver.profile.unit, "relative_error"
    )
    choice = [layer.option for layer in budget.layers]
    known = {family: loss for family, loss in solver.predicted(choice).items() if loss}
    assert {family: loss for family, loss in expected["predicted"].items() if loss} == pytest.approx(known)

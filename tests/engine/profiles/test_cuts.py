"""Cuts: what is offered, what it costs, and budgets that take some, whose file is the one that was promised."""

import itertools

import numpy as np
import pytest

from webapp.engine.facts import CheckpointFacts
from webapp.engine.profiles.budget import BudgetGoal, Limits, Solver
from webapp.engine.profiles.cuts import offered
from webapp.engine.profiles.facts import KEPT, ProfileFacts
from webapp.engine.profiles.options import layer_options
from webapp.engine.recipe import Recipe
from webapp.engine.run.budgets import expected_of, foretold
from webapp.engine.techniques.surgery import with_structure
from webapp.engine.weights.artifact import write_model


@pytest.fixture
def checkpoint(zoo):
    def of(family, dtype="float32"):
        path, facts = zoo.checkpoint(family, dtype)
        return path, with_structure(facts)

    return of


def drawn(facts: CheckpointFacts, seed: int = 0) -> ProfileFacts:
    """Options as dear as the bytes that they save, and cuts cheaper than those."""
    rng = np.random.default_rng(seed)

    def lossy(layer):
        whole = layer.options[0].bytes
        losses = (
            0.0 if option.family == KEPT else rng.lognormal(0, 1) * 2.0 ** (-16 * option.bytes / whole)
            for option in layer.options
        )
        options = (o.model_copy(update={"loss": loss}) for o, loss in zip(layer.options, losses, strict=True))
        return layer.model_copy(update={"options": tuple(options)})

    cuts = tuple(
        each.cut(facts, 0.01 * place * rng.lognormal(0, 0.5)) for place, each in enumerate(offered(facts), start=1)
    )
    return ProfileFacts(unit="nats", samples=8, layers=tuple(map(lossy, layer_options(facts))), cuts=cuts)


def steps_of(recipe):
    whole = ({"layers": {"include": ["*"]}, "overrides": {}, **step} for step in recipe["steps"])
    return [(step["technique"], step["settings"], step["layers"], step["overrides"]) for step in whole]


@pytest.mark.parametrize(("family", "dtype"), [("cnn", "float32"), ("mlp", "bfloat16")])
def test_the_written_file_of_a_budget_with_cuts_is_the_one_that_was_promised(
    checkpoint, apply_steps, given_batches, family, dtype, tmp_path
):
    path, facts = checkpoint(family, dtype)
    solver = Solver(drawn(facts), facts)
    size = round(1.1 * solver.smallest())
    found = solver.solve(BudgetGoal(bytes=size))
    assert found.cuts
    assert found.recipe["steps"][0]["technique"] == "structured_pruning"
    assert len({cut.unit for cut in found.cuts}) == len(found.cuts)
    model, _ = apply_steps((path, facts), *steps_of(found.recipe), data=given_batches(facts.architecture))
    written = write_model(model, tmp_path / "model.safetensors")
    assert 0.99 * found.size_bytes <= written <= found.size_bytes <= size


def test_the_best_of_every_combination_of_cuts_is_found(checkpoint):
    _, facts = checkpoint("deep_mlp")
    profile = drawn(facts)
    some = list(dict.fromkeys(cut.unit for cut in profile.cuts))[:2]
    profile = profile.model_copy(update={"cuts": tuple(cut for cut in profile.cuts if cut.unit in some)})
    solver = Solver(profile, facts)
    units = {}
    for cut in profile.cuts:
        units.setdefault(cut.unit, [None]).append(cut)
    combinations = [[cut for cut in taken if cut] for taken in itertools.product(*units.values())]
    each = [
        solver.without(cuts) if cuts else Solver(profile.model_copy(update={"cuts": ()}), facts)
        for cuts in combinations
    ]
    for times in (1.05, 1.3, 2):
        goal = BudgetGoal(bytes=round(times * solver.smallest()))
        alone = [one.solve(goal).expected.loss.value for one in each if one.smallest() <= goal.bytes]
        assert solver.solve(goal).expected.loss.value <= 1.02 * min(alone)
    assert solver.smallest() <= min(one.smallest() for one in each)


def test_locks_and_families_keep_cuts_away(checkpoint):
    _, facts = checkpoint("cnn")
    solver = Solver(drawn(facts), facts)
    size = round(1.1 * solver.smallest())
    assert solver.solve(BudgetGoal(bytes=size)).cuts
    rounded = Limits(families=("Quantization",))
    assert not solver.solve(BudgetGoal(bytes=max(size, solver.smallest(rounded))), rounded).cuts
    unit, layers = next((cut.unit, cut.layers) for cut in solver.profile.cuts)
    locked = Limits(locks={layers[0]: 0})
    found = solver.solve(BudgetGoal(bytes=max(size, solver.smallest(locked))), locked)
    assert unit not in {cut.unit for cut in found.cuts}
    assert next(layer.option for layer in found.layers if layer.name == layers[0]) == 0


def test_what_a_recipe_with_cuts_loses_is_read_back_from_it(checkpoint):
    _, facts = checkpoint("cnn")
    solver = Solver(drawn(facts), facts)
    budget = solver.solve(BudgetGoal(bytes=round(1.1 * solver.smallest())))
    assert budget.cuts
    assert foretold("p", solver, Recipe.read(budget.recipe)) == expected_of("p", budget)
    assert expected_of("p", budget)["predicted"]["Pruning"] >= sum(cut.loss for cut in budget.cuts)


def test_models_of_transformers_offer_none(checkpoint):
    assert not offered(checkpoint("llama")[1])

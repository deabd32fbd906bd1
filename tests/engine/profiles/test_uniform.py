"""The recipes that a budget is raced against: one option everywhere, and as many bytes as the budget."""

import pytest

from tests.engine.profiles.drawn_profiles import drawn_facts, drawn_profile
from webapp.engine.profiles.budget import BudgetGoal, Limits, Solver
from webapp.engine.profiles.facts import KEPT
from webapp.engine.profiles.uniform import least_uniform, uniform
from webapp.engine.recipe import Recipe
from webapp.engine.run.predict import predict


@pytest.fixture(scope="module")
def solver():
    facts = drawn_facts(blocks=3)
    return Solver(drawn_profile(0, facts, measured=8), facts)


@pytest.mark.parametrize("ratio", [0.6, 0.4, 0.25])
def test_they_have_the_budgets_bytes_and_their_recipes_give_files_of_that_size(solver, ratio):
    size = solver.solve(BudgetGoal(ratio=ratio)).size_bytes
    found = uniform(solver, size)
    assert found
    for each in found:
        assert 0.75 * size < each.budget.size_bytes <= size
        predicted = predict(solver.facts, Recipe.read(each.budget.recipe))
        assert predicted.after.size_bytes <= each.budget.size_bytes
        labels = {chosen.label for chosen in each.budget.layers if chosen.family == each.family}
        assert 1 <= len(labels) <= 6, "one option, a next one, and what layers have that have neither"
    assert len({each.family for each in found}) == len(found)


def test_a_budget_of_the_same_families_is_expected_to_lose_to_none(solver):
    size = solver.solve(BudgetGoal(ratio=0.3)).size_bytes
    for each in uniform(solver, size):
        families = {layer.family for layer in each.budget.layers} - {KEPT}
        budget = solver.solve(BudgetGoal(bytes=size), Limits(families=families))
        assert budget.expected.loss.value <= each.budget.expected.loss.value * (1 + 1e-9)


def test_locks_and_families_hold_for_them_too(solver):
    name = solver.profile.layers[2].name
    found = uniform(solver, solver.facts.weights_bytes // 2, Limits(families=["Quantization"], locks={name: 0}))
    assert [each.family for each in found] == ["Quantization"]
    chosen = {layer.name: layer for layer in found[0].budget.layers}
    assert chosen[name].option == 0
    assert {layer.family for layer in chosen.values()} <= {"Quantization", KEPT}


@pytest.mark.parametrize("limits", [Limits(), Limits(families=["Pruning"])])
def test_below_the_smallest_of_them_there_is_none(solver, limits):
    least = least_uniform(solver, limits)
    assert [each.budget.size_bytes for each in uniform(solver, least, limits)] == [least]
    assert uniform(solver, least - 1, limits) == []


def test_where_all_is_locked_or_off_there_is_none(solver):
    assert least_uniform(solver, Limits(families=[])) is None

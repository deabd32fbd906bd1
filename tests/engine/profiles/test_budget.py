"""A budget keeps what it promises: never above the bytes, locks held, families off, and the least loss of all."""

from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.profiles.drawn_profiles import DTYPES, drawn_facts, drawn_profile
from webapp.engine.errors import BudgetInvalid
from webapp.engine.profiles.budget import FINE, MARGIN, BudgetGoal, Limits, Solver
from webapp.engine.profiles.facts import KEPT
from webapp.engine.profiles.knapsack import CLOSE
from webapp.engine.recipe import Recipe
from webapp.engine.run.predict import predict

FACTS = {(dtype, odd): drawn_facts(2, 32, dtype, odd) for dtype in DTYPES for odd in (False, True)}
few = settings(max_examples=30, deadline=None)


@pytest.fixture(scope="module")
def solver():
    facts = FACTS["float32", False]
    return Solver(drawn_profile(0, facts, measured=12), facts)


@few
@given(st.integers(0, 10_000), st.sampled_from(sorted(FACTS)), st.floats(0.08, 1.2), st.integers(2, 24))
def test_the_file_is_never_above_the_bytes_and_the_recipe_gives_that_very_file(seed, which, part, options):
    facts = FACTS[which]
    solver = Solver(drawn_profile(seed, facts, options), facts)
    size = int(part * facts.weights_bytes)
    if size < solver.smallest():
        with pytest.raises(BudgetInvalid, match="The smallest file"):
            solver.solve(BudgetGoal(bytes=size))
        return
    found = solver.solve(BudgetGoal(bytes=size))
    assert found.size_bytes <= size
    if found.recipe is None:
        assert all(layer.family == KEPT for layer in found.layers)
    else:
        prediction = predict(facts, Recipe.read(found.recipe))
        assert prediction.after.size_bytes == found.size_bytes
        assert not prediction.warnings or part > 0.9


@pytest.mark.parametrize("part", [0.17, 0.2, 0.3, 0.45, 0.6])
def test_the_file_fills_its_bytes(solver, part):
    size = int(part * solver.facts.weights_bytes)
    assert 0.99 * size <= solver.solve(BudgetGoal(bytes=size)).size_bytes <= size


def test_no_choice_within_the_bytes_loses_less():
    facts = drawn_facts(0, 16, odd=True)
    profile = drawn_profile(3, facts, options=5)
    solver = Solver(profile, facts)
    every = [
        (solver.menu.size(choice), solver.expected(choice).loss.value)
        for choice in product(*(range(len(layer.options)) for layer in profile.layers))
    ]
    sizes = sorted(size for size, _ in every)
    for size in sizes[:: len(sizes) // 12]:
        least = min(loss for own, loss in every if own <= size)
        found = solver.solve(BudgetGoal(bytes=round(size * (1 + FINE + MARGIN))))
        assert found.expected.loss.value <= least * (1 + 2 * CLOSE)
        smallest = min(own for own, loss in every if loss <= least * (1 + 1e-9))
        assert solver.solve(BudgetGoal(loss=least * (1 + 1e-9))).size_bytes <= smallest * 1.02


def test_a_tolerance_is_kept_by_the_expected_loss_and_its_chance_is_told(solver):
    for tolerance in (0.001, 0.01, 0.1):
        found = solver.solve(BudgetGoal(loss=tolerance)).expected
        assert found.loss.value <= tolerance * (1 + 1e-6)
        assert found.loss.value >= tolerance * 0.9
        assert found.loss.low < found.loss.value < found.loss.high
        assert found.chance == pytest.approx(0.5, abs=0.2)


def test_the_front_only_rises_in_loss_as_the_file_shrinks(solver):
    front = solver.solve(BudgetGoal(ratio=0.25)).front
    assert 20 <= len(front) <= 40
    for smaller, larger in pairwise(front):
        assert smaller.size_bytes < larger.size_bytes
        assert smaller.loss > larger.loss
        assert smaller.low <= smaller.loss <= smaller.high
    for point in front[2:-2:6]:
        loss = solver.solve(BudgetGoal(bytes=round(point.size_bytes * 1.005))).expected.loss.value
        assert loss <= point.loss * (1 + CLOSE)


@few
@given(st.integers(0, 10_000), st.data())
def test_a_locked_layer_has_its_option_whatever_else_is_asked(seed, data):
    facts = FACTS["bfloat16", False]
    profile = drawn_profile(seed, facts, 8)
    locked = data.draw(st.lists(st.sampled_from(profile.layers), max_size=4, unique_by=lambda layer: layer.name))
    locks = {layer.name: data.draw(st.integers(0, len(layer.options) - 1)) for layer in locked}
    found = Solver(profile, facts).solve(BudgetGoal(loss=0.05 + 1e3 * bool(locks)), Limits(families=(), locks=locks))
    assert {layer.name: layer.option for layer in found.layers if layer.option} == {k: v for k, v in locks.items() if v}


def test_families_that_are_off_are_not_chosen(solver):
    size = int(0.3 * solver.facts.weights_bytes)
    everything = solver.solve(BudgetGoal(bytes=size)).expected.loss.value
    for families in (["Quantization"], ["Quantization", "Low rank"]):
        found = solver.solve(BudgetGoal(bytes=size), Limits(families=families))
        assert {layer.family for layer in found.layers} <= {KEPT, *families}
        assert found.expected.loss.value >= everything * (1 - CLOSE)


def test_options_that_a_format_does_not_hold_are_not_chosen(solver):
    def holds(layer, option):
        return option.kind != "factored" and all(step.settings.get("bits") in (None, 4, 8) for step in option.steps)

    found = solver.solve(BudgetGoal(ratio=5), Limits(holds=holds))
    options = [layer.options[one.option] for layer, one in zip(solver.profile.layers, found.layers, strict=True)]
    assert all(holds(layer, option) for layer, option in zip(solver.profile.layers[:-1], options[:-1], strict=True))


def test_what_cannot_be_reached_is_said_with_what_stands_in_the_way(solver):
    with pytest.raises(BudgetInvalid, match="smallest file that is possible here has") as caught:
        solver.solve(BudgetGoal(bytes=100))
    assert "without" not in caught.value.message
    with pytest.raises(BudgetInvalid, match=r"without the locks [\d.]+ kB") as caught:
        solver.solve(BudgetGoal(bytes=15_000), Limits(locks={"model.embed_tokens": 0}))
    assert caught.value.field == "goal"
    with pytest.raises(BudgetInvalid, match="with every family"):
        solver.solve(BudgetGoal(bytes=20_000), Limits(families=["Low rank"]))
    worst = max(range(24), key=lambda number: solver.profile.layers[3].options[number].loss)
    with pytest.raises(
        BudgetInvalid, match=r"The least expected loss .* nats, and 1e-9 nats is asked; without the locks 0 nats"
    ):
        solver.solve(BudgetGoal(loss=1e-9), Limits(locks={solver.profile.layers[3].name: worst}))
    with pytest.raises(BudgetInvalid, match="allow a larger file or a larger loss"):
        solver.solve(BudgetGoal(ratio=6, loss=1e-6))


@pytest.mark.parametrize(
    "goal",
    [
        {},
        {"bytes": 0},
        {"bytes": 5, "ratio": 2},
        {"loss": 1, "points": 1},
        {"loss": -1},
        {"size": 5},
        {"bytes": "many"},
    ],
)
def test_a_goal_that_says_nothing_is_refused(goal):
    with pytest.raises(BudgetInvalid) as caught:
        BudgetGoal.read(goal)
    assert caught.value.field.startswith("goal")
    assert "alue error" not in caught.value.message


def test_limits_that_name_what_is_not_there_are_refused(solver):
    for limits, field in (
        (Limits(families=["Magic"]), "families"),
        (Limits(locks={"nowhere": 0}), "locks"),
        (Limits(locks={"model.embed_tokens": 99}), "locks.model.embed_tokens"),
    ):
        with pytest.raises(BudgetInvalid) as caught:
            solver.solve(BudgetGoal(ratio=4), limits)
        assert caught.value.field == field
    with pytest.raises(BudgetInvalid, match="no metric with labels"):
        solver.solve(BudgetGoal(points=0.5))


def test_a_ratio_is_a_share_of_the_file_or_how_many_times_smaller(solver):
    assert solver.solve(BudgetGoal(ratio=0.25)).size_bytes == solver.solve(BudgetGoal(ratio=4)).size_bytes


def test_nothing_has_to_change_where_everything_fits():
    facts = FACTS["float16", False]
    found = Solver(drawn_profile(1, facts), facts).solve(BudgetGoal(bytes=10**9))
    assert found.recipe is None
    assert found.size_bytes == facts.weights_bytes
    assert found.expected.loss.value == found.expected.loss.high == 0

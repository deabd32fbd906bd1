"""A recipe with ranges is all the recipes that it stands for, each once, and says what differs."""

import pytest

from webapp.engine.errors import RecipeInvalid
from webapp.engine.recipe import read_text
from webapp.engine.run.sweep import MOST_VARIANTS, is_sweep, unfold, value_at


def steps(*given):
    return {"version": 2, "steps": list(given)}


def prune(**settings):
    return {"technique": "magnitude_pruning", "settings": settings}


def values(sweep):
    return [axis.values for axis in sweep.axes]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("0.3..0.8 step 0.1", (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)),
        (" 0 .. 1 step 0.5 ", (0.0, 0.5, 1.0)),
        ("0.1..0.35 step 0.1", (0.1, 0.2, 0.3)),
        ("1e-3..3e-3 step 1e-3", (0.001, 0.002, 0.003)),
        ("2..4", (2, 3, 4)),
        ("2..8 step 3", (2, 5, 8)),
        ("-1..1", (-1, 0, 1)),
        ([0.5, "0.7..0.9 step 0.1", 0.8], (0.5, 0.7, 0.8, 0.9)),
        ([2, 2, 3], (2, 3)),
        ([True, False], (True, False)),
    ],
)
def test_ranges_and_lists_are_their_values_without_the_errors_of_binary_fractions(written, expected):
    found = unfold(steps({"technique": "cast", "settings": {"anything": written}}))
    assert values(found) == [expected]
    assert [type(value) for value in found.axes[0].values] == [type(value) for value in expected]
    assert [variant.recipe.steps[0].settings["anything"] for variant in found.variants] == list(expected)


@pytest.mark.parametrize(
    "written", ["0.3..0.8", "1..0", "0.1..x", "1..2 step 0", "1..2 step -1", "1..1e999999999 step 1"]
)
def test_a_range_that_cannot_be_read_is_refused_with_how_it_is_written(written):
    with pytest.raises(RecipeInvalid, match=r"write it like 0\.3\.\.0\.8 step 0\.1") as refused:
        unfold(steps({"technique": "cast", "settings": {"dtype": "float16"}}, prune(sparsity=written)))
    assert refused.value.field == "steps.1.settings.sparsity"


@pytest.mark.parametrize("given", [[], [[0.1]], [None], [{"a": 1}]])
def test_a_list_that_is_none_of_values_is_refused(given):
    with pytest.raises(RecipeInvalid, match="list"):
        unfold(steps(prune(sparsity=given)))


def test_the_recipes_are_all_combinations_and_no_two_are_the_same():
    found = unfold(
        steps(prune(sparsity=[0.2, 0.4]), {"technique": "weight_quantization", "settings": {"bits": [4, 8]}})
    )
    assert [axis.title for axis in found.axes] == ["Sparsity", "Bits"]
    assert [found.title_of(variant) for variant in found.variants] == [
        "Sparsity 0.2, Bits 4",
        "Sparsity 0.2, Bits 8",
        "Sparsity 0.4, Bits 4",
        "Sparsity 0.4, Bits 8",
    ]
    assert len({variant.recipe.digest for variant in found.variants}) == 4


def test_techniques_side_by_side_have_those_settings_that_they_know():
    found = unfold(
        steps({"technique": ["gptq", "awq"], "version": 3, "settings": {"bits": [3, 4], "damping": [0.01, 0.1]}})
    )
    own = [(variant.recipe.steps[0].technique, dict(variant.recipe.steps[0].settings)) for variant in found.variants]
    assert own == [
        ("gptq", {"bits": 3, "damping": 0.01}),
        ("gptq", {"bits": 3, "damping": 0.1}),
        ("gptq", {"bits": 4, "damping": 0.01}),
        ("gptq", {"bits": 4, "damping": 0.1}),
        ("awq", {"bits": 3}),
        ("awq", {"bits": 4}),
    ]
    assert all(variant.recipe.steps[0].version is None for variant in found.variants)
    assert found.title_of(found.variants[-1]) == "AWQ, Bits 4"
    assert [axis.title for axis in found.axes] == ["Technique", "Bits", "Damping"]


def test_what_no_technique_of_a_list_knows_is_left_for_the_check_to_refuse():
    found = unfold(steps({"technique": ["gptq", "awq"], "settings": {"speed": 1}}))
    assert all(variant.recipe.steps[0].settings == {"speed": 1} for variant in found.variants)


@pytest.mark.parametrize("overrides", [{"*.down.proj": {"bits": "4..5"}}, [["*.down.proj", {"bits": [4, 5]}]]])
def test_an_override_may_vary_too_and_its_value_is_found_again(overrides):
    found = unfold(steps({"technique": "gptq", "settings": {"bits": 3}, "overrides": overrides}))
    (axis,) = found.axes
    assert (axis.title, axis.values) == ("Bits of *.down.proj", (4, 5))
    recipes = [variant.recipe.as_dict() for variant in found.variants]
    assert [value_at(recipe, axis.path) for recipe in recipes] == [4, 5]


def test_two_settings_of_one_name_are_told_apart_by_their_steps():
    found = unfold(steps(prune(sparsity=[0.1, 0.2]), prune(sparsity=[0.3, 0.4])))
    assert [axis.title for axis in found.axes] == ["Step 1, sparsity", "Step 2, sparsity"]


def test_the_value_of_a_setting_that_is_not_said_is_its_default():
    recipe = steps({"technique": "weight_quantization"}, {"technique": "cast"})
    assert value_at(recipe, "steps.0.settings.bits") == 8
    assert value_at(recipe, "steps.1.settings.bits") is None
    assert value_at(recipe, "steps.7.settings.bits") is None
    assert value_at(recipe, "steps.1.technique") == "cast"


def test_more_than_a_study_may_have_is_refused_before_any_is_made():
    with pytest.raises(RecipeInvalid, match=f"1,000,000 recipes.*at most {MOST_VARIANTS}"):
        unfold(steps(*(prune(sparsity="0..0.99 step 0.01") for _ in range(3))))
    assert len(unfold(steps(prune(sparsity="0..0.499 step 0.001"))).variants) == MOST_VARIANTS
    for written in ("0..1 step 1e-9", "0..1e5000 step 1", "0..1e999999 step 1", "0..1 step 1e-400", f"0..{'9' * 5000}"):
        with pytest.raises(RecipeInvalid) as refused:
            unfold(steps(prune(sparsity=written)))
        assert len(refused.value.message) < 200
    many = {f"s{number}": [0, 1, 2] for number in range(20_000)}
    with pytest.raises(RecipeInvalid, match="far too many"):
        unfold(steps(prune(**many)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steps: [{technique: cast}]", False),
        ("steps: [{technique: [cast]}]", True),
        ("steps: [{technique: gptq, settings: {bits: 2..4}}]", True),
        ("steps: [{technique: gptq, layers: {include: ['a', 'b']}}]", False),
        ("steps: [{technique: gptq, overrides: {'a.*': {bits: [2, 3]}}}]", True),
        ("steps: [{technique: sparsegpt, settings: {pattern: 2:4}}]", False),
        ("steps: nothing", False),
        ("[1, 2]", False),
        ("", False),
    ],
)
def test_a_recipe_with_ranges_is_told_from_one_without(text, expected):
    assert is_sweep(read_text(text)) is expected


def test_a_recipe_without_ranges_is_one_and_what_is_no_recipe_is_refused_as_ever():
    assert len(unfold(steps(prune(sparsity=0.5))).variants) == 1
    for wrong in ({}, {"steps": []}, {"steps": [1]}, [], None, {"steps": [{}]}):
        with pytest.raises(RecipeInvalid):
            unfold(wrong)

"""A choice written as a recipe says no more than it has to, and every layer gets exactly its option."""

import json

import numpy as np
import pytest

from tests.engine.profiles.drawn_profiles import drawn_facts, drawn_profile
from webapp.engine.profiles.facts import KEPT, LayerOptions, Option, OptionStep, ProfileFacts
from webapp.engine.profiles.recipes import RecipeWriter
from webapp.engine.run.predict import prepare

FACTS = drawn_facts(12, 16, odd=True)
WRITER = RecipeWriter(FACTS)


def options(*steps):
    """What may be done to a layer: nothing, or each of these lists of (technique, settings)."""
    kept = Option(label="kept", family=KEPT, bytes=0, loss=0)
    found = [kept]
    for each in steps:
        given = tuple(OptionStep(technique=name, settings=settings) for name, settings in each)
        found.append(Option(label="changed", family="Quantization", steps=given, bytes=0, loss=1))
    return tuple(found)


def written(choose, *steps):
    """The recipe that gives each layer the option of its number; `choose` says it by name."""
    layers = tuple(
        LayerOptions(name=unit.name, layers=(unit.name,), kind=unit.kind, params=1, options=options(*steps))
        for unit in FACTS.units()
        if unit.kind != "other"
    )
    profile = ProfileFacts(unit="nats", samples=1, layers=layers)
    recipe = WRITER.recipe(profile, [choose(layer.name) for layer in layers])
    return recipe.as_dict()["steps"] if recipe else []


def given(recipe):
    """By layer's name what it is given: (technique, settings), in the order of the steps."""
    found = {}
    for step in prepare(FACTS, recipe):
        for layer in step.layers:
            found.setdefault(layer.name, []).append((step.technique.name, step.settings.of(layer)))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_each_layer_is_given_its_option(seed):
    profile, rng = drawn_profile(seed, FACTS), np.random.default_rng(seed)
    choice = [int(rng.integers(len(layer.options))) for layer in profile.layers]
    found = given(WRITER.recipe(profile, choice))
    wanted = {
        name: layer.options[number].steps
        for layer, number in zip(profile.layers, choice, strict=True)
        for name in layer.layers
    }
    for name, steps in wanted.items():
        assert [technique for technique, _ in found.get(name, [])] == [step.technique for step in steps]
        for step, (_, settings) in zip(steps, found.get(name, []), strict=True):
            assert {key: getattr(settings, key) for key in step.settings} == step.settings


def test_what_most_have_is_the_step_s_own_and_a_column_needs_one_override():
    def choose(name):
        if name.startswith("model.layers.3."):
            return 3
        return 2 if name.endswith("down_proj") else 1 if "layers" in name else 0

    steps = written(choose, *([("gptq", {"bits": bits, "group_size": 32})] for bits in (4, 5, 8)))
    assert steps == [
        {
            "technique": "gptq",
            "settings": {"bits": 4, "group_size": 32},
            "layers": {"include": ["model.layers.*"], "exclude": []},
            "overrides": {"*.down_proj": {"bits": 5}, "model.layers.3.*": {"bits": 8}},
        }
    ]


def test_steps_stand_in_the_order_in_which_each_takes_what_the_others_leave():
    def choose(name):
        return 1 + sum(map(ord, name)) % 5

    steps = written(
        choose,
        [("cast", {"dtype": "float16"})],
        [("weight_quantization", {"bits": 8})],
        [("sparsegpt", {"sparsity": 0.5}), ("gptq", {"bits": 4})],
        [("low_rank", {"ratio": 0.5}), ("gptq", {"bits": 4})],
        [("gptq", {"bits": 3})],
    )
    names = [step["technique"] for step in steps]
    assert names == ["low_rank", "sparsegpt", "gptq", "weight_quantization", "cast"]


def test_settings_that_no_override_can_change_make_steps_of_their_own():
    steps = written(
        lambda name: 1 + ("mlp" in name),
        [("magnitude_pruning", {"sparsity": 0.5, "scope": "row"})],
        [("magnitude_pruning", {"sparsity": 0.6, "scope": "layer"})],
    )
    assert sorted(json.dumps(step["settings"], sort_keys=True) for step in steps) == [
        '{"scope": "layer", "sparsity": 0.6}',
        '{"scope": "row", "sparsity": 0.5}',
    ]


def test_settings_that_do_not_count_are_not_said():
    steps = written(
        lambda name: 1 + ("mlp" in name),
        [("gptq", {"bits": 4, "granularity": "channel", "group_size": 32})],
        [("gptq", {"bits": 4, "granularity": "group", "group_size": 32})],
    )
    (step,) = steps
    said = [step["settings"], *step["overrides"].values()]
    assert all("group_size" not in each or each.get("granularity", "group") == "group" for each in said)


def test_nothing_is_written_where_all_stay():
    assert written(lambda name: 0, [("cast", {})]) == []

"""A layer that is given back is left out of every step that had it, and of no other; what it had is found again."""

import pytest

from tests import zoo
from tests.engine.profiles.drawn_profiles import drawn_facts, drawn_profile
from webapp.engine.errors import RecipeInvalid
from webapp.engine.facts import BlockRow, Structure
from webapp.engine.profiles.budget import BudgetGoal, Solver
from webapp.engine.profiles.facts import ProfileFacts
from webapp.engine.profiles.options import layer_options
from webapp.engine.profiles.recipes import RecipeWriter
from webapp.engine.recipe import Recipe
from webapp.engine.run.giving_back import choice_of, followed, without_layers
from webapp.engine.run.predict import predict, prepare


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "odd"])
def solver(request):
    facts = drawn_facts(blocks=3, odd=request.param)
    return Solver(drawn_profile(1, facts, measured=8), facts)


@pytest.mark.parametrize("ratio", [0.5, 0.3, 0.15])
def test_what_a_budget_chose_is_read_off_its_recipe(solver, ratio):
    budget = solver.solve(BudgetGoal(ratio=ratio))
    choice = choice_of(solver, Recipe.read(budget.recipe))[1]
    told = [layer.option for layer in budget.layers]
    same = [
        one == other or layer.options[one].steps == layer.options[other].steps
        for layer, one, other in zip(solver.profile.layers, choice, told, strict=True)
    ]
    assert all(same)


@pytest.mark.parametrize("family", ["cnn", "llama"])
def test_every_option_that_there_is_is_read_off_its_recipe(family):
    _, facts = zoo.checkpoint(family)
    profile = ProfileFacts(unit="nats", samples=1, layers=layer_options(facts))
    writer, solver = RecipeWriter(facts), Solver(profile, facts)
    for place in (0, len(profile.layers) // 2, len(profile.layers) - 1):
        for number, option in enumerate(profile.layers[place].options[1:], 1):
            asked = [number if n == place else 0 for n in range(len(profile.layers))]
            assert choice_of(solver, writer.recipe(profile, asked))[1] == asked, option.label


def test_a_recipe_that_the_profile_does_not_know_has_no_options(solver):
    recipe = Recipe.read({"steps": [{"technique": "magnitude_pruning", "settings": {"sparsity": 0.123}}]})
    choice = choice_of(solver, recipe)[1]
    kinds = {layer.kind: number for layer, number in zip(solver.profile.layers, choice, strict=True)}
    assert kinds["linear"] is None
    assert kinds["other"] == 0, "no step is for vectors, which stay as they are"


@pytest.mark.parametrize("ratio", [0.5, 0.2])
def test_every_layer_can_be_given_back_alone_and_the_others_keep_what_they_had(solver, ratio):
    budget = solver.solve(BudgetGoal(ratio=ratio))
    recipe = Recipe.read(budget.recipe)
    before = settings_by_layer(solver.facts, recipe)
    for layer in list(before):
        rest = without_layers(solver.facts, recipe, [layer])
        after = settings_by_layer(solver.facts, rest)
        assert after == {name: given for name, given in before.items() if name != layer}
        assert predict(solver.facts, rest).after.size_bytes >= predict(solver.facts, recipe).after.size_bytes


def settings_by_layer(facts, recipe):
    found = {}
    for step in prepare(facts, recipe):
        for layer in step.layers:
            found.setdefault(layer.name, []).append((step.technique.name, step.settings.of(layer).model_dump()))
    return found


def test_steps_before_it_stay_word_for_word():
    facts = drawn_facts(blocks=2)
    first = {"technique": "magnitude_pruning", "settings": {"sparsity": 0.5}, "layers": {"include": ["*.mlp.*"]}}
    overrides = {"model.layers.0.self_attn.q_proj": {"bits": 8}, "*.o_proj": {"bits": 3}}
    second = {"technique": "weight_quantization", "settings": {"bits": 4}, "overrides": overrides}
    recipe = Recipe.read({"steps": [first, second]})
    rest = without_layers(facts, recipe, ["model.layers.0.self_attn.q_proj"])
    assert rest.steps[0] == recipe.steps[0]
    assert list(rest.steps[1].overrides) == ["*.o_proj"], "the other one would match no layer"
    assert rest.steps[1].layers.exclude == ("model.layers.0.self_attn.q_proj",)


def test_a_layer_behind_a_block_that_left_is_given_back_by_the_name_that_the_file_has():
    """Of three blocks the second left: what is now the second was the third in the step before."""
    facts = drawn_facts(blocks=3)
    facts = facts.model_copy(update={"structure": Structure(blocks=BlockRow("model.layers", 3, "num_hidden_layers"))})
    first = {"technique": "magnitude_pruning", "settings": {"sparsity": 0.5}, "layers": {"include": ["*.q_proj"]}}
    drop = {"technique": "layer_drop", "settings": {"by": "evenly"}, "layers": {"include": ["model.layers.1.*"]}}
    recipe = Recipe.read({"steps": [first, drop, {"technique": "weight_quantization"}]})
    name = "model.layers.1.self_attn.q_proj"
    rest = without_layers(facts, recipe, [name])
    assert [step.layers.exclude for step in rest.steps] == [("model.layers.2.self_attn.q_proj",), (), (name,)]
    assert followed(facts, recipe).original[name] == "model.layers.2.self_attn.q_proj"
    with pytest.raises(RecipeInvalid, match="No step works on"):
        without_layers(facts, recipe, ["model.layers.2.self_attn.q_proj"])
    drop["settings"] = {"by": "influence"}
    recipe = Recipe.read({"steps": [drop, {"technique": "weight_quantization"}]})
    assert [step.layers.exclude for step in without_layers(facts, recipe, [name]).steps] == [(), (name,)]
    assert not followed(facts, recipe).original, "data decide which block leaves"


def test_what_cannot_be_given_back_is_said():
    facts = drawn_facts(blocks=1)
    only = Recipe.read({"steps": [{"technique": "weight_quantization", "layers": {"include": ["*.q_proj"]}}]})
    with pytest.raises(RecipeInvalid, match="No step works on"):
        without_layers(facts, only, ["model.layers.0.self_attn.k_proj"])
    with pytest.raises(RecipeInvalid, match="does nothing"):
        without_layers(facts, only, ["model.layers.0.self_attn.q_proj"])

"""A recipe is read strictly: what is wrong is said with the field it is in, before anything runs."""

import pytest
import torch

from webapp.engine.errors import RecipeInvalid
from webapp.engine.recipe import Recipe, Step, lines_named
from webapp.engine.run.predict import match_layers, predict, prepare
from webapp.engine.run.stages import RunGiven, plan_stages
from webapp.engine.run.stages.base import SourceDigests


def step(technique="magnitude_pruning", **more):
    return {"technique": technique, **more}


def refused(facts, *steps) -> RecipeInvalid:
    with pytest.raises(RecipeInvalid) as caught:
        predict(facts, Recipe.read({"steps": list(steps)}))
    return caught.value


def test_yaml_and_json_are_the_same_recipe_and_come_back():
    text = "version: 2\nsteps:\n  - technique: cast\n    settings: {dtype: bfloat16}\n"
    recipe = Recipe.parse(text)
    assert Recipe.parse('{"version": 2, "steps": [{"technique": "cast", "settings": {"dtype": "bfloat16"}}]}') == recipe
    assert Recipe.parse(recipe.to_yaml()) == recipe
    assert Recipe.parse(recipe.to_yaml()).digest == recipe.digest


@pytest.mark.parametrize(
    ("written", "is_"),
    [
        ("2:4", "2:4"),  # YAML 1.1 counts to sixty: 124
        ("on", "on"),  # and has many words for true
        ("no", "no"),
        ("2020-01-01", "2020-01-01"),
        ("true", True),
        ("~", None),
        ("010", 10),
        ("1e-3", 0.001),
        ("-.5", -0.5),
        ("'1e-3'", "1e-3"),
        ("'08'", "08"),
        ("'2:4'", "2:4"),
        ("'true'", "true"),
        ("'yes'", "yes"),
    ],
)
def test_a_scalar_is_read_as_people_mean_it_and_comes_back(written, is_):
    recipe = Recipe.parse(f"steps: [{{technique: cast, settings: {{x: {written}}}, overrides: {{'1e-3': {{}}}}}}]")
    assert recipe.steps[0].settings == {"x": is_}
    assert Recipe.parse(recipe.to_yaml()) == recipe


def test_json_as_text_may_have_tabs_and_any_escape(mlp):
    text = '{\n\t"steps": [{"technique": "cast",\n\t\t"overrides": {"\\ud83d\\ude00\\/": {}}}]}'
    assert list(Recipe.parse(text).steps[0].overrides) == ["😀/"]
    with pytest.raises(RecipeInvalid, match=r"matches no layer.*\(line 3\)"), lines_named(text):
        predict(mlp[1], Recipe.parse(text))


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ("steps: [", None, "neither YAML nor JSON"),
        ("just words", None, "mapping"),
        ("version: 3\nsteps: [{technique: cast}]", "version", "2"),
        ("version: 1\nsteps: [{technique: cast, overrides: {a: {}}}]", "version", "version 1 has no `overrides`"),
        (
            "steps: [{technique: cast, overrides: {0: {}}}]",
            "steps.0.overrides",
            "0 is not text; put the pattern in quotes",
        ),
        ("steps: [{technique: cast, overrides: [[a, {}], [a, {}]]}]", "steps.0.overrides", "'a' stands twice"),
        ("steps: [{technique: cast, overrides: {a: {}, a: {}}}]", None, r"says 'a' twice in one place \(line 1\)"),
        ("version: 1\nsteps: []", "steps", "at least 1"),
        ("version: 1\nsteps: [{technique: cast, colour: red}]", "steps.0.colour", "not a setting"),
        ("version: 1", "steps", "missing"),
        ("a: &a [x]\nb: *a", None, r"alias, `\*a` \(line 2\)"),
        ("? [steps, 1]\n: 2\nsteps: []", None, r"where a name belongs \(line 1\)"),
        ("steps: [{technique: cast, settings: {? {a: 1} : 2}}]", None, "where a name belongs"),
        (r'{"steps": [{"technique": "\ud83d"}]}', None, "neither YAML nor JSON"),
        ("version: true\nsteps: [{technique: cast}]", "version", "should be 2"),
        ("steps: [{technique: cast, settings: }]", "steps.0.settings", r"must be a mapping \(it is null\)"),
        ("steps: [{technique: cast, layers: all}]", "steps.0.layers", r'must be a mapping \(it is "all"\)'),
        (
            "steps: [{technique: cast, layers: {include: fc}}]",
            "steps.0.layers.include",
            r'must be a list \(it is "fc"\)',
        ),
        ("steps: [{technique: cast, layers: {include: [0]}}]", "steps.0.layers.include.0", r"quotes \(it is 0\)"),
        ("steps: {technique: cast}", "steps", "must be a list"),
    ],
)
def test_a_malformed_recipe_gets_a_sentence(text, field, says):
    with pytest.raises(RecipeInvalid, match=says) as caught:
        Recipe.parse(text)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("version: 1\nsteps:\n- technique: cast\n  settings:\n    dtype: int8\n", 5),
        ("version: 1\nsteps:\n- technique: cast\n- technique: magic\n", 4),
        ("version: 1\nsteps:\n- settings: {}\n", 3),  # what is missing: where it should stand
        (
            "version: 1\nsteps:\n- technique: cast\n  layers:\n    include: ['*']\n    exclude:\n    - no.layer\n",
            7,
        ),
        ('{"version": 1,\n "steps": [{"technique": "cast",\n   "settings": {"colour": 1}}]}', 3),
        ("steps:\n- technique: gptq\n  overrides:\n    '0': {bits: 8}\n    '*.weight': {bits: 8}\n", 5),
        ("steps:\n- technique: cast\n  overrides:\n    '0':\n      dtype: float16\n    '*':\n      dtype: int8\n", 7),
    ],
)
def test_a_fault_in_text_is_named_with_its_line(mlp, text, line):
    with pytest.raises(RecipeInvalid, match=rf" \(line {line}\)\.$"), lines_named(text):
        predict(mlp[1], Recipe.parse(text))


@pytest.mark.parametrize(
    ("given", "field", "says"),
    [
        (step("magic"), "steps.0.technique", "no technique 'magic'"),
        (step(settings={"sparsity": 1.5}), "steps.0.settings.sparsity", "1.5"),
        (step(settings={"sparcity": 0.5}), "steps.0.settings.sparcity", "not a setting"),
        (step(settings={"sparsity": float("nan")}), "steps.0.settings.sparsity", ""),
        (step(version=99), "steps.0.technique", "version 99"),
        (step(layers={"include": ["nowhere.*"]}), "steps.0.layers.include.0", "matches no layer"),
        (step(layers={"include": ["*.bias"]}), "steps.0.layers.include.0", "kind conv, experts, linear"),
        (step(layers={"include": ["*"], "exclude": ["*"]}), "steps.0.layers", "No layer is left"),
        (
            step("gptq", overrides={"encoder.*": {"bits": 4}}),
            "steps.0.overrides.encoder.*",
            "'encoder.*' matches no layer. Layers it could name: 0, 2",
        ),
        (
            step(layers={"include": ["*"], "exclude": ["2"]}, overrides={"2": {"sparsity": 0.1}}),
            "steps.0.overrides.2",
            "matches 2, which this step leaves out. Layers it could name: 0",
        ),
        (step(overrides={"": {"sparsity": 0.1}}), "steps.0.overrides.", "is empty. Layers it could name: 0, 2"),
        (step(overrides={"*.bias": {"sparsity": 0.1}}), "steps.0.overrides.*.bias", "works on layers of kind"),
        (step(overrides={"*": {"sparsity": 2}}), "steps.0.overrides.*.sparsity", "(it is 2)"),
        (step(overrides={"*": {"colour": 2}}), "steps.0.overrides.*.colour", "not a setting that exists"),
        (
            step(overrides={"0": {"scope": "global"}}),
            "steps.0.overrides.0.scope",
            "`scope` of Magnitude pruning is the same for all layers of a step; an override can change sparsity, pat",
        ),
        (
            step("fine_tune", overrides={"*": {"epochs": 1}}),
            "steps.0.overrides",
            "Fine-tuning treats all layers of a step alike; remove `overrides`",
        ),
    ],
)
def test_an_impossible_step_is_refused_with_its_field(mlp, given, field, says):
    error = refused(mlp[1], given)
    assert error.field == field
    assert says in error.message


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ("weight_quantization", "low_rank", "put low_rank before weight_quantization"),
        ("weight_quantization", "magnitude_pruning", "put magnitude_pruning before the quantization"),
        ("weight_quantization", "weight_quantization", "integers already"),
        ("magnitude_pruning", "low_rank", "put low_rank before pruning"),
        ("low_rank", "low_rank", "factored already"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused_with_the_reason(mlp, first, second, says):
    small = {"low_rank": {"by": "rank", "rank": 4}}
    error = refused(mlp[1], *(step(name, settings=small.get(name, {})) for name in (first, second)))
    assert error.field == "steps.1"
    assert says in error.message


def test_the_same_techniques_on_different_layers_are_fine(mlp):
    predict(
        mlp[1],
        Recipe.read(
            {
                "steps": [
                    step("weight_quantization", settings={"bits": 8}, layers={"include": ["0"]}),
                    step("weight_quantization", settings={"bits": 4}, layers={"include": ["2"]}),
                ]
            }
        ),
    )


def test_patterns_show_what_they_match(mlp):
    patterns, overrides = {"include": ["*"], "exclude": ["2"]}, {"0": {}, "*": {}, "2": {}}
    found = match_layers(mlp[1], Step(technique="magnitude_pruning", layers=patterns, overrides=overrides))
    assert found.include[0].layers == ["0", "2"]
    assert found.exclude[0].layers == ["2"]
    assert found.selected == ["0"]
    # an override shows the layers that it decides: not those of a later one, nor those that the step leaves out
    assert [(each.pattern, each.layers) for each in found.overrides] == [("0", []), ("*", ["0"]), ("2", [])]


def test_the_last_pattern_that_matches_a_layer_decides_its_settings(mlp):
    own, first, second = {"bits": 4, "scale": "range"}, {"bits": 2, "numbers": "normal"}, {"bits": 6}
    for overrides, asked in (
        ({}, [own, own]),
        ({"*": first, "2": second}, [own | first, own | second]),
        ({"2": second, "*": first}, [own | first, own | first]),
        ({"*": first, "2": {}}, [own | first, own]),
    ):
        given = step("gptq", settings=own, overrides=overrides)
        (prepared,) = prepare(mlp[1], Recipe.read({"steps": [given]}))
        settings = [prepared.settings.of(layer) for layer in prepared.layers]
        assert settings == [prepared.technique.Settings(**each) for each in asked]


def test_the_order_of_overrides_is_part_of_the_recipe():
    there, back = (
        Recipe.read({"steps": [step(overrides=dict(pairs))]})
        for pairs in ((("a", {}), ("b", {})), (("b", {}), ("a", {})))
    )
    assert there.digest != back.digest
    one, other = (plan_stages(RunGiven(recipe=recipe))["step-1"] for recipe in (there, back))
    assert one.key(SourceDigests("c")) != other.key(SourceDigests("c"))
    assert list(Recipe.parse(back.to_yaml()).steps[0].overrides) == ["b", "a"]
    as_pairs = {"steps": [step(overrides=[["b", {}], ["a", {}]])]}  # for who writes JSON with sorted keys
    assert Recipe.read(as_pairs).digest == back.digest


@pytest.mark.parametrize("version", [{"version": 1}, {}])
def test_a_recipe_of_version_1_is_read_as_one_of_version_2(mlp, version):
    given = step("gptq", settings={"bits": 4, "bits_by_layer": " 2=8, *=3,, 2 = 6 "})
    recipe = Recipe.model_validate({**version, "steps": [given, step("cast")]})  # as the database's are read
    overrides = {"*": {"bits": 3}, "2": {"bits": 6}}
    now = {"version": 2, "steps": [step("gptq", settings={"bits": 4}, overrides=overrides), step("cast", settings={})]}
    assert recipe.as_dict() == now
    assert list(recipe.as_dict()["steps"][0]["overrides"]) == ["*", "2"]
    assert Recipe.parse(recipe.to_yaml()) == recipe
    predict(mlp[1], recipe.model_copy(update={"steps": recipe.steps[:1]}))
    unread = {**version, "steps": [step("gptq", settings={"bits_by_layer": "2"})]}
    with pytest.raises(RecipeInvalid, match="'2' is not a pattern with its bits") as caught:
        Recipe.read(unread)
    assert caught.value.field == "steps.0.settings.bits_by_layer"
    assert refused(mlp[1], step("gptq", settings={"bits_by_layer": "2=7"})).field == "steps.0.overrides.2.bits"
    with pytest.raises(RecipeInvalid, match="not a setting that exists"):
        predict(mlp[1], Recipe.read({"version": 2, "steps": [given]}))


def test_excluding_one_name_of_a_tied_tensor_excludes_it(inspected):
    embedding = torch.randn(20, 8)
    _, facts = inspected({"embed.weight": embedding, "lm_head.weight": embedding, "mid.weight": torch.randn(8, 8)})
    for name in ("embed", "lm_head"):
        found = match_layers(facts, Step(technique="weight_quantization", layers={"include": ["*"], "exclude": [name]}))
        assert found.selected == ["mid"]


def test_a_step_that_changes_nothing_is_told_before_it_runs(mlp):
    told = predict(mlp[1], Recipe.read({"steps": [step("low_rank", settings={"by": "rank", "rank": 4000})]}))
    assert any("will change nothing" in warning for warning in told.warnings)


@pytest.mark.parametrize("text", ["version: 1\nsteps: []\nversion: 1", '{"version": 1, "steps": [], "version": 1}'])
def test_a_key_that_is_said_twice_is_named_with_its_line(text):
    with pytest.raises(RecipeInvalid, match=r"says 'version' twice in one place \(line [13]\)"):
        Recipe.parse(text)


@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan"])
def test_a_number_that_is_none_is_refused(mlp, number):
    text = f"version: 1\nsteps:\n- technique: magnitude_pruning\n  settings: {{sparsity: {number}}}\n"
    with pytest.raises(RecipeInvalid, match="sparsity"):
        predict(mlp[1], Recipe.parse(text))


def test_what_an_override_says_in_vain_is_told(mlp):
    def warned(settings, given):
        step = {"technique": "weight_quantization", "settings": settings, "overrides": {"0": given}}
        return predict(mlp[1], Recipe.read({"steps": [step]})).warnings

    (said,) = warned({}, {"group_size": 16})
    assert said.endswith("group_size counts where granularity is group; where '0' counts it is channel.")
    assert warned({}, {"group_size": 16, "granularity": "group"}) == warned({"granularity": "group"}, {"bits": 4}) == []

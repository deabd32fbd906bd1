"""What a budget may choose from: each option fits its layer, saves bytes, and leaves it as large as it says."""

from itertools import pairwise

import pytest

from webapp.engine.facts import CheckpointFacts, LayerFacts, TensorFacts
from webapp.engine.profiles.facts import KEPT
from webapp.engine.profiles.options import VECTORS, layer_options
from webapp.engine.recipe import Recipe
from webapp.engine.run.predict import predict
from webapp.engine.techniques import needs_of, techniques
from webapp.engine.techniques.base import LARGE
from webapp.engine.weights import DensePlan
from webapp.units import percent

MOST, MOST_OF_LARGE = 36, 150  # options of a layer: a budget is solved while a slider moves
WRITTEN = 14  # of a layer's options, at most


def recipe_of(option, layers):
    steps = [{**step.model_dump(), "layers": {"include": list(layers)}} for step in option.steps]
    return Recipe.read({"steps": steps})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["mlp", "cnn", "gpt2", "llama"])
def test_every_tensor_is_in_one_choice_and_every_option_is_a_recipe_that_saves(zoo, family, dtype):
    _, facts = zoo.checkpoint(family, dtype)
    choices = layer_options(facts)
    assert sorted(name for choice in choices for name in choice.layers) == sorted(unit.name for unit in facts.units())
    for choice in choices:
        first, *others = choice.options
        assert (first.family, first.steps) == (KEPT, ())
        large = first.bytes > LARGE * sum(tensor.bytes for tensor in facts.tensors)
        assert len(choice.options) <= (MOST_OF_LARGE if large else MOST)
        assert len({option.label for option in choice.options}) == len(choice.options)
        for option in others:
            assert option.bytes < first.bytes
            told = predict(facts, recipe_of(option, choice.layers))
            assert not any(step.skipped for step in told.steps)
    total = sum(choice.options[0].bytes for choice in choices)
    assert total == sum(tensor.bytes for tensor in facts.tensors if tensor.is_float)


@pytest.mark.parametrize(("family", "name"), [("mlp", "0"), ("gpt2", "transformer.h.0.mlp.c_fc"), ("cnn", "2")])
def test_a_layer_takes_the_bytes_that_its_option_says(zoo, apply_steps, given_batches, family, name):
    checkpoint = zoo.checkpoint(family)
    facts = checkpoint[1]
    (choice,) = (each for each in layer_options(facts) if each.name == name)
    weight = next(layer.weight for layer in facts.layers if layer.name == name)
    data = given_batches(facts.architecture)
    for option in choice.options[1 :: -(-len(choice.options) // WRITTEN)]:
        steps = [(step.technique, step.settings, {"include": [name]}) for step in option.steps]
        model, _ = apply_steps(checkpoint, *steps, data=data)
        plan = model.weights[weight].plan
        assert plan.kind == option.kind, option.label
        assert plan.bytes <= option.bytes, option.label
        assert plan.bytes == option.bytes or "sparsity" in option.label, option.label


def test_of_two_with_one_result_the_one_that_calibrates_is_offered(zoo):
    _, facts = zoo.checkpoint("llama")
    by_kind = {}
    for choice in layer_options(facts):
        used = {step.technique for option in choice.options for step in option.steps}
        by_kind.setdefault(choice.kind, set()).update(used)
    assert by_kind["linear"] == {"gptq", "sparsegpt", "low_rank", "cast", "ggml_quantization"}
    assert by_kind["embedding"] == {"weight_quantization", "cast", "ggml_quantization"}
    assert by_kind["other"] == {"cast"}


def test_types_of_llama_cpp_are_offered_for_what_it_runs(zoo):
    for family in ("mlp", "gpt2", "bert"):
        kinds = {option.kind for choice in layer_options(zoo.checkpoint(family)[1]) for option in choice.options}
        assert "ggml" not in kinds
    technique = techniques()["ggml_quantization"]
    for columns, expected in (
        (64, "Q8_0 Q5_1 Q5_0 Q4_1 Q4_0 IQ4_NL"),
        (48, ""),
        (512, "Q8_0 Q6_K Q5_K Q4_K IQ4_XS Q3_K"),
    ):
        layer = LayerFacts(name="q_proj", weight="q_proj.weight", kind="linear", shape=(8, columns))
        types = [given["type"] for given in technique.options(layer, DensePlan(layer.shape, "float32"), 0.1)]
        assert types[:6] == expected.split()
        assert types[6:] == (["IQ3_S", "IQ3_XXS", "Q2_K", "IQ2_S", "IQ2_XS", "IQ2_XXS"] if columns == 512 else [])


def test_without_data_nothing_is_offered_that_needs_it(zoo):
    _, facts = zoo.checkpoint("mlp")
    offered = [step for choice in layer_options(facts, data=False) for o in choice.options for step in o.steps]
    assert {step.technique for step in offered} == {"weight_quantization", "cast"}
    assert not any("calibration" in needs_of(step.technique, step.settings) for step in offered)


def test_what_is_stored_in_half_precision_already_is_not_cast(zoo):
    _, facts = zoo.checkpoint("llama", "bfloat16")
    choices = layer_options(facts)
    assert not any(step.technique == "cast" for choice in choices for o in choice.options for step in o.steps)
    assert len(next(choice for choice in choices if choice.name == VECTORS).options) == 1


def test_tied_tensors_are_one_choice(zoo):
    _, facts = zoo.checkpoint("gpt2")
    named = [choice.name for choice in layer_options(facts)]
    assert facts.tied
    assert named.count("transformer.wte") == 1
    assert "lm_head" not in named


def test_a_table_that_is_the_head_too_is_rounded_for_it(zoo):
    _, facts = zoo.checkpoint("gpt2")
    (choice,) = (each for each in layer_options(facts) if each.name == "transformer.wte")
    assert {step.technique for option in choice.options for step in option.steps} == {"gptq", "cast"}


def facts_of(*layers):
    tensors = tuple(TensorFacts(name=layer.weight, shape=layer.shape, dtype="float32") for layer in layers)
    return CheckpointFacts(format="safetensors", tensors=tensors, layers=layers, weights_bytes=0)


def layer_of(kind, shape, **more):
    return LayerFacts(name="a", weight="a.weight", kind=kind, shape=shape, **more)


@pytest.mark.parametrize(
    ("layer", "never"),
    [
        (layer_of("recurrent", (128, 32)), {"gptq", "sparsegpt", "low_rank"}),
        (layer_of("conv", (32, 8, 3, 3), groups=4), {"low_rank"}),
        (layer_of("experts", (4, 32, 64), groups=4, stacked=True), {"low_rank"}),
    ],
)
def test_a_technique_offers_nothing_that_it_would_leave_undone(zoo, layer, never):
    spec = zoo.checkpoint("mlp")[1].architecture
    (choice,) = layer_options(facts_of(layer).model_copy(update={"architecture": spec}))
    used = {step.technique for option in choice.options for step in option.steps}
    assert used
    assert not used & never


def test_no_levels_are_fitted_to_each_expert_of_a_stack(zoo):
    """They are stored with one table, so all of them would be rounded without data."""
    spec = zoo.checkpoint("mlp")[1].architecture
    facts = facts_of(layer_of("experts", (4, 32, 64), groups=4, stacked=True))
    (choice,) = layer_options(facts.model_copy(update={"architecture": spec}))
    used = {(step.technique, step.settings.get("numbers")) for option in choice.options for step in option.steps}
    assert ("gptq", "int") in used
    assert ("gptq", "fitted") not in used


def test_without_an_architecture_only_what_needs_none_is_offered():
    (choice,) = layer_options(facts_of(layer_of("linear", (64, 64))))
    assert {step.technique for option in choice.options for step in option.steps} == {"weight_quantization", "cast"}


def test_groups_are_not_wider_than_rows(zoo):
    spec = zoo.checkpoint("mlp")[1].architecture
    (choice,) = layer_options(facts_of(layer_of("linear", (64, 48))).model_copy(update={"architecture": spec}))
    rounded = [step.settings for option in choice.options for step in option.steps if step.technique == "gptq"]
    assert {each["group_size"] < 48 for each in rounded if each["granularity"] == "group"} == {True}
    assert "channel" in {each["granularity"] for each in rounded}


ADDED = """
from webapp.engine.techniques.magnitude_pruning import MagnitudePruning


class Halves(MagnitudePruning):
    name = "halves"
    title = "Halves"

    def options(self, layer, plan, share):
        return () if plan.pruned or plan.factors else [{"sparsity": 0.9}]
"""


def test_a_large_layer_has_finer_steps(zoo):
    """Between two of its sizes lies nothing that the file can have, so they are near each other."""
    spec = zoo.checkpoint("mlp")[1].architecture
    small = [
        layer_of("linear", (256, 256)).model_copy(update={"name": f"{n}", "weight": f"{n}.weight"}) for n in range(12)
    ]
    coarse = layer_options(facts_of(*small).model_copy(update={"architecture": spec}))[0]
    fine = layer_options(facts_of(layer_of("linear", (256, 256))).model_copy(update={"architecture": spec}))[0]
    assert {option.label for option in coarse.options} < {option.label for option in fine.options}
    rounded = [option.bytes for option in fine.options if option.family == "Quantization"]
    sizes = [size for size in rounded if 2 < 8 * size / fine.params < 7]
    assert all(after > 0.92 * before for before, after in pairwise(sizes))


def test_a_technique_that_is_added_takes_part(zoo, plug_ins):
    plug_ins.file(ADDED, "techniques", "halves")
    _, facts = zoo.checkpoint("mlp")
    labels = {option.label for choice in layer_options(facts) for option in choice.options}
    added = f"{percent(0.9, 0)} sparsity"
    assert added in labels
    assert any(label.startswith(f"{added} + 4 bits") for label in labels)

"""What differs between recipes and layers is told, and only that."""

import pytest

from webapp.actions.layer_diff import MOST_LAYERS, layer_diff
from webapp.actions.recipe_diff import recipe_rows
from webapp.engine.techniques import techniques


def run(*steps, **more):
    named = {"checkpoint": {"id": "c", "name": "digits"}, "dataset": None, "training_dataset": None}
    asked = {"teacher_checkpoint": None, "seed": 0, "exports": ["safetensors"], "recipe": {"steps": list(steps)}}
    return named | asked | more


def step(technique, overrides=None, layers=None, **settings):
    return {"technique": technique, "settings": settings, "overrides": overrides or {}, "layers": layers or {}}


def told(*runs):
    return {(row.part, row.name): row.values for row in recipe_rows(runs) if row.differs}


def test_settings_that_differ_are_told_with_what_is_so_by_default():
    four, eight = step("weight_quantization", bits=4), step("weight_quantization", bits=8)
    assert told(run(four), run(eight)) == {("Step 1", "Bits"): [4, 8]}
    default = techniques()["weight_quantization"].Settings().bits
    assert told(run(step("weight_quantization")), run(step("weight_quantization", bits=default))) == {}
    assert told(run(four), run(four, seed=1)) == {("Run", "Seed"): [0, 1]}
    same = recipe_rows([run(four), run(four)])
    assert same
    assert not any(row.differs for row in same)


def test_steps_of_one_technique_stand_beside_each_other_though_another_comes_before():
    found = told(run(step("gptq", bits=4)), run(step("smoothquant"), step("gptq", bits=4)))
    assert found[("Step 1", "Technique")][0] is None
    assert not any(part == "Step 2" for part, _ in found)


def test_techniques_in_one_place_are_compared_setting_by_setting():
    found = told(run(step("gptq", bits=4)), run(step("awq", bits=4)))
    assert found[("Step 1", "Technique")] == ["GPTQ", "AWQ"]
    assert ("Step 1", "Bits") not in found
    assert not any(part == "Step 2" for part, _ in found)


def test_layers_and_overrides_are_settings_too():
    one = step("gptq", bits=4, overrides={"layers.0": {"bits": 8}}, layers={"include": ["*"], "exclude": ["head"]})
    assert told(run(one), run(step("gptq", bits=4))) == {
        ("Step 1", "Not the layers"): ["head", None],
        ("Step 1", "Override of layers.0"): ["Bits 8", None],
    }


def test_a_step_that_no_technique_knows_any_more_is_told_as_it_was_asked():
    found = told(run(step("gone", share=1)), run(step("gone", share=2)))
    assert found == {("Step 1", "share"): [1, 2]}


def layer(name, bits=8.0, sparsity=0.0, storage="int8", size=100):
    sizes = {"stored_bytes": size, "shape": [8, 8]}
    return {"name": name, "bits_per_weight": bits, "sparsity": sparsity, "storage": storage} | sizes


def measured(*layers, losses=None):
    return {"result": {"layers": list(layers)}, "losses": losses}


def test_only_layers_that_differ_in_the_figures_in_which_they_do():
    one = measured(layer("a"), layer("b", bits=4.0))
    other = measured(layer("a"), layer("b", bits=2.0, storage="rank 12: int8"))
    found = layer_diff([one, other], "", False, False)
    assert [row.name for row in found.rows] == ["b"]
    assert found.figures == ["bits", "rank", "storage"]
    assert found.rows[0].values["rank"] == [None, 12]
    assert (found.total, found.differing) == (2, 1)
    assert [row.name for row in layer_diff([one, other], "", False, True).rows] == ["a", "b"]


def test_expected_and_measured_stand_beside_each_other():
    losses = {
        "expected_unit": "nats",
        "measured_unit": "Accuracy",
        "layers": {"a": {"expected": 0.1, "measured": 0.02}},
    }
    found = layer_diff([measured(layer("a"), losses=losses), measured(layer("a"))], "", False, False)
    assert found.rows[0].values["expected"] == [0.1, None]
    assert found.figures == ["expected", "measured"]
    assert found.units == {"expected": "nats", "measured": "Accuracy"}


@pytest.mark.parametrize(
    ("sort", "descending", "order"),
    [
        ("layer", True, ["c", "b", "a"]),
        ("bits.1", False, ["b", "a", "c"]),
        ("bits.1", True, ["a", "b", "c"]),  # c has none, and is last either way
        ("2", True, ["c", "b", "a"]),  # the sparsity of the second run, as old addresses have it
    ],
)
def test_layers_are_sorted_by_any_figure_of_any_run(sort, descending, order):
    one = measured(layer("a", bits=8.0), layer("b", bits=4.0))
    other = measured(layer("a", sparsity=0.1), layer("b", sparsity=0.2), layer("c", sparsity=0.3))
    assert [row.name for row in layer_diff([one, other], sort, descending, False).rows] == order


def test_a_table_of_a_thousand_layers_is_cut_and_says_so():
    runs = [measured(*(layer(f"layers.{n}", bits=float(bits)) for n in range(1000))) for bits in (4, 8)]
    found = layer_diff(runs, "", False, False)
    assert len(found.rows) == MOST_LAYERS
    assert found.left_out == 1000 - MOST_LAYERS

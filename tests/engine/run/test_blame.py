"""What a layer costs is what a run without it at hand would have measured: the file with that layer as it was."""

import json

import numpy as np
import pytest
import torch

from tests import zoo
from tests.engine.run.test_stages import Bench, labelled_by_itself, seeded_mlp
from webapp.engine.architectures.build import build
from webapp.engine.errors import RecipeInvalid
from webapp.engine.recipe import Recipe
from webapp.engine.run.stages import RunGiven, plan_stages
from webapp.engine.run.stages.base import SourceDigests
from webapp.engine.run.stages.blame import given_back
from webapp.engine.weights.model import Model

RUINED = ("weight_quantization", {"bits": 2})


@pytest.fixture
def labelled(bench):
    return labelled_by_itself(bench, seeded_mlp())


def bench_at(tmp_path, name, mlp, labelled, **options):
    (tmp_path / name).mkdir()
    return Bench(tmp_path / name, mlp, labelled, options=options)


@pytest.mark.parametrize("step", [RUINED, ("low_rank", {"ratio": 0.3}), ("dynamic_quantization", {})])
def test_giving_a_layer_back_measures_what_a_run_without_it_measures(tmp_path, mlp, labelled, step):
    asked = bench_at(tmp_path, "asked", mlp, labelled, blame=("0",), evaluate_at_most=800)  # a quarter: all samples
    blame = asked.run(step)["receipt"]["blame"]
    (row,) = blame["layers"]
    spared = bench_at(tmp_path, "spared", mlp, labelled)
    given = {"technique": step[0], "settings": step[1], "layers": {"exclude": ["0"]}}
    spared.asked = lambda *steps: RunGiven(recipe=Recipe.read({"steps": [given]}))
    result = spared.run(step)["result"]
    for metric in ("kl_divergence", "accuracy"):
        cost = row["differences"][metric]["difference"]
        assert blame["metrics"][metric]["value"] + cost == pytest.approx(result["metrics"][metric]["value"], abs=1e-6)
    assert row["bytes"] == 64 * 48 * 4 - layer_bytes(asked, "0")


def test_behind_a_block_that_left_a_layer_is_that_of_the_original_which_had_another_name(tmp_path, bench):
    x = np.random.default_rng(0).standard_normal((60, 3, 8, 8), np.float32)
    np.savez(tmp_path / "noise.npz", x=x, y=np.arange(60) % 2)
    data, vit = (bench.dataset(tmp_path / "noise.npz"), bench.out)[::-1], zoo.checkpoint("vit")
    second = next(layer.name for layer in vit[1].layers if ".1." in layer.name and layer.shape == (24, 16))
    name = second.replace(".1.", ".0.")  # in the file
    row = vit[1].structure.blocks
    drop = {"technique": "layer_drop", "settings": {"by": "evenly"}, "layers": {"include": [f"{row.path}.0.*"]}}
    ruin = {"technique": RUINED[0], "settings": RUINED[1]}

    def run(folder, step, **options):
        made = bench_at(tmp_path, folder, vit, data, evaluate_at_most=800, **options)
        made.asked = lambda *_: RunGiven(recipe=Recipe.read({"steps": [drop, step]}), **made.options)
        return made.run()

    (row,) = run("asked", ruin, blame=(name,))["receipt"]["blame"]["layers"]
    ruined, spared = run("ruined", ruin), run("spared", ruin | {"layers": {"exclude": [name]}})
    after, before = (each["result"]["metrics"]["kl_divergence"]["value"] for each in (spared, ruined))
    assert (row["name"], row["differences"]["kl_divergence"]["difference"]) == (name, pytest.approx(after - before))
    drop["settings"] = {"by": "influence"}
    with pytest.raises(RecipeInvalid, match="data had decided"):
        run("by data", ruin, blame=(name,))


def layer_bytes(bench, name):
    rows = bench.facts["verify-safetensors"]["result"]["layers"]
    return next(row["stored_bytes"] for row in rows if row["name"] == name)


def test_the_worst_layers_are_found_where_none_are_named_and_a_run_that_is_not_asked_has_none(tmp_path, mlp, labelled):
    asked = bench_at(tmp_path, "asked", mlp, labelled, blame=())
    receipt = asked.run(RUINED)["receipt"]
    assert {row["name"] for row in receipt["blame"]["layers"]} == {"0", "2"}
    plain = bench_at(tmp_path, "plain", mlp, labelled)
    assert "blame" not in plain.run(RUINED)["receipt"]
    for stage in plan_stages(plain.asked(RUINED)).values():  # which both share
        sources = SourceDigests("c", "d")
        assert stage.key(sources) == plan_stages(asked.asked(RUINED))[stage.name].key(sources)


def test_what_cannot_be_given_back_is_said(tmp_path, mlp, labelled):
    with pytest.raises(RecipeInvalid, match="no layer of this file"):
        bench_at(tmp_path, "unknown", mlp, labelled, blame=("7",)).run(RUINED)
    with pytest.raises(RecipeInvalid, match="cannot be measured"):
        bench_at(tmp_path, "no data", mlp, None, blame=()).run(RUINED)
    narrow = ("structured_pruning", {"ratio": 0.5})
    with pytest.raises(RecipeInvalid, match="another shape"):
        bench_at(tmp_path, "narrow", mlp, labelled, blame=("0",)).run(narrow)


@pytest.mark.parametrize("form", ["4 bits", "low rank, 8 bits"])
@pytest.mark.parametrize("family", ["cnn", "gpt2", "llama"])
def test_the_module_answers_as_one_that_is_built_with_the_original_layer(family, form):
    original, model = zoo.model(family), zoo.model(family, form)
    _, facts = zoo.checkpoint(family)
    module, whole = build(model), build(original)
    layer = next(
        layer for layer in facts.layers if model.weights[layer.weight].plan != original.weights[layer.weight].plan
    )
    rebuilt = build(
        Model({**model.weights, layer.weight: original.weights[layer.weight]}, model.tied, model.architecture)
    )
    (batch, *_) = zoo.seeded_batches(facts.architecture).batches
    with torch.inference_mode():
        before = answer(module, batch)
        with given_back(module, whole, layer, layer):
            torch.testing.assert_close(answer(module, batch), answer(rebuilt, batch))
        assert torch.equal(answer(module, batch), before)
        assert not torch.equal(answer(rebuilt, batch), before)


def answer(module, batch):
    found = module(**batch.inputs) if "input_ids" in batch.inputs else module(*batch.inputs.values())
    return found if isinstance(found, torch.Tensor) else found[0]


def test_its_facts_are_json(tmp_path, mlp, labelled):
    bench = bench_at(tmp_path, "asked", mlp, labelled, blame=())
    bench.run(RUINED)
    assert json.loads(json.dumps(bench.facts["blame"], allow_nan=False)) == bench.facts["blame"]

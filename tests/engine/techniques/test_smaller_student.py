"""Fewer blocks, narrower layers, begun from the teacher or at random; a distillation then teaches it."""

import pytest
import torch
from torch import nn

from webapp.engine.architectures.build import build, load
from webapp.engine.data.batches import outputs, synthetic
from webapp.engine.errors import RecipeInvalid
from webapp.engine.recipe import Recipe
from webapp.engine.run.predict import predict
from webapp.engine.run.stages.export import write_companions
from webapp.engine.techniques.surgery import with_structure
from webapp.engine.weights.artifact import write_model
from webapp.engine.weights.model import Model

SMALLER = {"depth": 0.5, "width": 0.5, "heads": 0.5}


def recipe(**settings):
    return Recipe.read({"steps": [{"technique": "smaller_student", "settings": settings}]})


@pytest.fixture
def llama(bench, tiny, tmp_path):
    counts = {"num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
    tiny("LlamaForCausalLM", "llama", **counts).save_pretrained(tmp_path / "model")
    facts = bench.checkpoint(bench.zip_folder(tmp_path / "model"))
    return bench.out, facts


@pytest.mark.parametrize("initialise", ["teacher", "random"])
def test_stock_transformers_loads_a_student_of_half_of_everything(llama, tmp_path, apply_steps, initialise):
    from transformers import AutoModelForCausalLM

    folder, facts = llama
    model, outcomes = apply_steps(llama, ("smaller_student", {**SMALLER, "initialise": initialise}))
    assert {outcome.layer for outcome in outcomes if not outcome.ok} == {"lm_head"}
    assert {layer.name for layer in facts.layers if layer.kind == "linear"} <= {outcome.layer for outcome in outcomes}
    config = model.architecture.config
    before = facts.architecture.config
    assert config["num_hidden_layers"] == 2  # round half to even, as Python does
    for key in ("intermediate_size", "num_attention_heads", "num_key_value_heads"):
        assert config[key] == before[key] // 2
    write_model(model, tmp_path / "model.safetensors")
    write_companions(model, folder, facts.architecture.config, tmp_path)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    batch = synthetic(model.architecture, 5)
    with torch.inference_mode():
        assert torch.allclose(outputs(build(model), model.architecture, batch), stock(**batch.inputs).logits, atol=1e-5)


def test_from_the_teacher_every_weight_is_one_of_its_own_and_at_random_none_is(llama, apply_steps):
    taught, _ = apply_steps(llama, ("smaller_student", {"width": 1.0, "depth": 0.4}))
    original = Model.of_checkpoint(*llama)
    down = "model.layers.{}.mlp.down_proj.weight"
    blocks = {index: original.weights[down.format(index)].decode() for index in range(5)}
    for index in range(2):
        assert any(torch.equal(own, taught.weights[down.format(index)].decode()) for own in blocks.values())
    drawn, _ = apply_steps(llama, ("smaller_student", {"width": 1.0, "depth": 0.4, "initialise": "random"}))
    again, _ = apply_steps(llama, ("smaller_student", {"width": 1.0, "depth": 0.4, "initialise": "random"}))
    for name, encoded in drawn.weights.items():
        assert torch.equal(encoded.decode(), again.weights[name].decode()), "the seed decides"
        if "norm" not in name:
            assert not torch.equal(encoded.decode(), taught.weights[name].decode()), name


@pytest.mark.parametrize("settings", [{"width": 0.5}, SMALLER, {"depth": 0.3, "width": 1.0}])
def test_the_prediction_is_what_is_done(llama, tmp_path, apply_steps, settings):
    model, _ = apply_steps(llama, ("smaller_student", settings))
    size = write_model(model, tmp_path / "model.safetensors")
    assert predict(with_structure(llama[1]), recipe(**settings)).after.size_bytes == size


def test_a_small_network_learns_from_the_larger_one(mlp, apply_steps, tmp_path):
    model, _ = apply_steps(mlp, ("smaller_student", {"width": 0.25, "initialise": "random", "round_to": 1}))
    write_model(model, tmp_path / "student.safetensors")
    student = load(tmp_path / "student.safetensors")
    widths = [part.out_features for part in student.modules() if isinstance(part, nn.Linear)]
    whole = [layer.shape[0] for layer in mlp[1].layers]
    assert widths[:-1] == [round(width / 4) for width in whole[:-1]]
    assert widths[-1] == whole[-1]


def test_nothing_to_make_smaller_is_said(mlp, llama):
    for checkpoint, settings, words in (
        (mlp, {"width": 1.0}, "as large as the model"),
        (mlp, {"depth": 0.5}, "not a row of transformer blocks"),
        (
            llama,
            {"width": 0.5, "depth": 1.0, "round_to": 1024},
            "1024 is the least multiple that may stay, and there are 64",
        ),
    ):
        with pytest.raises(RecipeInvalid, match=words):
            predict(with_structure(checkpoint[1]), recipe(**settings))

"""Blocks leave whole, the others move up, and stock transformers loads what is left."""

import json
from dataclasses import replace

import pytest
import torch

from tests.zoo import ENCODER
from webapp.engine.architectures.build import build
from webapp.engine.data.batches import outputs, synthetic
from webapp.engine.errors import RecipeInvalid
from webapp.engine.recipe import Recipe
from webapp.engine.run.predict import predict
from webapp.engine.run.stages.export import write_companions
from webapp.engine.techniques.surgery import with_structure
from webapp.engine.weights.artifact import write_model
from webapp.engine.weights.model import Model

from .test_channels_of_transformers import TYPES

BLOCKS = 5


def made(bench, tiny, tmp_path, name="LlamaForCausalLM", model_type="llama", idle=(), **changes):
    """A tiny model whose blocks in `idle` add nothing to the residual stream."""
    counted = {"n_layer": BLOCKS} if model_type == "gpt2" else {"num_hidden_layers": BLOCKS}
    module = tiny(name, model_type, **{**counted, **changes})
    with torch.no_grad():
        for parameter, value in module.named_parameters():
            for index in idle:
                if f".{index}." in parameter and any(end in parameter for end in ("o_proj", "down_proj", "c_proj")):
                    value.zero_()
    module.save_pretrained(tmp_path / "model")
    facts = bench.checkpoint(bench.zip_folder(tmp_path / "model"))
    return (bench.out, facts), module


def removed(outcomes) -> set[int]:
    """The numbers of the blocks that left."""
    gone = (outcome.done.partition("removed with block ")[2] for outcome in outcomes)
    return {int(number) for number in gone if number}


@pytest.mark.parametrize("by", ["influence", "influence_again"])
@pytest.mark.parametrize(("name", "model_type"), [("LlamaForCausalLM", "llama"), ("GPT2LMHeadModel", "gpt2")])
def test_blocks_that_do_nothing_leave_and_no_answer_changes(
    bench, tiny, tmp_path, apply_steps, given_batches, by, name, model_type
):
    checkpoint, module = made(bench, tiny, tmp_path, name, model_type, idle=(1, 3))
    data = given_batches(checkpoint[1].architecture)
    model, outcomes = apply_steps(checkpoint, ("layer_drop", {"blocks": 2, "by": by}), data=data)
    assert removed(outcomes) == {1, 3}
    batch = synthetic(checkpoint[1].architecture, 5)
    with torch.inference_mode():
        assert torch.allclose(
            outputs(build(model), model.architecture, batch), module(**batch.inputs).logits, atol=1e-5
        )


@pytest.mark.parametrize(("by", "gone"), [("evenly", {1, 3}), ("last", {2, 3})])
def test_without_data_the_choice_is_by_place(bench, tiny, tmp_path, apply_steps, by, gone):
    checkpoint, _ = made(bench, tiny, tmp_path)
    _, outcomes = apply_steps(checkpoint, ("layer_drop", {"blocks": 2, "by": by}))
    assert removed(outcomes) == gone
    assert [outcome.layer for outcome in outcomes] == [la.name for la in checkpoint[1].layers if la.kind == "linear"]


@pytest.mark.parametrize(("name", "model_type"), [("LlamaForCausalLM", "llama"), ("GPT2LMHeadModel", "gpt2")])
def test_stock_transformers_loads_what_is_left(bench, tiny, tmp_path, apply_steps, name, model_type):
    from transformers import AutoModelForCausalLM

    (folder, facts), _ = made(bench, tiny, tmp_path, name, model_type)
    model, _ = apply_steps((folder, facts), ("layer_drop", {"blocks": 2, "by": "evenly"}))
    out = tmp_path / "out"
    out.mkdir()
    size = write_model(model, out / "model.safetensors")
    write_companions(model, folder, facts.architecture.config, out)
    stock, batch = AutoModelForCausalLM.from_pretrained(out).eval(), synthetic(facts.architecture, 5)
    with torch.inference_mode():
        assert torch.allclose(outputs(build(model), facts.architecture, batch), stock(**batch.inputs).logits, atol=1e-5)
    recipe = {"steps": [{"technique": "layer_drop", "settings": {"blocks": 2, "by": "evenly"}}]}
    assert predict(with_structure(facts), Recipe.read(recipe)).after.size_bytes == size


def test_lists_of_the_config_that_name_each_block_are_shortened(bench, tiny, tmp_path, apply_steps):
    kinds = ["full_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    changes = {
        **ENCODER,
        "num_hidden_layers": BLOCKS,
        "vocab_size": 40,
        "num_key_value_heads": 2,
        "layer_types": kinds,
        "use_sliding_window": True,
        "sliding_window": 4,
    }
    checkpoint, _ = made(bench, tiny, tmp_path, "Qwen2ForCausalLM", "qwen2", **changes)
    model, _ = apply_steps(checkpoint, ("layer_drop", {"blocks": 2, "by": "evenly"}))
    assert model.architecture.config["layer_types"] == [kinds[0], kinds[2], kinds[4]]
    assert json.dumps(model.architecture.config)


def test_later_steps_find_the_blocks_under_their_new_names(bench, tiny, tmp_path, apply_steps):
    checkpoint, _ = made(bench, tiny, tmp_path)
    drop = ("layer_drop", {"blocks": 2, "by": "last"})
    last = {"include": ["model.layers.2.*"]}
    model, outcomes = apply_steps(checkpoint, drop, ("weight_quantization", {"bits": 8}, last))
    assert len(outcomes) == 7
    assert model.weights["model.layers.2.mlp.up_proj.weight"].plan.kind == "quantized"


def test_what_cannot_leave_is_refused_with_the_reason(bench, tiny, tmp_path, mlp):
    (_, facts), _ = made(bench, tiny, tmp_path)

    def refusal(facts, settings, **layers):
        step = {"technique": "layer_drop", "settings": settings, **layers}
        with pytest.raises(RecipeInvalid) as refused:
            predict(with_structure(facts), Recipe.read({"steps": [step]}))
        return refused.value.message

    assert "at least one has to stay" in refusal(facts, {"blocks": 5})
    only = {"include": ["model.layers.1.*", "model.layers.2.*"]}
    assert "2 are among the chosen layers" in refusal(facts, {"blocks": 3}, layers=only)
    assert "not a row of transformer blocks" in refusal(mlp[1], {"blocks": 1})


def predicted(facts, by):
    return predict(facts, Recipe.read({"steps": [{"technique": "layer_drop", "settings": {"blocks": 2, "by": by}}]}))


@pytest.mark.parametrize(
    ("name", "model_type", "config"),
    [
        ("DeepseekV3ForCausalLM", "deepseek_v3", TYPES["deepseek_v3"][1]),  # dense before experts
        ("ModernBertForMaskedLM", "modernbert", {**ENCODER, "vocab_size": 40, "pad_token_id": 0}),  # without a norm
        ("T5EncoderModel", "t5", {"d_model": 16, "num_heads": 2, "d_kv": 8, "d_ff": 24, "vocab_size": 40}),  # positions
    ],
)
def test_a_block_that_is_another_for_its_place_stays(bench, tiny, tmp_path, apply_steps, name, model_type, config):
    (folder, facts), _ = made(bench, tiny, tmp_path, name, model_type, **{**config, "num_hidden_layers": 3})
    facts = with_structure(facts)
    assert facts.structure.blocks.fixed == (0,)
    model, outcomes = apply_steps((folder, facts), ("layer_drop", {"blocks": 2, "by": "evenly"}))
    assert removed(outcomes) == {1, 2}
    assert model.weights.keys() <= build(model).state_dict().keys()
    with pytest.raises(RecipeInvalid, match="cannot describe the model without block 0"):
        predict(facts, Recipe.read({"steps": [{"technique": "layer_drop", "settings": {"blocks": 3}}]}))


def test_the_size_is_exact_where_it_does_not_matter_which_blocks_leave(bench, tiny, tmp_path):
    kinds = ["full_attention", "sliding_attention"] * 2 + ["full_attention"]
    more = {**ENCODER, "num_hidden_layers": BLOCKS, "vocab_size": 40, "use_sliding_window": True, "sliding_window": 4}
    (_, facts), _ = made(bench, tiny, tmp_path, "Qwen2ForCausalLM", "qwen2", **more, layer_types=kinds)
    unlike = with_structure(facts)  # the config is in the file, and one word is longer
    assert [predicted(unlike, by).exact for by in ("influence", "evenly")] == [False, True]
    row = unlike.structure.blocks
    alike = unlike.structure.model_copy(update={"blocks": replace(row, lists={})})
    assert predicted(unlike.model_copy(update={"structure": alike}), "influence").exact


def test_a_list_that_has_as_many_entries_as_there_are_blocks_by_chance_is_kept(bench, tiny, tmp_path):
    words = {**ENCODER, "vocab_size": 40, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
    (_, facts), _ = made(bench, tiny, tmp_path, "DebertaV2Model", "deberta-v2", **words)
    row = with_structure(facts).structure.blocks
    assert (row.count, row.lists) == (2, {})


def test_a_tensor_that_leaves_with_its_block_stays_with_the_one_that_shares_it(bench, tiny, tmp_path, apply_steps):
    (folder, facts), _ = made(bench, tiny, tmp_path)
    whole = Model.of_checkpoint(folder, facts)
    name, alias, shared = (f"model.layers.{number}.mlp.up_proj.weight" for number in (1, 2, 4))
    tied, values = {alias: name, shared: name}, whole.weights[name].decode().clone()
    layers = [replace_aliases(layer, tied) for layer in facts.layers if layer.weight not in tied]
    tensors = tuple(tensor for tensor in facts.tensors if tensor.name not in tied)
    whole.weights = {name: weight for name, weight in whole.weights.items() if name not in tied}
    write_model(replace(whole, architecture=None), folder / "model.safetensors")
    facts = with_structure(facts.model_copy(update={"tensors": tensors, "layers": tuple(layers), "tied": tied}))
    assert not any(group.kind == "neurons" for group in facts.structure.groups)
    assert "another layer's too" in facts.structure.why_not(name)
    assert not predicted(facts, "influence").exact
    model, _ = apply_steps((folder, facts), ("layer_drop", {"blocks": 2, "by": "evenly"}))  # 1 and 3
    assert model.tied == {"model.layers.2.mlp.up_proj.weight": "model.layers.1.mlp.up_proj.weight"}
    assert torch.equal(model.weights["model.layers.1.mlp.up_proj.weight"].decode(), values)
    assert build(model)
    assert predicted(facts, "evenly").after.size_bytes == write_model(model, tmp_path / "left.safetensors")


def replace_aliases(layer, tied):
    aliases = tuple(alias.removesuffix(".weight") for alias, name in tied.items() if name == layer.weight)
    return layer.model_copy(update={"aliases": aliases})

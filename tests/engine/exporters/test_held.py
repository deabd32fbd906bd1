"""Which forms a format holds: what it says of a plan is what its writer does with the weight."""

import pytest
import torch

from tests.zoo import FORMS
from webapp.engine.errors import RecipeInvalid
from webapp.engine.exporters import exporters, held_in
from webapp.engine.exporters.gguf.blocks import choose
from webapp.engine.exporters.transformers_folder.folder import why_float
from webapp.engine.profiles.options import layer_options
from webapp.engine.weights import Composite, Dense, GgmlBlocks, Quantized


@pytest.fixture(params=FORMS)
def weight(zoo, request):
    """A square matrix of a model in one of the forms, with its facts."""
    model = zoo.model("deep_mlp", request.param)
    layer = zoo.checkpoint("deep_mlp")[1].layers[0]
    return layer, model.weights[layer.weight]


def test_gguf_keeps_the_integers_that_it_holds(weight):
    layer, encoded = weight
    saved = isinstance(encoded, Dense) and encoded.plan.kind == "dense"
    packed = encoded.plan.stored == encoded.plan.params
    written = not isinstance(encoded, Composite) and choose(encoded).codes
    assert exporters()["gguf"].holds(layer, encoded.plan) == (saved or (written and packed))


def test_the_folder_packs_what_it_holds(weight):
    layer, encoded = weight
    packed = why_float(encoded, torch.nn.Linear(64, 64), tied=False) is None
    dense = encoded.plan.stored == encoded.plan.params
    assert exporters()["compressed_tensors"].holds(layer, encoded.plan) == (packed and dense)


def test_pares_own_file_holds_all(weight):
    layer, encoded = weight
    assert exporters()["safetensors"].holds(layer, encoded.plan)


def test_a_graph_holds_factors_and_codes_and_saves_nothing_by_zeros(weight):
    layer, encoded = weight
    held = exporters()["onnx"].holds(layer, encoded.plan)
    known = not isinstance(encoded, GgmlBlocks)  # which it decodes to floats
    assert held == (known and encoded.plan.stored == encoded.plan.params)
    assert held or isinstance(encoded, Dense | Quantized | Composite | GgmlBlocks)


def test_options_of_a_checkpoint_that_all_of_several_formats_hold(zoo):
    _, facts = zoo.checkpoint("llama", "bfloat16")
    choices = {choice.name: choice for choice in layer_options(facts)}

    def held(name, *formats):
        holds, choice = held_in(facts, formats), choices[name]
        return {option.label for option in choice.options if holds(choice, option)}

    query, embedding = "model.layers.0.self_attn.q_proj", "model.embed_tokens"
    everything = {option.label for option in choices[query].options}
    blocks = {option.label for option in choices[query].options if option.kind == "ggml"}
    assert blocks
    assert held(query) == held(query, "safetensors") == everything - blocks
    llama, folder = held(query, "gguf"), held(query, "compressed_tensors")
    assert {"as it is", "4 bits, per channel", "8 bits, per channel", *blocks} <= llama
    assert not blocks & folder
    assert not any("sparsity" in label or "fitted" in label or "factors" in label for label in llama | folder)
    assert held(embedding, "compressed_tensors") == {"as it is"} < held(embedding, "gguf")
    assert held(embedding, "gguf", "compressed_tensors") == {"as it is"}
    with pytest.raises(RecipeInvalid, match="no export 'paper'"):
        held_in(facts, ["paper"])

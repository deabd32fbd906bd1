"""A GGUF becomes the float32 model it was made from, up to its quantization, whatever its architecture."""

import json

import numpy as np
import pytest
import torch

from tests.engine.importers.tiny_gguf import MODELS, STRETCHED, TOKENS, model_of, write_gguf
from webapp.engine.architectures import architecture


def assert_is_that_model(bench, facts, model):
    """The same values under the same names, and the same answers."""
    state = model.state_dict()
    for name, tensor in bench.tensors().items():
        assert torch.allclose(tensor, state[name], rtol=0, atol=1e-6), name
    module = architecture(facts.architecture).skeleton(facts.architecture)
    module.load_state_dict(bench.tensors(), assign=True, strict=False)
    module.tie_weights()
    tokens = torch.randint(0, 64, (2, 21))
    with torch.no_grad():
        assert torch.allclose(module(tokens).logits, model(tokens).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_is_read_as_the_model_that_it_was(bench, name):
    model = model_of(name)
    facts = bench.checkpoint(write_gguf(bench.root / "upload", model, name), "tiny.gguf")
    assert (facts.format, facts.architecture.title) == ("gguf", type(model).__name__)
    assert facts.architecture.task == "causal-lm"
    assert_is_that_model(bench, facts, model)


@pytest.mark.parametrize("kind", STRETCHED)
def test_positions_are_stretched_as_the_file_says(bench, kind):
    name, changes = STRETCHED[kind]
    model = model_of(name, **changes)
    facts = bench.checkpoint(write_gguf(bench.root / "tiny.gguf", model, name))
    assert not any("positions" in note for note in facts.notes)
    assert_is_that_model(bench, facts, model)


def test_positions_stretched_in_an_unknown_way_are_told(bench):
    factors = ("rope_freqs.weight", np.linspace(1, 3, 8, dtype=np.float32))
    facts = bench.checkpoint(write_gguf(bench.root / "tiny.gguf", model_of("llama"), extra=[factors]))
    assert "Its rope_freqs.weight (positions stretched for long texts) is not applied." in facts.notes


@pytest.mark.parametrize("tied", [False, True])
def test_a_tied_head_is_held_once(bench, tied):
    model = model_of("llama", tie_word_embeddings=tied)
    facts = bench.checkpoint(write_gguf(bench.root / "tiny.gguf", model))
    assert facts.tied == ({"lm_head.weight": "model.embed_tokens.weight"} if tied else {})
    assert_is_that_model(bench, facts, model)


@pytest.mark.parametrize(("kind", "step"), [("Q8_0", 1 / 127), ("Q4_1", 1 / 15), ("Q4_0", 1 / 8)])
def test_a_quantized_file_is_dequantized_and_the_note_says_from_what(bench, kind, step):
    model = model_of("llama")
    path = write_gguf(bench.root / "tiny.gguf", model, kind=kind)
    facts = bench.checkpoint(path)
    assert set(facts.dtypes) == {"float32"}
    assert facts.notes[0].startswith(f"dequantized from {kind} to float32: the upload is")
    for name, tensor in bench.tensors().items():
        original = model.state_dict()[name]
        assert (tensor - original).abs().max() <= step * original.abs().max() * 1.1


def test_its_tokenizer_comes_along(bench):
    facts = bench.checkpoint(write_gguf(bench.root / "tiny.gguf", model_of("llama")))
    assert facts.architecture.inputs == {"tokens": 64, "vocab": 64, "tokenizer": True}
    tokenizer = architecture(facts.architecture).tokenizer(facts.architecture, bench.out)
    assert tokenizer("ab", add_special_tokens=False).input_ids == [TOKENS.index("ab")]


def test_the_normalised_folder_is_one_that_transformers_reads(bench):
    from transformers import AutoModelForCausalLM

    model = model_of("llama")
    bench.checkpoint(write_gguf(bench.root / "tiny.gguf", model))
    assert json.loads((bench.out / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    again, tokens = AutoModelForCausalLM.from_pretrained(bench.out), torch.randint(0, 64, (1, 7))
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)


def test_an_architecture_that_cannot_be_read_is_named(bench):
    path = write_gguf(bench.root / "a.gguf", model_of("llama"), named="bert")
    assert 'a.gguf is of architecture "bert", which transformers does not load; it loads' in bench.refusal(path)
    path = write_gguf(bench.root / "b.gguf", model_of("qwen3moe"), "qwen3moe", named="llama")
    assert "b.gguf is a LLaMA of 4 experts (Mixtral), which transformers does not load" in bench.refusal(path)


def test_numbers_that_no_model_has_are_refused_before_anything_is_made_of_them(bench):
    content = write_gguf(bench.root / "a.gguf", model_of("llama")).read_bytes()
    for key, sentence in (
        (b"llama.block_count", "says llama.block_count 4096 and holds 21 tensors"),
        (b"llama.rope.dimension_count", "says llama.rope.dimension_count 4096, and its heads have 16 values"),
    ):
        at = content.index(key) + len(key) + 4
        path = bench.file("b.gguf", content[:at] + (4096).to_bytes(4, "little") + content[at + 4 :])
        assert sentence in bench.refusal(path)


def test_a_missing_and_a_strange_tensor_are_named(bench):
    path = write_gguf(bench.root / "a.gguf", model_of("llama"), drop=("blk.1.ffn_up.weight",))
    assert "lack model.layers.1.mlp.up_proj.weight" in bench.refusal(path)
    path = write_gguf(bench.root / "b.gguf", model_of("llama"), extra=[("blk.0.odd.weight", np.ones(4, np.float32))])
    assert "holds blk.0.odd.weight, which a LlamaForCausalLM does not have" in bench.refusal(path)

"""A GGUF of a LLaMA-type model becomes the float32 model it was made from, up to its quantization."""

import json

import gguf
import numpy as np
import pytest
import torch

from webapp.engine.architectures import architecture
from webapp.engine.formats.gguf_file import BLOCK, TOP

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
TOKENS = ["<|endoftext|>", "a", "b", "c", "Ġ", "ab", "Ġa"]


def model_of(tiny, tied=False):
    return tiny("LlamaForCausalLM", "llama", **SIZES, intermediate_size=96, vocab_size=64, tie_word_embeddings=tied)


def interleaved(weight, heads):
    """As llama.cpp's converter permutes q and k."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, model, kind=gguf.GGMLQuantizationType.F32, architecture="llama", drop=(), extra=()):
    writer, config = gguf.GGUFWriter(path, architecture), model.config
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS + [f"<{index}>" for index in range(config.vocab_size - len(TOKENS))])
    writer.add_token_merges(["a b", "Ġ a"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    names = {theirs: ours for ours, theirs in TOP.items()}
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        if name in names:
            if name == "lm_head.weight" and config.tie_word_embeddings:
                continue
            target = names[name]
        else:
            _, _, layer, part = name.split(".", 3)
            short = next(ours for ours, theirs in BLOCK.items() if part == f"{theirs}.weight")
            target = f"blk.{layer}.{short}.weight"
        if ".attn_q." in target:
            values = interleaved(values, config.num_attention_heads)
        elif ".attn_k." in target:
            values = interleaved(values, config.num_key_value_heads)
        if target in drop:
            continue
        if values.ndim == 2 and kind != gguf.GGMLQuantizationType.F32:
            writer.add_tensor(target, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(target, np.ascontiguousarray(values))
    for name, values in extra:
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("tied", [False, True])
def test_an_unquantized_file_is_the_model_bit_for_bit(bench, tiny, tied):
    model = model_of(tiny, tied)
    facts = bench.checkpoint(write_gguf(bench.root / "upload", model), "tiny.gguf")
    assert (facts.format, facts.architecture.title) == ("gguf", "LlamaForCausalLM")
    assert facts.tied == ({"lm_head.weight": "model.embed_tokens.weight"} if tied else {})
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in bench.tensors().items())
    module = architecture(facts.architecture).skeleton(facts.architecture)
    module.load_state_dict(bench.tensors(), assign=True, strict=False)
    module.tie_weights()
    tokens = torch.randint(0, 64, (2, 11))
    with torch.no_grad():
        assert torch.equal(module(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize(("kind", "step"), [("Q8_0", 1 / 127), ("Q4_1", 1 / 15), ("Q4_0", 1 / 8)])
def test_a_quantized_file_is_dequantized_and_the_note_says_from_what(bench, tiny, kind, step):
    model = model_of(tiny)
    path = write_gguf(bench.root / "tiny.gguf", model, gguf.GGMLQuantizationType[kind])
    facts = bench.checkpoint(path)
    assert set(facts.dtypes) == {"float32"}
    assert facts.notes[0].startswith(f"dequantized from {kind} to float32: the upload is")
    for name, tensor in bench.tensors().items():
        original = model.state_dict()[name]
        assert (tensor - original).abs().max() <= step * original.abs().max() * 1.1


def test_its_tokenizer_comes_along(bench, tiny):
    facts = bench.checkpoint(write_gguf(bench.root / "tiny.gguf", model_of(tiny)))
    assert facts.architecture.inputs == {"tokens": 64, "vocab": 64, "tokenizer": True}
    tokenizer = architecture(facts.architecture).tokenizer(facts.architecture, bench.out)
    assert tokenizer("ab", add_special_tokens=False).input_ids == [TOKENS.index("ab")]


def test_the_normalised_folder_is_one_that_transformers_reads(bench, tiny):
    from transformers import AutoModelForCausalLM

    model = model_of(tiny)
    bench.checkpoint(write_gguf(bench.root / "tiny.gguf", model))
    assert json.loads((bench.out / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    again, tokens = AutoModelForCausalLM.from_pretrained(bench.out), torch.randint(0, 64, (1, 7))
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)


def test_another_architecture_is_named(bench, tiny):
    path = write_gguf(bench.root / "a.gguf", model_of(tiny), architecture="falcon")
    assert "a.gguf is of architecture 'falcon'; Pare reads GGUF of LLaMA-type models" in bench.refusal(path)


def test_a_missing_and_a_strange_tensor_are_named(bench, tiny):
    path = write_gguf(bench.root / "a.gguf", model_of(tiny), drop=("blk.1.ffn_up.weight",))
    assert "lack model.layers.1.mlp.up_proj.weight" in bench.refusal(path)
    path = write_gguf(bench.root / "b.gguf", model_of(tiny), extra=[("blk.0.odd.weight", np.ones(4, np.float32))])
    assert "holds blk.0.odd.weight, which a LLaMA model does not have" in bench.refusal(path)


def test_a_file_cut_short_or_damaged_is_refused(bench, tiny):
    from webapp.engine.errors import CheckpointRefused

    whole = write_gguf(bench.root / "a.gguf", model_of(tiny)).read_bytes()
    for size in (4, 20, 200, 3000, len(whole) - 50_000, len(whole) - 10):
        assert "cut short or damaged" in bench.refusal(bench.file("b.gguf", whole[:size]))
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        content = bytearray(whole)
        at, value = (int(torch.randint(0, n, (), generator=generator)) for n in (1500, 256))
        content[at] = value
        try:
            bench.checkpoint(bench.file("c.gguf", bytes(content)))
        except CheckpointRefused:
            assert list(bench.out.iterdir()) == []

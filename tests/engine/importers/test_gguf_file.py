"""A GGUF becomes the float32 model it was made from, up to its quantization, whatever its architecture."""

import json

import numpy as np
import pytest
import torch
from gguf import GGUFReader

from tests.engine.importers.tiny_gguf import MODELS, STRETCHED, TOKENS, model_of, write_gguf
from webapp.engine.architectures import architecture
from webapp.engine.architectures.reshape import describe_model
from webapp.engine.exporters import exporters
from webapp.engine.importers.gguf.names import ARCHITECTURES
from webapp.engine.progress import Silent
from webapp.engine.recipe import Recipe
from webapp.engine.run.predict import predict, prepare_step
from webapp.engine.techniques import Context
from webapp.engine.weights import GgmlBlocks
from webapp.engine.weights.artifact import read_model, write_model
from webapp.engine.weights.model import Model


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
    facts = bench.checkpoint(path, dequantize=True)
    assert set(facts.dtypes) == {"float32"}
    assert not any(tensor.block_type for tensor in facts.tensors)
    assert facts.notes[0].startswith(f"dequantized from {kind} to float32: the upload is")
    for name, tensor in bench.tensors().items():
        original = model.state_dict()[name]
        assert (tensor - original).abs().max() <= step * original.abs().max() * 1.1


@pytest.mark.parametrize("name", MODELS)
def test_blocks_are_kept_and_hold_what_they_are_dequantized_to(bench, name):
    """In every architecture, whatever order the rows have in it; what its loader changes is dequantized as it was."""
    path = write_gguf(bench.root / "tiny.gguf", model_of(name), name, kind="Q5_1")
    facts = bench.checkpoint(path, dequantize=True)
    expected, size = bench.tensors(), facts.weights_bytes
    facts = bench.checkpoint(path)
    model = Model.of_checkpoint(bench.out, facts)
    assert {key: encoded.shape for key, encoded in model.weights.items()} == {k: t.shape for k, t in expected.items()}
    for key, encoded in model.weights.items():
        assert torch.equal(encoded.decode(), expected[key]), key
        assert sum(int((some == 0).sum()) for some in encoded.slices()) == encoded.plan.size - encoded.plan.nonzero
    kept = {tensor.name for tensor in facts.tensors if tensor.block_type == "Q5_1"}
    assert kept == {key for key, encoded in model.weights.items() if isinstance(encoded, GgmlBlocks)}
    layers = {layer.weight for layer in facts.layers}
    assert (kept == layers) if name in ARCHITECTURES.values() else (kept and kept <= layers)
    assert facts.weights_bytes < size
    assert (bench.out / "model.safetensors").stat().st_size == facts.weights_bytes
    assert "MB in Q5_1" in facts.notes[0]


def test_a_step_sees_floats_and_what_it_leaves_alone_stays_as_it_came(bench, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    path = write_gguf(source / "tiny.gguf", model_of("llama"), kind="Q4_1")
    facts = bench.checkpoint(path)
    steps = [
        ("weight_quantization", {"bits": 8}, {"include": ["*.v_proj"]}),
        ("magnitude_pruning", {"sparsity": 0.5}, {"include": ["*.0.*q_proj"]}),
    ]
    recipe = [{"technique": name, "settings": settings, "layers": layers} for name, settings, layers in steps]
    foretold = predict(facts, Recipe.read({"steps": recipe}))
    assert foretold.before.size_bytes == facts.weights_bytes
    model = Model.of_checkpoint(bench.out, facts)
    for position, step in enumerate(Recipe.read({"steps": recipe}).steps):
        model.weights.open_blocks()
        now = describe_model(model, facts)
        prepared = prepare_step(now, step, position)
        prepared.applied(model, Context(prepared.layers, 0, Silent(), facts=now))
        model.weights.close_blocks()
        write_model(model, tmp_path / f"{position}.safetensors")
        model = read_model(tmp_path / f"{position}.safetensors")
    labels = {name: plan.label for name, plan in model.weights.plans.items() if len(plan.shape) == 2}
    changed = {name for name, label in labels.items() if label != "Q4_1"}
    assert changed == {f"model.layers.{n}.self_attn.v_proj.weight" for n in (0, 1)} | {
        "model.layers.0.self_attn.q_proj.weight"
    }
    assert abs((tmp_path / "1.safetensors").stat().st_size - foretold.after.size_bytes) < 400
    exporters()["gguf"].write(model, tmp_path)
    given, made = (
        {tensor.name: tensor for tensor in GGUFReader(file).tensors} for file in (path, tmp_path / "model.gguf")
    )
    for name, tensor in made.items():
        if tensor.tensor_type.name == "Q4_1":
            assert np.array_equal(tensor.data, given[name].data), name
    assert sum(tensor.tensor_type.name == "Q4_1" for tensor in made.values()) == len(labels) - len(changed)


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

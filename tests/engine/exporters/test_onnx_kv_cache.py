"""A language model's ONNX file keeps keys and values: read token by token it answers as if it had read all at once."""

import numpy as np
import onnxruntime
import pytest
import torch

from tests.engine.importers.model_types import DECODER as LAYERS
from webapp.engine.architectures.build import build
from webapp.engine.architectures.kv_cache import CachedReader, cache_inputs
from webapp.engine.data.batches import outputs, synthetic
from webapp.engine.exporters import exporters
from webapp.engine.run.proof import compare_probe, write_proof
from webapp.engine.weights.model import Model

DECODER = {**LAYERS, "num_hidden_layers": 1}
KEEPING = {  # class -> model type, config; None: the one in the zoo
    "LlamaForCausalLM": ("llama", None),
    "GPT2LMHeadModel": ("gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 40, "n_positions": 64}),
    "BloomForCausalLM": ("bloom", {"hidden_size": 16, "n_layer": 1, "n_head": 2, "vocab_size": 40}),
    "MistralForCausalLM": ("mistral", {**DECODER, "sliding_window": None}),
    "MixtralForCausalLM": ("mixtral", {**DECODER, "num_local_experts": 4}),
}
MORE = ("GPT2LMHeadModel", "BloomForCausalLM", "MistralForCausalLM", "MixtralForCausalLM")


@pytest.fixture
def language_model(bench, zoo):
    """A tiny random one of a class, inspected: its folder and facts."""

    def made(name, model_type, config):
        import transformers

        if config is None:
            return zoo.checkpoint(model_type)
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(model_type, **config)
        getattr(transformers, name)(config).save_pretrained(bench.root / "model")
        facts = bench.checkpoint(bench.zip_folder(bench.root / "model"))
        return bench.out, facts

    return made


def delivered(model, folder):
    folder.mkdir()
    exporters()["onnx"].write(model, folder)
    return onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in MORE else ()) for name in KEEPING]
)
def test_token_by_token_is_as_at_once(language_model, tmp_path, name):
    model = Model.of_checkpoint(*language_model(name, *KEEPING[name]))
    session = delivered(model, tmp_path / "out")
    assert [given.name for given in cache_inputs(session)][:2] == ["past_key_values.0.key", "past_key_values.0.value"]
    batch = synthetic(model.architecture, 0)
    ids = batch.inputs["input_ids"].numpy()
    with torch.inference_mode():
        expected = outputs(build(model), model.architecture, batch).numpy()
    reading = CachedReader(session, "logits", len(ids))
    found = [reading.after(part) for part in np.split(ids, [9, *range(10, 15), 40], axis=1)]
    assert np.allclose(np.concatenate(found, axis=1), expected, atol=1e-5)


def test_padding_at_the_end_of_a_part_is_not_looked_at(language_model, tmp_path):
    model = Model.of_checkpoint(*language_model("BloomForCausalLM", *KEEPING["BloomForCausalLM"]))
    session = delivered(model, tmp_path / "out")
    ids = np.arange(12).reshape(1, 12)
    padded, mask = (np.insert(numbers, [5, 5], 0, axis=1) for numbers in (ids, np.ones_like(ids)))
    whole, reading = CachedReader(session, "logits"), CachedReader(session, "logits")
    reading.after(padded[:, :7], mask[:, :7])
    assert np.allclose(reading.after(padded[:, 7:]), whole.after(ids)[:, 5:], atol=1e-5)


def test_the_proof_reads_in_parts_too(language_model, apply_steps, tmp_path):
    checkpoint = language_model("LlamaForCausalLM", *KEEPING["LlamaForCausalLM"])
    model, _ = apply_steps(checkpoint, ("weight_quantization", {"bits": 8}))
    delivered(model, tmp_path / "out")
    write_proof(model, tmp_path, 0)
    loaded = exporters()["onnx"].load(tmp_path / "out", model.architecture)
    assert compare_probe(loaded, model.architecture, tmp_path)["agreed"]
    loaded.in_parts.forward = lambda input_ids, **rest: {"logits": torch.zeros(*input_ids.shape, 40)}
    assert not compare_probe(loaded, model.architecture, tmp_path)["agreed"]


def test_a_model_that_keeps_no_place_for_each_token_is_written_without(language_model, tmp_path):
    """A window of 4 tokens forgets what lies before it."""
    config = {**DECODER, "sliding_window": 4}
    model = Model.of_checkpoint(*language_model("MistralForCausalLM", "mistral", config))
    session = delivered(model, tmp_path / "out")
    assert [given.name for given in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert [made.name for made in session.get_outputs()] == ["logits"]

"""A weight has one value, whatever dtype the checkpoint has: memory, proof and every format decode the same numbers."""

import pytest
import torch
from torch import nn

from webapp.engine.exporters import exporters
from webapp.engine.run.proof import compare_probe, write_proof
from webapp.engine.weights import Quantized
from webapp.engine.weights.safetensors import lazy_tensors

EXACT = (
    1e-5  # of the largest answer; a weight that was rounded to bfloat16 once more moves answers by a hundred times that
)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
GROUPS = {"granularity": "group", "group_size": 32}
SLOW = pytest.mark.slow


def quantized(bits, **more):
    return "weight_quantization", {"bits": bits, **GROUPS, **more}


RECIPES = {
    "8 bits": [quantized(8, granularity="channel")],
    "4 bits": [quantized(4)],
    "4 bits, zero points": [quantized(4, symmetric=False)],
    "3 bits": [quantized(3)],
    "2 bits": [quantized(2)],
    "NF4": [quantized(4, numbers="normal")],
    "codebook": [quantized(3, numbers="fitted")],
    "cast, 4 bits": [("cast", {"dtype": "bfloat16"}), quantized(4)],
    "pruned, 4 bits": [("magnitude_pruning", {"sparsity": 0.5}), quantized(4)],
    "GPTQ": [("gptq", {"bits": 4, **GROUPS})],
    "AWQ": [("awq", {"bits": 4, **GROUPS})],
}
KEPT_IN_GGUF = {"8 bits", "4 bits", "3 bits", "2 bits", "cast, 4 bits", "pruned, 4 bits", "GPTQ", "AWQ"}


def assert_exact(name, model, folder):
    """Writes a format, proves it as a run does, and asks for more than the proof: no weight is rounded on the way.

    Gives the proof, and what the format says of itself.
    """
    form, out = exporters()[name], folder / name
    out.mkdir()
    told = form.write(model, out)
    write_proof(model, folder, seed=0)
    rounded = form.rounded(model) if form.can.rounds else None
    proof = compare_probe(form.load(out, model.architecture), model.architecture, folder, rounded)
    assert proof["agreed"], proof
    largest = float(lazy_tensors(folder / "probe.safetensors")["output.0"].load().abs().max())
    assert proof["max_abs_difference"] < EXACT * largest, proof
    return proof, told


@pytest.fixture
def language_model(bench, tmp_path):
    """A LLaMA of one block whose vectors are not ones; its floats of `dtype`, its norms of `norms`."""
    import transformers

    def made(dtype, tied, norms=None):
        torch.manual_seed(0)
        sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_key_value_heads": 1}
        config = transformers.LlamaConfig(**sizes, num_hidden_layers=1, vocab_size=64, tie_word_embeddings=tied)
        module = transformers.LlamaForCausalLM(config).to(DTYPES[dtype])
        for parameter in module.parameters():
            nn.init.normal_(parameter, 0.5 if parameter.dim() == 1 else 0.0, 0.2)
            if norms and parameter.dim() == 1:
                parameter.data = parameter.data.to(DTYPES[norms])
        module.save_pretrained(tmp_path / "model")
        facts = bench.checkpoint(bench.zip_folder(tmp_path / "model"))
        return bench.out, facts

    return made


CELLS = [
    pytest.param(dtype, tied, name, id=f"{name} of {dtype}, {'tied' if tied else 'untied'}", marks=marks)
    for number, name in enumerate(RECIPES)
    for dtype in DTYPES
    for tied in (True, False)
    for marks in ([] if dtype == "bfloat16" and tied == bool(number % 2) else [SLOW],)
]


@pytest.mark.parametrize(("dtype", "tied", "recipe"), CELLS)
def test_a_language_model_in_the_formats_of_other_tools(
    language_model, apply_steps, given_batches, tmp_path, dtype, tied, recipe
):
    checkpoint = language_model(dtype, tied)
    model, _ = apply_steps(checkpoint, *RECIPES[recipe], data=given_batches(checkpoint[1].architecture))
    assert_exact("compressed_tensors", model, tmp_path)
    proof, _ = assert_exact("gguf", model, tmp_path)
    plain = [e for e in model.weights.values() if not isinstance(e, Quantized) and e.dtype == torch.float32]
    halved = any(len(encoded.shape) == 2 for encoded in plain)
    assert (proof["rounding"] == 0) == (recipe in KEPT_IN_GGUF and not halved)


@pytest.mark.parametrize("form", ["safetensors", "gguf", "compressed_tensors", pytest.param("onnx", marks=SLOW)])
def test_norms_of_another_dtype_than_the_weights(language_model, apply_steps, tmp_path, form):
    checkpoint = language_model("bfloat16", True, norms="float32")
    assert {tensor.dtype for tensor in checkpoint[1].tensors} == {"bfloat16", "float32"}
    assert_exact(form, apply_steps(checkpoint, quantized(4))[0], tmp_path)


def test_a_folder_says_in_which_dtype_transformers_computes_it(language_model, apply_steps, tmp_path):
    model, _ = apply_steps(language_model("bfloat16", True), quantized(4))
    told = exporters()["compressed_tensors"].write(model, tmp_path)
    assert any(note.startswith("transformers computes it in bfloat16") for note in told["notes"])

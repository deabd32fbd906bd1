"""A GGUF file holds the compressed model: its integers as they are, its floats in half precision, its tokenizer."""

import copy

import gguf
import pytest
import torch

from tests.zoo import write_tokenizer
from webapp.engine.architectures.build import build
from webapp.engine.architectures.transformers_family import parsed_config
from webapp.engine.errors import ExportUnfit, RecipeInvalid
from webapp.engine.exporters import check_formats, exporters
from webapp.engine.exporters.base import Loaded
from webapp.engine.exporters.gguf.blocks import choose, packed, rounded
from webapp.engine.exporters.sizes import beside, sizes_of
from webapp.engine.importers.gguf.names import apart, permuted_heads, their_name, why_not
from webapp.engine.math import ggml
from webapp.engine.math.grids import QuantizationScheme
from webapp.engine.recipe import Recipe
from webapp.engine.run.predict import predict
from webapp.engine.run.proof import compare_probe, write_proof
from webapp.engine.techniques.surgery import with_structure
from webapp.engine.weights import Quantized
from webapp.engine.weights.model import Model

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
WIDTH = {"intermediate_size": 96, "vocab_size": 64}
TYPES = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral", "Qwen2ForCausalLM": "qwen2"}
TYPES |= {"Qwen3ForCausalLM": "qwen3"}
GROUPS = {"granularity": "group", "group_size": 32}
STRETCHED = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
FORM = exporters()["gguf"]


def quantized(bits, **more):
    return "weight_quantization", {"bits": bits, **more}


@pytest.fixture
def language_model(bench, tmp_path):
    """A tiny model of a class, inspected; its biases are not zero."""
    import transformers

    def made(name="LlamaForCausalLM", prepare=lambda folder: None, dtype=torch.float32, **changes):
        torch.manual_seed(0)
        sizes = {"max_position_embeddings": 64, **SIZES, **WIDTH, **changes}
        module = getattr(transformers, name)(transformers.AutoConfig.for_model(TYPES[name], **sizes)).eval()
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, 0.5 if parameter.dim() == 1 else 0.0, 0.2)
        module.to(dtype).save_pretrained(tmp_path / "model")
        prepare(tmp_path / "model")
        facts = bench.checkpoint(bench.zip_folder(tmp_path / "model"))
        return bench.out, facts

    return made


def proven(model, folder):
    """What the file says of itself, and the proof as a run makes it."""
    folder.mkdir()
    told = FORM.write(model, folder)
    write_proof(model, folder, 0)
    proof = compare_probe(FORM.load(folder, None), model.architecture, folder, FORM.rounded(model))
    return told, proof


def tensors_of(folder):
    return {tensor.name: tensor for tensor in gguf.GGUFReader(folder / "model.gguf").tensors}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("bits", [8, 4])
def test_an_architecture_answers_as_the_compressed_model(language_model, apply_steps, tmp_path, name, bits):
    checkpoint = language_model(name, tie_word_embeddings=bits == 4)
    assert FORM.refuses(checkpoint[1]) is None
    model, _ = apply_steps(checkpoint, quantized(bits))
    told, proof = proven(model, tmp_path / "out")
    assert proof["agreed"], proof
    assert set(told["kinds"]) == {"F32", "Q8_0" if bits == 8 else "Q4_0"}
    assert ("output.weight" in tensors_of(tmp_path / "out")) == (bits == 8)


@pytest.mark.parametrize(
    ("settings", "kind", "exact"),
    [
        ({"bits": 8}, "Q8_0", True),
        ({"bits": 6, **GROUPS}, "Q8_0", True),
        ({"bits": 4, **GROUPS}, "Q4_0", True),
        ({"bits": 3}, "Q4_0", True),
        ({"bits": 4, "symmetric": False, **GROUPS}, "Q4_1", False),
        ({"bits": 8, "symmetric": False}, "Q8_0", False),
        ({"bits": 4, "numbers": "normal"}, "Q8_0", False),
        ({"bits": 4, "granularity": "group", "group_size": 16}, "Q8_0", False),
    ],
    ids=str,
)
def test_integers_are_kept_where_the_format_has_their_like(
    language_model, apply_steps, tmp_path, settings, kind, exact
):
    model, _ = apply_steps(language_model(), quantized(**settings))
    told, proof = proven(model, tmp_path / "out")
    assert proof["agreed"], proof
    found, weight = (
        tensors_of(tmp_path / "out")["blk.1.ffn_up.weight"],
        model.weights["model.layers.1.mlp.up_proj.weight"],
    )
    assert isinstance(weight, Quantized)
    assert found.tensor_type.name == kind
    values, given = torch.from_numpy(gguf.dequantize(found.data, found.tensor_type).copy()), weight.decode()
    assert torch.equal(values, given) == exact
    assert (values - given).norm() < 0.01 * given.norm()
    assert (proof["rounding"] == 0) == exact
    assert bool(told["notes"][1:]) == (kind == "Q8_0" and not exact)  # the first says that there is no tokenizer


@pytest.mark.parametrize(
    ("steps", "kinds"),
    [
        ([("magnitude_pruning", {"sparsity": 0.5})], {"F32", "F16"}),
        ([("sparsegpt", {"sparsity": 0.5}), quantized(4)], {"F32", "Q4_0"}),
        ([("cast", {"dtype": "bfloat16"})], {"F32", "BF16"}),
        ([("cast", {"dtype": "float16"})], {"F32", "F16"}),
        ([("structured_pruning", {"ratio": 0.25, "round_to": 1}), quantized(8)], {"F32", "F16", "Q8_0"}),
        ([("layer_drop", {"blocks": 1}), quantized(8)], {"F32", "Q8_0"}),
        ([quantized(8), ("dynamic_quantization", {})], {"F32", "Q8_0"}),
        ([("ggml_quantization", {"type": "Q4_K_M"})], {"F32", "Q5_0", "Q8_0"}),
    ],
    ids=["pruned", "pruned, 4 bits", "bfloat16", "float16", "cut, 8 bits", "shortened, 8 bits", "dynamic", "Q4_K_M"],
)
def test_a_recipe_answers_as_the_compressed_model(language_model, apply_steps, given_batches, tmp_path, steps, kinds):
    checkpoint = language_model()
    model, _ = apply_steps(checkpoint, *steps, data=given_batches(checkpoint[1].architecture))
    told, proof = proven(model, tmp_path / "out")
    assert proof["agreed"], proof
    assert set(told["kinds"]) == kinds
    assert told["size_bytes"] == (tmp_path / "out/model.gguf").stat().st_size


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Qwen2ForCausalLM"])
def test_blocks_of_every_type_are_written_byte_for_byte(language_model, apply_steps, tmp_path, name):
    """Rows of queries and keys lie in another order in a file of a LLaMA."""
    wide = {"hidden_size": 256, "head_dim": 64, "intermediate_size": 256, "num_hidden_layers": 3}
    checkpoint = language_model(name, **wide)
    parts = [layer for layer in checkpoint[1].layers if layer.name.startswith("model.layers.")]
    overrides = {layer.name: {"type": kind} for layer, kind in zip(parts, ggml.TYPES, strict=False)}
    assert len(overrides) == len(ggml.TYPES)
    model, _ = apply_steps(checkpoint, ("ggml_quantization", {"type": "Q6_K"}, {"include": ["*"]}, overrides))
    told, proof = proven(model, tmp_path / "out")
    assert proof["agreed"], proof
    assert set(told["kinds"]) == {"F32", *ggml.TYPES}
    assert told["notes"][1:] == []  # the first says that there is no tokenizer
    found = tensors_of(tmp_path / "out")
    for layer in parts:
        weight, tensor = model.weights[layer.weight], found[their_name(layer.weight)]
        heads = permuted_heads(layer.weight, parsed_config(checkpoint[1].architecture.config))
        rows = apart(torch.from_numpy(tensor.data.copy()), heads) if heads else torch.from_numpy(tensor.data.copy())
        assert (tensor.tensor_type.name, rows.shape) == (weight.type, weight.blocks.shape)
        assert torch.equal(rows, weight.blocks)


@pytest.mark.parametrize("name", TYPES)
def test_a_file_of_a_model_without_some_heads_comes_in_again(bench, language_model, apply_steps, tmp_path, name):
    given = language_model(name, dtype=torch.bfloat16)
    model, _ = apply_steps((given[0], with_structure(given[1])), ("structured_pruning", {"ratio": 0.5, "cut": "heads"}))
    write_proof(model, tmp_path, 0)
    FORM.write(model, tmp_path)
    facts = bench.checkpoint(tmp_path / FORM.file)
    again = Loaded(build(Model.of_checkpoint(bench.out, facts)), "", "")
    assert compare_probe(again, model.architecture, tmp_path, FORM.rounded(model))["agreed"]


@pytest.mark.parametrize("size", [1e-12, 1e-6, 1.0, 1e4, 1e7, 1e30], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("columns", [64, 40])
@pytest.mark.parametrize(
    "scheme",
    [
        QuantizationScheme(8),
        QuantizationScheme(4, 32),
        QuantizationScheme(4, 32, symmetric=False),
        QuantizationScheme(4, 32, numbers="normal"),
    ],
    ids=str,
)
def test_values_beyond_float16_are_held_too(size, dtype, columns, scheme):
    weight = (size * torch.randn(8, columns, generator=torch.Generator().manual_seed(0))).to(dtype)
    weight[0] *= 1e-4
    encoded = Quantized.nearest(weight, scheme)
    choice = choose(encoded)
    kind = gguf.GGMLQuantizationType[choice.kind]
    found = torch.from_numpy(gguf.dequantize(packed(encoded, choice).numpy(), kind).copy()).reshape(8, columns)
    assert torch.equal(found, rounded(encoded, choice).decode())
    limit = 0.01 * float(encoded.decode().abs().max()) + 2**-24 * 128  # the least that a float16 scale can be
    assert float((found - encoded.decode()).abs().max()) < limit


@pytest.mark.parametrize(
    ("name", "changes"),
    [("LlamaForCausalLM", {"rope_parameters": STRETCHED}), ("Qwen2ForCausalLM", {"tie_word_embeddings": True})],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_its_size_is_known_before_it_is_written(language_model, apply_steps, tmp_path, name, changes, dtype):
    folder, facts = language_model(name, prepare=write_tokenizer, dtype=dtype, **changes)
    sizes = sizes_of(facts.model_copy(update={"beside": beside(folder, facts)}), ["safetensors", "gguf"])
    assert sizes.format == "gguf"
    assert sizes_of(facts, ["gguf"]).format is None, "nobody looked"
    recipes = [
        [],
        [quantized(8)],
        [quantized(3, **GROUPS)],
        [quantized(4, symmetric=False, **GROUPS)],
        [quantized(8, symmetric=False)],
        [quantized(4, numbers="normal")],
        [quantized(4, granularity="group", group_size=16)],
        [("ggml_quantization", {"type": "Q4_K_M"})],
        [("ggml_quantization", {"type": "Q3_K_S"})],
    ]
    for steps in recipes:
        model, _ = apply_steps((folder, facts), *steps)
        plans = {name: encoded.plan for name, encoded in model.weights.items()}
        assert sizes.file(plans, facts) == FORM.write(model, tmp_path)["size_bytes"], steps


def test_half_precision_is_measured_and_not_hidden(language_model, apply_steps, tmp_path):
    model, _ = apply_steps(language_model(), ("magnitude_pruning", {"sparsity": 0.1}))
    _, proof = proven(model, tmp_path / "out")
    assert 0 < proof["rounding"] < 0.1
    assert proof["max_abs_difference"] <= proof["tolerance"] < proof["rounding"]


def test_a_file_that_is_not_the_model_is_found_out(language_model, apply_steps, tmp_path):
    model, _ = apply_steps(language_model(), quantized(8))
    proven(model, tmp_path / "out")
    name = "model.layers.0.self_attn.k_proj.weight"
    weight = model.weights[name]
    model.weights[name] = Quantized(weight.codes.flip(0), weight.grid, weight.shape, weight.dtype)
    proof = compare_probe(FORM.load(tmp_path / "out", None), model.architecture, tmp_path / "out", FORM.rounded(model))
    assert not proof["agreed"]


def test_stretched_positions_are_in_the_file(language_model, apply_steps, tmp_path):
    model, _ = apply_steps(language_model(rope_parameters=STRETCHED), quantized(8))
    _, proof = proven(model, tmp_path / "out")
    assert proof["agreed"], proof
    factors = torch.from_numpy(tensors_of(tmp_path / "out")["rope_freqs.weight"].data.copy())
    assert factors.shape == (8,)
    assert factors.max() == 8
    assert factors.min() == 1


def test_what_llama_cpp_does_not_compute_is_said_before_anything_runs(language_model, mlp):
    assert "runs language models" in FORM.refuses(mlp[1])
    odd = language_model(hidden_act="gelu")[1]
    assert "SiLU" in FORM.refuses(odd)


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ({}, "default"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 10000.0}}, "yarn"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "linear"),
    ],
)
def test_the_kind_of_positions_is_read_as_transformers_reads_it(told, kind):
    config = {"model_type": "llama", "max_position_embeddings": 64, **told}
    assert parsed_config(copy.deepcopy(config)).rope_parameters["rope_type"] == kind
    assert (why_not(config) is None) == (kind in ("default", "linear"))
    assert kind in (why_not(config) or kind)


def test_factors_are_refused_with_the_way_out(language_model, apply_steps, tmp_path):
    model, _ = apply_steps(language_model(), ("low_rank", {"ratio": 0.5}))
    with pytest.raises(ExportUnfit, match="low-rank factors, for which llama"):
        FORM.write(model, tmp_path)
    assert list(tmp_path.glob("*.gguf")) == []


def test_factors_are_refused_before_anything_runs(language_model):
    _, facts = language_model()
    recipe = Recipe.read({"steps": [{"technique": "low_rank", "settings": {"ratio": 0.5}}]})
    kinds = predict(facts, recipe).kinds
    assert "pivoted" in kinds
    for name in ("gguf", "compressed_tensors"):
        with pytest.raises(RecipeInvalid, match="the recipe leaves low-rank factors"):
            check_formats(facts, ["safetensors", name], kinds)
    check_formats(facts, ["safetensors", "program", "onnx"], kinds)

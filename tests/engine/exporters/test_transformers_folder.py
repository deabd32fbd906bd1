"""The zip is a folder that stock transformers loads: it answers as the compressed model, without a word of Pare."""

import json
import subprocess
import sys
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from webapp.engine.architectures.build import build
from webapp.engine.data.batches import synthetic
from webapp.engine.errors import ExportUnfit
from webapp.engine.exporters import exporters
from webapp.engine.run.proof import compare_probe, write_proof

FORM = exporters()["compressed_tensors"]
GROUPS = {"granularity": "group", "group_size": 8}
STOCK = """
import sys, torch, transformers
from safetensors.torch import load_file, save_file
folder, probe = sys.argv[1:]
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
with torch.inference_mode():
    answer = model(**load_file(probe)).logits
assert not [name for name in sys.modules if name.startswith("webapp")]
save_file({"answer": answer.contiguous()}, probe + ".out")
"""
NAMES = [
    ("BertForSequenceClassification", "bert"),
    ("LlamaForCausalLM", "llama"),
    ("GPT2LMHeadModel", "gpt2"),
    ("ViTForImageClassification", "vit"),
]


def quantized(bits, **more):
    return "weight_quantization", {"bits": bits, **more}


@pytest.fixture
def transformer(bench, tiny, save_tokenizer, tmp_path):
    def made(name="LlamaForCausalLM", model_type="llama", **changes):
        tiny(name, model_type, **changes).save_pretrained(tmp_path / "model")
        save_tokenizer(tmp_path / "model")
        facts = bench.checkpoint(bench.zip_folder(tmp_path / "model"))
        return bench.out, facts

    return made


def proven(model, folder):
    """What the export says, and the proof as a run makes it."""
    folder.mkdir()
    told = FORM.write(model, folder)
    write_proof(model, folder, 0)
    return told, compare_probe(FORM.load(folder, None), model.architecture, folder, FORM.rounded(model))


def unpacked(folder):
    with zipfile.ZipFile(folder / "transformers.zip") as archive:
        archive.extractall(folder)
    return folder / "model"


@pytest.mark.parametrize(("name", "model_type"), NAMES)
def test_an_architecture_answers_as_the_compressed_model(transformer, apply_steps, tmp_path, name, model_type):
    model, _ = apply_steps(transformer(name, model_type), quantized(8))
    told, proof = proven(model, tmp_path / "out")
    assert proof["agreed"], proof
    assert (told["packed"] == 0) == (model_type == "gpt2")  # whose layers are no linear ones


def test_stock_transformers_answers_alike_in_a_process_without_pare(transformer, apply_steps, tmp_path):
    model, _ = apply_steps(transformer(), quantized(4, **GROUPS))
    proven(model, tmp_path / "out")
    inputs, probe = synthetic(model.architecture, 1).inputs, tmp_path / "probe.safetensors"
    save_file(inputs, probe)
    subprocess.run([sys.executable, "-c", STOCK, unpacked(tmp_path / "out"), probe], check=True, cwd=tmp_path)
    with torch.inference_mode():
        expected = build(FORM.rounded(model))(**inputs).logits
    assert torch.allclose(load_file(f"{probe}.out")["answer"], expected, atol=1e-5)


@pytest.mark.parametrize(
    "steps",
    [
        [quantized(4, **GROUPS)],
        [quantized(4, symmetric=False, **GROUPS)],
        [quantized(8, symmetric=False)],
        [quantized(3)],
        [("magnitude_pruning", {"sparsity": 0.5}), quantized(8)],
        [("magnitude_pruning", {"sparsity": 0.5})],
        [("cast", {"dtype": "bfloat16"})],
        [("structured_pruning", {"ratio": 0.25, "round_to": 1}), quantized(8)],
        [("layer_drop", {"blocks": 1})],
        [quantized(4, numbers="normal")],
        [quantized(8), ("dynamic_quantization", {})],
        [("cast", {"dtype": "float16"}), quantized(8)],
    ],
    ids=str,
)
def test_a_recipe_answers_as_the_compressed_model(transformer, apply_steps, given_batches, tmp_path, steps):
    checkpoint = transformer()
    model, _ = apply_steps(checkpoint, *steps, data=given_batches(checkpoint[1].architecture))
    _, proof = proven(model, tmp_path / "out")
    assert proof["agreed"], proof


def test_layers_in_different_bits_have_a_group_each(transformer, apply_steps, tmp_path):
    eight, four = (*quantized(8), {"include": ["*.mlp.*"]}), (*quantized(4, **GROUPS), {"include": ["*.q_proj"]})
    model, _ = apply_steps(transformer(), eight, four)
    told, proof = proven(model, tmp_path / "out")
    assert proof["agreed"], proof
    assert told["bits"] == [4, 8]
    assert not any("computes it in" in note for note in told["notes"]), "it is all float32"
    config = json.loads((unpacked(tmp_path / "out") / "config.json").read_text())
    assert len(config["quantization_config"]["config_groups"]) == 2
    assert "model.layers.0.self_attn.v_proj" in config["quantization_config"]["ignore"]


@pytest.mark.parametrize(("bits", "share"), [(8, 0.35), (4, 0.25)])
def test_integers_are_packed_in_the_file(transformer, apply_steps, tmp_path, bits, share):
    checkpoint = transformer(hidden_size=64, intermediate_size=256)
    model, _ = apply_steps(checkpoint, quantized(bits))
    told, _ = proven(model, tmp_path / "out")
    assert told["size_bytes"] < share * checkpoint[1].weights_bytes
    held = load_file(unpacked(tmp_path / "out") / "model.safetensors")
    assert held["model.layers.0.mlp.up_proj.weight_packed"].shape == (256, 64 * bits // 32)


def test_the_tokenizer_travels_and_the_same_model_gives_the_same_bytes(transformer, apply_steps, tmp_path):
    model, _ = apply_steps(transformer(), ("structured_pruning", {"ratio": 0.25, "round_to": 1}))
    contents = []
    for name in ("one", "two"):
        proven(model, tmp_path / name)
        contents.append((tmp_path / name / "transformers.zip").read_bytes())
    assert contents[0] == contents[1]
    folder = unpacked(tmp_path / "one")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
    config = json.loads((folder / "config.json").read_text())
    assert config["intermediate_size"] == model.weights["model.layers.0.mlp.up_proj.weight"].shape[0] < 24
    assert "quantization_config" not in config


def test_what_has_no_place_is_said(transformer, apply_steps, mlp, tmp_path):
    assert "which has no MLP" in FORM.refuses(mlp[1])
    model, _ = apply_steps(transformer(), ("low_rank", {"ratio": 0.5}))
    with pytest.raises(ExportUnfit, match="low-rank factors"):
        FORM.write(model, tmp_path)


def test_a_layer_that_multiplies_with_its_weight_itself_keeps_one(transformer, apply_steps, tmp_path):
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 40}
    layers = {"include": ["*.dense"]}
    given = transformer("FalconForCausalLM", "falcon", **small)
    told, proof = proven(apply_steps(given, (*quantized(8), layers))[0], tmp_path / "out")
    assert proof["agreed"]
    assert told["packed"] == 0
    assert any("a FalconLinear multiplies with its weight itself" in note for note in told["notes"])


def test_a_layer_whose_weight_is_read_elsewhere_keeps_one(bench, apply_steps, tmp_path):
    import transformers

    sizes = {"vocab_size": 40, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 1}
    torch.manual_seed(0)
    transformers.MambaForCausalLM(transformers.MambaConfig(**sizes, pad_token_id=0)).save_pretrained(tmp_path / "model")
    facts = bench.checkpoint(bench.zip_folder(tmp_path / "model"))
    model, _ = apply_steps((bench.out, facts), quantized(8))
    told, proof = proven(model, tmp_path / "out")
    assert proof["agreed"]
    assert told["packed"] == 2  # in_proj and x_proj; dt_proj and out_proj are read by the block around them
    assert any("transformers reads this weight elsewhere than in its layer" in note for note in told["notes"])

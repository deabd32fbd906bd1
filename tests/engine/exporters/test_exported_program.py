"""An exported program answers as the compressed model, loaded by torch in a process that has nothing of Pare."""

import json
import subprocess
import sys
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from webapp.engine.architectures.build import build
from webapp.engine.exporters import exporters
from webapp.engine.run.proof import compare_probe, write_proof

FORM = exporters()["program"]
FACTORS = ("low_rank", {"ratio": 0.5})
ALONE = """
import sys, torch
from safetensors.torch import load_file, save_file
program, probe = sys.argv[1:]
given, told = load_file(probe), {}
run = torch.export.load(program).module()
with torch.inference_mode():
    for key in {name.partition(".")[0] for name in given}:
        inputs = {name.partition(".")[2]: each for name, each in given.items() if name.startswith(key + ".")}
        told[key] = run(**inputs)["logits"]
assert not [name for name in sys.modules if name.startswith(("webapp", "transformers"))]
save_file(told, probe + ".out")
"""


def quantized(bits, **more):
    return "weight_quantization", {"bits": bits, **more}


@pytest.fixture
def transformer(bench, tiny, tmp_path):
    def made(name, model_type, **changes):
        tiny(name, model_type, **changes).save_pretrained(tmp_path / "model")
        facts = bench.checkpoint(bench.zip_folder(tmp_path / "model"))
        return bench.out, facts

    return made


def proven(model, folder):
    """What the export says, and the proof as a run makes it."""
    folder.mkdir()
    told = FORM.write(model, folder)
    write_proof(model, folder, 0)
    return told, compare_probe(FORM.load(folder, model.architecture), model.architecture, folder)


def tokens(batch, length):
    ids = torch.randint(0, 40, (batch, length), generator=torch.Generator().manual_seed(length))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize(
    "steps",
    [[FACTORS, quantized(8)], [("dynamic_quantization", {})], [("static_quantization", {})]],
    ids=str,
)
def test_a_recipe_answers_as_the_compressed_model(mlp, apply_steps, given_batches, tmp_path, steps):
    model, _ = apply_steps(mlp, *steps, data=given_batches(mlp[1].architecture))
    told, proof = proven(model, tmp_path / "out")
    assert proof["agreed"], proof
    assert told["size_bytes"] == (tmp_path / "out/model.pt2").stat().st_size


@pytest.mark.parametrize(
    ("name", "model_type", "changes"),
    [
        ("BertForSequenceClassification", "bert", {"num_hidden_layers": 1}),
        pytest.param("GPT2LMHeadModel", "gpt2", {"n_layer": 1}, marks=pytest.mark.slow),
        pytest.param("ViTForImageClassification", "vit", {"num_hidden_layers": 1}, marks=pytest.mark.slow),
    ],
)
def test_a_transformer_answers_as_the_compressed_model(transformer, apply_steps, tmp_path, name, model_type, changes):
    model, _ = apply_steps(transformer(name, model_type, **changes), ("low_rank", {"ratio": 0.8}), quantized(8))
    _, proof = proven(model, tmp_path / "out")
    assert proof["agreed"], proof


def test_what_a_tokenizer_tells_beyond_the_programs_inputs_is_passed_over(transformer, apply_steps, tmp_path):
    model, _ = apply_steps(transformer("BertForSequenceClassification", "bert", num_hidden_layers=1), quantized(8))
    FORM.write(model, tmp_path)
    loaded = FORM.load(tmp_path, model.architecture).module
    given = tokens(2, 5)
    with torch.inference_mode():
        more = loaded(**given, token_type_ids=torch.zeros_like(given["input_ids"]))
        assert torch.equal(more["logits"], loaded(**given)["logits"])


def test_torch_alone_answers_at_other_lengths_and_a_tied_weight_is_stored_once(transformer, apply_steps, tmp_path):
    checkpoint = transformer("LlamaForCausalLM", "llama", num_hidden_layers=1, tie_word_embeddings=True)
    model, _ = apply_steps(checkpoint, quantized(8))
    FORM.write(model, tmp_path)
    module, probe = build(model), tmp_path / "probe.safetensors"
    questions = {f"{batch}": tokens(batch, length) for batch, length in ((1, 3), (4, 9))}
    save_file({f"{key}.{name}": each for key, given in questions.items() for name, each in given.items()}, probe)
    subprocess.run([sys.executable, "-c", ALONE, tmp_path / "model.pt2", probe], check=True, cwd=tmp_path)
    for key, answer in load_file(f"{probe}.out").items():
        with torch.inference_mode():
            assert torch.allclose(answer, module(**questions[key]).logits, atol=1e-5)
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        held = json.loads(archive.read("model/data/weights/model_weights_config.json"))["config"]
    files = [entry["path_name"] for name, entry in held.items() if name.endswith("weight_stored.packed")]
    assert len(set(files)) == len(files) - 1


def test_nothing_in_the_archive_is_pickled_and_no_path_is_told(mlp, apply_steps, given_batches, tmp_path):
    model, _ = apply_steps(mlp, ("static_quantization", {}), data=given_batches(mlp[1].architecture))
    proven(model, tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "out/model.pt2") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    for name, content in contents.items():
        if name.endswith("_config.json"):
            assert not any(entry["use_pickle"] for entry in json.loads(content)["config"].values())
        assert not content.startswith((b"PK", b"\x80")) or "/data/weights/weight" in name
        assert b".py" not in content or "/data/weights/weight" in name


@pytest.mark.parametrize(("bits", "share"), [(8, 0.35), (4, 0.2), (2, 0.15)])
def test_integers_are_as_small_in_the_file(inspected, apply_steps, tmp_path, bits, share):
    torch.manual_seed(0)
    wide = inspected(torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10)))
    model, _ = apply_steps(wide, quantized(bits))
    told, _ = proven(model, tmp_path / "out")
    assert told["size_bytes"] < share * wide[1].weights_bytes

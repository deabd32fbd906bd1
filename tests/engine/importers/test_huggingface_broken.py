"""Folders that are broken, lie, or hold what cannot be: each gets its sentence."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from webapp.engine.architectures.transformers_family import tied_by


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    return path


def _config(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def _tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


BROKEN = {
    "config": (lambda f: (f / "config.json").write_text("{"), "config.json in the archive is not valid JSON"),
    "list": (lambda f: (f / "config.json").write_text("[]"), "must hold a JSON object"),
    "no config": (lambda f: (f / "config.json").unlink(), "a zip without a config.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights beside it"),
    "quantized": (
        lambda f: _config(f, quantization_config={"quant_method": "gptq"}),
        r"quantized already \(quantization_config: gptq\)",
    ),
    "missing tensor": (
        lambda f: _tensors(f, lambda t: t.pop("encoder.layer.1.output.dense.weight")),
        "lack encoder.layer.1.output.dense.weight, which BertModel needs",
    ),
    "misshapen": (lambda f: _config(f, intermediate_size=32), r"has shape \[24, 16\]; BertModel by its .* \[32, 16\]"),
    "index": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": 1}}'),
        "no weight_map from tensors to files",
    ),
    "index out": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../x"}}'),
        r"lacks \.\./\.\./x",
    ),
    "nan": (
        lambda f: _tensors(f, lambda t: t["pooler.dense.bias"].fill_(float("nan"))),
        r"pooler\.dense\.bias holds 16 NaN values of 16",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_refused_with_its_sentence(bench, folder, case, tiny):
    import re

    breaking, sentence = BROKEN[case]
    tiny("BertModel", "bert").save_pretrained(folder)
    breaking(folder)
    assert re.search(sentence, bench.refusal(bench.zip_folder(folder)))


@pytest.mark.parametrize("changes", [{"hidden_size": "big"}, {"num_attention_heads": 3}, {"hidden_size": -4}])
def test_a_config_that_no_model_can_have_leaves_the_weights_alone(bench, folder, changes, tiny):
    tiny("BertModel", "bert").save_pretrained(folder)
    _config(folder, **changes)
    facts = bench.checkpoint(bench.zip_folder(folder))
    assert facts.architecture is None
    assert "architecture cannot be run" in facts.weights_only_because


def test_both_kinds_of_weights_are_not_mixed(bench, folder, tiny):
    model = tiny("BertModel", "bert")
    model.save_pretrained(folder)
    torch.save({"nonsense": torch.ones(1)}, folder / "pytorch_model.bin")
    facts = bench.checkpoint(bench.zip_folder(folder))
    assert facts.notes == ("The weights are those of model.safetensors; left aside: pytorch_model.bin.",)
    shutil.rmtree(bench.out)
    assert tied_by(model) == {}

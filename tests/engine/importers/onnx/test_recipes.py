"""Recipes on ONNX files, stage by stage: what was calibrated, trained and quantized is proven in onnxruntime."""

import numpy as np
import pytest
import torch

from tests.engine.importers.onnx.graphs import CASES, answered, exported, inspected
from tests.engine.run.test_stages import Bench as Run


@pytest.fixture
def run(bench, tmp_path):
    """Runs a recipe on a case and on 160 samples that the file itself labels."""

    def go(name, *steps, exports=("safetensors", "onnx")):
        checkpoint, dataset = inspected(name), None
        if len(CASES[name][1]) == 1:
            torch.manual_seed(0)
            x = torch.randn(160, *CASES[name][1][0].shape[1:])
            np.savez(tmp_path / "d.npz", x=x.numpy(), y=answered(exported(name), [x]).argmax(-1).numpy())
            facts = bench.dataset(tmp_path / "d.npz")
            dataset = bench.out, facts
        work = tmp_path / "run"
        work.mkdir()
        return Run(work, checkpoint, dataset, exports).run(*steps)

    return go


def proven(concluded):
    assert [proof["agreed"] for proof in concluded["receipt"]["proof"]] == [True, True]
    assert not [row for row in concluded["receipt"]["requested"] if not row["ok"]]
    assert concluded["receipt"]["runtimes"][1]["runtime"].startswith("onnxruntime")
    return concluded["result"]["size_bytes"] / concluded["baseline"]["size_bytes"]


@pytest.mark.parametrize("name", ["cnn", pytest.param("bert", marks=pytest.mark.slow)])
def test_pruned_and_quantized_it_is_an_onnx_file_again(run, name):
    made = run(name, ("magnitude_pruning", {"sparsity": 0.5}), ("weight_quantization", {"bits": 8}))
    assert proven(made) < 0.75


@pytest.mark.parametrize(
    ("name", "technique"),
    [
        ("mlp", "dynamic_quantization"),
        ("cnn", "static_quantization"),
        pytest.param("mlp", "static_quantization", marks=pytest.mark.slow),
        pytest.param("cnn", "dynamic_quantization", marks=pytest.mark.slow),
    ],
)
def test_integers_are_multiplied_in_onnxruntime(run, name, technique):
    made = run(name, (technique, {}))
    proven(made)
    assert made["result"]["metrics"]["accuracy"]["value"] > 0.8


def test_calibration_and_training_reach_its_layers(run):
    made = run("cnn", ("wanda", {"sparsity": 0.3}), ("gptq", {"bits": 8}), ("distillation", {"epochs": 1}))
    proven(made)
    assert made["result"]["metrics"]["accuracy"]["value"] > 0.6


def test_channels_are_cut(run):
    made = run("resnet", ("structured_pruning", {"ratio": 0.5}))
    assert [proof["agreed"] for proof in made["receipt"]["proof"]] == [True, True]
    assert made["result"]["params_total"] < made["baseline"]["params_total"]

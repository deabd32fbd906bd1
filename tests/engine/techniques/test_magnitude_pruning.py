"""Magnitude pruning within rows and in patterns; the rest of its promises are among those of all techniques."""

import pytest
import torch
from torch import nn

from webapp.engine.architectures.build import build
from webapp.engine.recipe import Recipe
from webapp.engine.run.predict import predict
from webapp.engine.weights.artifact import read_model, write_model


def test_every_output_loses_the_same_share(mlp, apply_steps):
    before, _ = apply_steps(mlp)
    model, outcomes = apply_steps(mlp, ("magnitude_pruning", {"sparsity": 0.25, "scope": "row"}))
    weight, was = (each.weights["0.weight"].decode() for each in (model, before))
    assert (weight == 0).sum(1).tolist() == [16] * 48
    for row, earlier in zip(weight, was, strict=True):
        assert earlier[row == 0].abs().max() <= earlier[row != 0].abs().min()
    assert [outcome.done for outcome in outcomes] == ["25.0\N{NO-BREAK SPACE}%"] * 2


def test_outputs_of_a_transposed_weight_are_its_columns(bench, tiny, tmp_path, apply_steps):
    tiny("GPT2LMHeadModel", "gpt2").save_pretrained(tmp_path / "model")
    facts = bench.checkpoint(bench.zip_folder(tmp_path / "model"))
    layer = next(layer for layer in facts.layers if layer.transposed)
    for values in ({"scope": "row"}, {"pattern": "2:4"}):
        model, _ = apply_steps((bench.out, facts), ("magnitude_pruning", values))
        zeros = model.weights[layer.weight].decode() == 0
        assert zeros.sum(0).tolist() == [layer.shape[0] // 2] * layer.shape[1]


@pytest.mark.parametrize(("pattern", "n", "m"), [("2:4", 2, 4), ("4:8", 4, 8)])
def test_patterns_lie_along_the_inputs(mlp, apply_steps, tmp_path, pattern, n, m):
    steps = [{"technique": "magnitude_pruning", "settings": {"pattern": pattern}}]
    model, outcomes = apply_steps(mlp, ("magnitude_pruning", {"pattern": pattern}))
    kept = model.weights["0.weight"].decode().reshape(-1, m) != 0
    assert kept.sum(1).unique().tolist() == [n]
    assert [outcome.asked for outcome in outcomes] == [pattern, pattern]
    assert (
        write_model(model, tmp_path / "m.safetensors")
        == predict(mlp[1], Recipe.read({"steps": steps})).after.size_bytes
    )
    x = torch.randn(3, 64)
    assert torch.equal(build(read_model(tmp_path / "m.safetensors"))(x), build(model)(x))


def test_patterns_of_convolutions_lie_along_their_channels(inspected, apply_steps):
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)
    checkpoint = inspected(nn.Sequential(*layers))
    names = [layer.name for layer in checkpoint[1].layers]
    model, outcomes = apply_steps(checkpoint, ("magnitude_pruning", {"pattern": "2:4"}))
    first, second = (model.weights[f"{name}.weight"].decode() for name in names[:2])
    assert (second.view(8, 2, 4, 9) != 0).sum(2).unique().tolist() == [2]
    assert bool((first != 0).all())
    assert not outcomes[0].ok
    assert "its 1 inputs are not groups of 4" in outcomes[0].note


def test_wide_floats_keep_their_last_digits(inspected, apply_steps):
    weight = torch.randn(6, 8, dtype=torch.float64)
    checkpoint = inspected({"0.weight": weight, "0.bias": torch.zeros(6, dtype=torch.float64)})
    model, _ = apply_steps(checkpoint, ("magnitude_pruning", {"sparsity": 0.5}))
    found = model.weights["0.weight"].decode()
    assert torch.equal(found[found != 0], weight[found != 0])

"""The four lines that everyone learns compression from, saved as plain state dicts, give what their authors meant."""

import numpy as np
import pytest
import torch
from torch import nn

from webapp.engine import load


def ready(api, kind, path):
    row = api.upload(kind, path)
    assert row["state"] == "ready", row["reason"]
    return row["id"]


@pytest.fixture(scope="module")
def linear(api, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("snippets") / "linear.pt"
    torch.save(nn.Linear(10, 5).state_dict(), path)
    return ready(api, "checkpoints", path)


@pytest.fixture
def done(api, tmp_path):
    """Runs one step; the run, and the delivered file."""

    def run(checkpoint, technique, settings, *steps, **more):
        every = [{"technique": technique, "settings": settings}, *steps]
        asked = api.run(checkpoint, {"version": 1, "steps": every}, **more)
        found = api.finished(asked["id"], 300)
        assert found["state"] == "succeeded", found["error"]
        path = tmp_path / "model.safetensors"
        path.write_bytes(api.send("GET", f"/runs/{found['id']}/artifacts/model.safetensors"))
        return found, path

    return run


def outcome(run):
    return next(row for row in run["receipt"]["requested"] if "weight" in row["layer"] or row["layer"])


def test_a_linear_layer_pruned_at_half_stores_half_of_its_values(linear, done):
    run, path = done(linear, "magnitude_pruning", {"sparsity": 0.5})
    weight = next(value for name, value in load(path).state_dict().items() if name.endswith("weight"))
    assert int(torch.count_nonzero(weight)) == 25
    assert run["result"]["params_stored"] == 25 + 5
    assert run["baseline"]["params_stored"] == 55


def test_a_linear_layer_factored_at_rank_2_keeps_two_factors_and_says_that_it_saves_40_percent(linear, done):
    run, path = done(linear, "low_rank", {"by": "rank", "rank": 2, "form": "factors"})
    shapes = sorted(tuple(p.shape) for p in load(path).parameters() if p.dim() == 2)
    assert shapes == [(2, 10), (5, 2)]
    assert run["result"]["params_stored"] == 2 * (10 + 5) + 5
    assert "40.0\N{NO-BREAK SPACE}% saved" in outcome(run)["done"]


def test_a_linear_layer_quantized_dynamically_is_counted_in_int8_bytes(linear, done):
    run, path = done(linear, "dynamic_quantization", {}, exports=["safetensors", "onnx"])
    weight = next(row for row in run["receipt"]["bytes"]["tensors"] if row["name"].endswith("weight"))
    assert 50 <= weight["bytes"] <= 50 + 5 * 4 + 5  # a byte for each value, a scale and a zero point for each row
    onnx = next(row for row in run["receipt"]["runtimes"] if row["format"] == "onnx")
    assert "multipl" in " ".join(onnx["notes"])
    assert path.stat().st_size == run["result"]["size_bytes"]


def test_a_small_network_is_taught_by_a_large_one(api, done, tmp_path):
    torch.manual_seed(1)
    large = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 5))
    small = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 5))
    x = torch.randn(1500, 10)
    with torch.no_grad():
        y = large(x).argmax(1)
    torch.save(large.state_dict(), tmp_path / "large.pt")
    torch.save(small.state_dict(), tmp_path / "small.pt")
    np.savez(tmp_path / "taught.npz", x=x.numpy(), y=y.numpy())
    teacher, student = (ready(api, "checkpoints", tmp_path / f"{name}.pt") for name in ("large", "small"))
    dataset = ready(api, "datasets", tmp_path / "taught.npz")
    settings = {"epochs": 8, "learning_rate": 0.02}
    run, path = done(student, "distillation", settings, dataset=dataset, teacher_checkpoint_id=teacher)
    before, after = (run[side]["metrics"]["accuracy"]["value"] for side in ("baseline", "result"))
    assert after > max(0.7, before + 0.2)
    assert sorted(tuple(p.shape) for p in load(path).parameters() if p.dim() == 2) == [(5, 16), (16, 10)]

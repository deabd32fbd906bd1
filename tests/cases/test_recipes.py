"""Recipes of several steps, end to end through the API: each step's score is on the receipt."""

import pytest

from tests.cases.conftest import uploaded


def step(technique, layers=None, **settings):
    return {"technique": technique, "settings": settings, **({"layers": layers} if layers else {})}


def scores(run, metric) -> list[float]:
    """Of the original, then after each step."""
    first = run["baseline"]["metrics"].get(metric)
    after = [each["metrics"][metric]["value"] for each in run["receipt"]["steps"]]
    print(f"{metric}: " + " → ".join(f"{value:.4f}" for value in [first["value"] if first else 1.0, *after]))
    return after


RECIPES = {
    "prune, distil, quantize": [
        step("sparsegpt", sparsity=0.5),
        step("distillation", minutes=4, learning_rate=2e-5),
        step("weight_quantization", bits=8),
    ],
    "low rank, quantize": [
        step("low_rank", method="whitened", ratio=0.8),
        step("weight_quantization", bits=8),
    ],
    "drop, distil, gptq": [
        step("layer_drop", blocks=3),
        step("distillation", minutes=4, learning_rate=2e-5),
        step("gptq", bits=4, granularity="group", group_size=64),
    ],
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_language_model(smollm2, calibration, compressed, name):
    run, folder = compressed(smollm2, *RECIPES[name], training_dataset_id=calibration)
    after = scores(run, "perplexity")
    if "distil" in name:
        assert after[1] < after[0], "distillation is there to win back what was lost"
    assert after[-1] == run["result"]["metrics"]["perplexity"]["value"]
    assert (folder / "model.safetensors").stat().st_size == run["result"]["size_bytes"]
    assert run["result"]["size_bytes"] < 0.6 * run["baseline"]["size_bytes"]


def test_an_encoder(minilm, calibration, compressed):
    run, _ = compressed(
        minilm,
        step("sparsegpt", sparsity=0.5),
        step("distillation", minutes=3, learning_rate=5e-5),
        step("weight_quantization", bits=8),
        training_dataset_id=calibration,
    )
    after = scores(run, "cosine")
    assert after[1] > after[0] > 0.89
    assert after[2] > after[1] - 0.01


ALONE = {
    "magnitude_pruning": {"sparsity": 0.5, "scope": "global"},
    "random_pruning": {"sparsity": 0.02},
    "wanda": {"sparsity": 0.3},
    "sparsegpt": {"sparsity": 0.5},
    "structured_pruning": {"ratio": 0.3, "importance": "reconstruction"},
    "low_rank": {"method": "whitened", "ratio": 0.6},
    "weight_quantization": {"bits": 4, "granularity": "group", "group_size": 32},
    "gptq": {"bits": 4, "granularity": "group", "group_size": 32},
    "awq": {"bits": 4, "granularity": "group", "group_size": 32},
    "static_quantization": {},
    "dynamic_quantization": {},
    "distillation": {"epochs": 1},
    "fine_tune": {"epochs": 1},
    "cast": {},
}


@pytest.mark.parametrize("technique", ALONE)
def test_a_resnet_on_digits(resnet, digits, compressed, technique):
    run, _ = compressed(resnet, step(technique, **ALONE[technique]), data=digits)
    (accuracy,) = scores(run, "accuracy")
    assert accuracy > 0.9


@pytest.fixture(scope="session")
def digits(api) -> str:
    from webapp.samples import DATASET

    return uploaded(api, "datasets", DATASET)


@pytest.fixture(scope="session")
def resnet(api, tmp_path_factory) -> str:
    """A ResNet-18 of 16 channels with torchvision's names, trained on the digits for half a minute."""
    import torch

    from webapp.engine.architectures.resnet import ResNetModule
    from webapp.samples.train_digits import digits as images

    torch.manual_seed(0)
    shape = {"base": 16, "width": 16, "channels": 1, "kernel": 3, "blocks": [2, 2, 2, 2], "classes": 10}
    module = ResNetModule({**shape, "bottleneck": False, "groups": 1, "bias": True}).train()
    data = images()
    x, y = torch.from_numpy(data["x_train"]), torch.from_numpy(data["y_train"])
    optimizer = torch.optim.AdamW(module.parameters(), 3e-3)
    for _ in range(6):
        for chosen in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(x[chosen]), y[chosen]).backward()
            optimizer.step()
    path = tmp_path_factory.mktemp("resnet") / "resnet18.pt"
    torch.save(module.state_dict(), path)
    return uploaded(api, "checkpoints", path)

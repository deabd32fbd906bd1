"""ResNets have torchvision's names, shapes and arithmetic; a misfit says what is missing, unexpected or misshapen."""

import pytest
import torch
from torch.nn import functional

from webapp.engine.architectures import architecture, classes, recognise
from webapp.engine.architectures.resnet import ResNet, ResNetModule
from webapp.engine.errors import CheckpointRefused
from webapp.engine.facts import TensorFacts

PARAMETERS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}  # torchvision's page


def config(depth=18, **changes):
    blocks = {18: [2, 2, 2, 2], 34: [3, 4, 6, 3], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3], 152: [3, 8, 36, 3]}[depth]
    base = changes.get("base", 64)
    settings = {"bottleneck": depth > 34, "blocks": blocks, "base": base, "channels": 3, "kernel": 7, "width": base}
    return settings | {"groups": 1, "classes": 1000, "bias": True} | changes


def shapes(settings):
    with torch.device("meta"):
        state = ResNetModule(settings).state_dict()
    dtype = {torch.int64: "int64", torch.float32: "float32"}
    return {n: TensorFacts(name=n, shape=tuple(v.shape), dtype=dtype[v.dtype]) for n, v in state.items()}


@pytest.mark.parametrize("depth", PARAMETERS)
def test_every_depth_is_recognised_and_has_the_published_number_of_parameters(depth):
    spec = recognise(shapes(config(depth)), None)
    assert (spec.title, spec.task, classes(spec)) == (f"ResNet-{depth}", "classification", 1000)
    assert spec.inputs == {"shape": [3, None, None]}
    assert sum(p.numel() for p in architecture(spec).skeleton(spec).parameters()) == PARAMETERS[depth]


@pytest.mark.parametrize(
    ("changes", "title"),
    [
        ({"kernel": 3, "channels": 1, "classes": 10}, "ResNet-18"),
        ({"base": 16, "bias": False}, "ResNet-18"),
        ({"depth": 50, "width": 128}, "ResNet-50 (1 groups of 128)"),
        ({"depth": 50, "width": 128, "groups": 32}, "ResNet-50 (32 groups of 4)"),
    ],
)
def test_its_variants_follow_from_the_shapes(changes, title):
    settings = config(**changes)
    spec = recognise(shapes(settings), None)
    assert spec.title == title
    assert {name: spec.config[name] for name in settings if name != "depth"} == {
        name: value for name, value in settings.items() if name != "depth"
    }
    assert ("3 × 3" in (spec.config["assumed"] or "")) == (settings["kernel"] == 3)


def by_hand(state, x):
    """torchvision's ResNet-18 in eval mode, written out with functional calls."""

    def norm(name, x):
        return functional.batch_norm(
            x, *(state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        )

    x = functional.relu(norm("bn1", functional.conv2d(x, state["conv1.weight"], stride=2, padding=3)))
    x = functional.max_pool2d(x, 3, 2, 1)
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = functional.conv2d(x, state[f"{at}.conv1.weight"], stride=stride, padding=1)
            y = functional.conv2d(functional.relu(norm(f"{at}.bn1", y)), state[f"{at}.conv2.weight"], padding=1)
            if f"{at}.downsample.0.weight" in state:
                x = norm(f"{at}.downsample.1", functional.conv2d(x, state[f"{at}.downsample.0.weight"], stride=stride))
            x = functional.relu(norm(f"{at}.bn2", y) + x)
    return functional.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


def test_it_answers_as_the_arithmetic_written_out_says():
    torch.manual_seed(0)
    network = ResNetModule(config(base=8, width=8, classes=5)).eval()
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    state, x = network.state_dict(), torch.randn(2, 3, 64, 48)
    spec = recognise(shapes(config(base=8, width=8, classes=5)), None)
    module = ResNet.skeleton(spec)
    module.load_state_dict(state, assign=True)
    with torch.no_grad():
        assert torch.allclose(module(x), by_hand(state, x), atol=1e-5)


def test_a_checkpoint_of_before_batches_were_counted_is_complete():
    without = {name: facts for name, facts in shapes(config()).items() if "num_batches" not in name}
    spec = recognise(without, None)
    assert set(ResNet.skeleton(spec).state_dict()) == set(without)


def test_a_misfit_says_what_is_missing_unexpected_and_misshapen():
    tensors = shapes(config())
    name = "layer2.0.conv1.weight"
    tensors[name] = tensors[name].model_copy(update={"shape": (64, 32, 3, 3)})
    del tensors["layer3.1.bn2.bias"]
    tensors["aux.weight"] = tensors["fc.weight"]
    with pytest.raises(CheckpointRefused) as refused:
        recognise(tensors, None)
    said = refused.value.message
    assert "layer2.0.conv1.weight has shape [64, 32, 3, 3]; ResNet-18 expects [128, 64, 3, 3]" in said
    assert "missing: layer3.1.bn2.bias" in said
    assert "unexpected: aux.weight" in said


def test_a_missing_block_is_named_by_the_nearest_depth():
    tensors = {name: facts for name, facts in shapes(config(34)).items() if not name.startswith("layer3.5.")}
    with pytest.raises(CheckpointRefused, match=r"look like ResNet-34 and do not fit it. missing: layer3\.5\."):
        recognise(tensors, None)

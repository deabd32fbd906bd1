"""VGG, MobileNetV2 and EfficientNet have torchvision's names, shapes and arithmetic."""

import pytest
import torch
from torch.nn import functional

from tests.engine.architectures import torchvision_shapes as shapes
from webapp.engine.architectures import architecture, classes, recognise
from webapp.engine.architectures.conv_blocks import AveragePool, _shares
from webapp.engine.errors import CheckpointRefused

PUBLISHED = {  # parameters, from torchvision's pages
    "VGG-11": (shapes.vgg(11), 132_863_336),
    "VGG-13": (shapes.vgg(13), 133_047_848),
    "VGG-16": (shapes.vgg(16), 138_357_544),
    "VGG-19": (shapes.vgg(19), 143_667_240),
    "VGG-11 with batch norm": (shapes.vgg(11, True), 132_868_840),
    "VGG-16 with batch norm": (shapes.vgg(16, True), 138_365_992),
    "MobileNetV2": (shapes.mobilenet_v2(), 3_504_872),
    "EfficientNet-B0": (shapes.efficientnet("B0"), 5_288_548),
    "EfficientNet-B1": (shapes.efficientnet("B1"), 7_794_184),
    "EfficientNet-B2": (shapes.efficientnet("B2"), 9_109_994),
    "EfficientNet-B3": (shapes.efficientnet("B3"), 12_233_232),
    "EfficientNet-B4": (shapes.efficientnet("B4"), 19_341_616),
    "EfficientNet-B5": (shapes.efficientnet("B5"), 30_389_784),
    "EfficientNet-B6": (shapes.efficientnet("B6"), 43_040_704),
    "EfficientNet-B7": (shapes.efficientnet("B7"), 66_347_960),
    "EfficientNet-V2-S": (shapes.efficientnet_v2_s(), 21_458_488),
}


@pytest.mark.parametrize("title", PUBLISHED)
def test_each_is_recognised_and_has_the_published_number_of_parameters(title):
    given, parameters = PUBLISHED[title]
    tensors = shapes.facts(given)
    spec = recognise(tensors, None)
    assert (spec.title, spec.task, classes(spec)) == (title, "classification", 1000)
    assert spec.inputs == {"shape": [3, None, None]}
    assert "size of its images" in spec.config["assumed"]
    module = architecture(spec).skeleton(spec)
    assert sum(p.numel() for p in module.parameters()) == parameters
    assert {n: tuple(v.shape) for n, v in module.state_dict().items()} == {n: t.shape for n, t in tensors.items()}


def test_batch_norms_have_the_epsilon_of_the_published_network():
    found = {}
    for name in ("B0", "B4", "B5", "B7"):
        spec = recognise(shapes.facts(shapes.efficientnet(name)), None)
        found[name] = {
            m.eps for m in architecture(spec).skeleton(spec).modules() if isinstance(m, torch.nn.BatchNorm2d)
        }
    assert found == {"B0": {1e-5}, "B4": {1e-5}, "B5": {1e-3}, "B7": {1e-3}}


@pytest.mark.parametrize(
    ("multiplier", "title"), [(0.35, " × 0.35"), (0.5, " × 0.5"), (1.4, " × 1.4"), (0.1, " × 0.1")]
)
def test_a_mobilenet_of_any_width_is_recognised(multiplier, title):
    spec = recognise(shapes.facts(shapes.mobilenet_v2(multiplier, classes=7)), None)
    assert (spec.title, classes(spec)) == (f"MobileNetV2{title}", 7)


def norm(state, name, x, eps=1e-5):
    parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return functional.batch_norm(x, *parts, eps=eps)


def conv_norm(state, name, x, stride=1, act=lambda x: x):
    weight = state[f"{name}.0.weight"]
    groups = x.shape[1] if weight.shape[1] == 1 and x.shape[1] > 1 else 1
    x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
    return act(norm(state, f"{name}.1", x))


def classified(state, name, x):
    return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def vgg_by_hand(state, x):
    at = 0
    for width in shapes.VGG[11]:
        if width == "M":
            x, at = functional.max_pool2d(x, 2, 2), at + 1
        else:
            x = functional.conv2d(x, state[f"features.{at}.weight"], state[f"features.{at}.bias"], padding=1)
            x, at = functional.relu(norm(state, f"features.{at + 1}", x)), at + 3
    x = functional.adaptive_avg_pool2d(x, (7, 7)).flatten(1)
    x = functional.relu(classified(state, "classifier.0", x))
    return classified(state, "classifier.6", functional.relu(classified(state, "classifier.3", x)))


def mobilenet_by_hand(state, x):
    x, at = conv_norm(state, "features.0", x, 2, functional.relu6), 1
    for (expansion, _, blocks), first in zip(shapes.MOBILENET, (1, 2, 2, 2, 1, 2, 1), strict=True):
        for index in range(blocks):
            name, stride, y, place = f"features.{at}.conv", 1 if index else first, x, 0
            if expansion != 1:
                y, place = conv_norm(state, f"{name}.0", y, 1, functional.relu6), 1
            y = conv_norm(state, f"{name}.{place}", y, stride, functional.relu6)
            y = norm(state, f"{name}.{place + 2}", functional.conv2d(y, state[f"{name}.{place + 1}.weight"]))
            x, at = x + y if stride == 1 and x.shape == y.shape else y, at + 1
    x = conv_norm(state, "features.18", x, 1, functional.relu6)
    return classified(state, "classifier.1", functional.adaptive_avg_pool2d(x, 1).flatten(1))


def efficientnet_by_hand(state, x):
    x = conv_norm(state, "features.0", x, 2, functional.silu)
    for stage, first in enumerate((1, 2, 2, 2, 1, 2, 1), start=1):
        expansion = shapes.EFFICIENTNET[stage - 1][0]
        for index in range(2 if f"features.{stage}.1.block.0.0.weight" in state else 1):
            name, stride, y, place = f"features.{stage}.{index}.block", 1 if index else first, x, 0
            if expansion != 1:
                y, place = conv_norm(state, f"{name}.0", y, 1, functional.silu), 1
            y = conv_norm(state, f"{name}.{place}", y, stride, functional.silu)
            scale = functional.adaptive_avg_pool2d(y, 1)
            for part, act in (("fc1", functional.silu), ("fc2", torch.sigmoid)):
                at = f"{name}.{place + 1}.{part}"
                scale = act(functional.conv2d(scale, state[f"{at}.weight"], state[f"{at}.bias"]))
            y = conv_norm(state, f"{name}.{place + 2}", y * scale)
            x = x + y if stride == 1 and x.shape == y.shape else y
    x = conv_norm(state, "features.8", x, 1, functional.silu)
    return classified(state, "classifier.1", functional.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.mark.parametrize(
    ("given", "by_hand"),
    [
        (lambda: shapes.vgg(11, True, thinner=16, classes=5, hidden=32), vgg_by_hand),
        (lambda: shapes.mobilenet_v2(0.25, classes=5), mobilenet_by_hand),
        (lambda: shapes.efficientnet("thin", classes=5), efficientnet_by_hand),
        (lambda: shapes.efficientnet("thin2", classes=5), efficientnet_by_hand),
    ],
    ids=["vgg", "mobilenet_v2", "efficientnet", "two blocks a stage"],
)
def test_each_answers_as_the_arithmetic_written_out_says(given, by_hand):
    state, x = shapes.state(given()), torch.randn(2, 3, 96, 64)
    spec = recognise(shapes.facts(given()), None)
    module = architecture(spec).skeleton(spec)
    module.load_state_dict(state, assign=True)
    with torch.no_grad():
        found, expected = module(x), by_hand(state, x)
    assert expected.std() > 1e-2
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("size", [(1, 1), (3, 10), (7, 7), (14, 20), (15, 8)])
def test_pooling_by_products_is_adaptive_pooling(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    rows, columns = (_shares(side, 7).double() for side in size)
    assert torch.allclose(rows @ x @ columns.t(), AveragePool(7)(x), atol=1e-6)


@pytest.mark.parametrize("given", [shapes.vgg(16), shapes.mobilenet_v2(), shapes.efficientnet()], ids=["vgg", "m", "e"])
def test_a_misfit_says_what_is_missing_unexpected_and_misshapen(given):
    tensors = shapes.facts(given)
    weight, bias = list(tensors)[-2:]
    dense = next(name for name in tensors if name.startswith("features.7.") and len(tensors[name].shape) == 4)
    tensors[dense] = tensors[dense].model_copy(update={"shape": (tensors[dense].shape[0], 3, 1, 1)})
    del tensors[bias]
    tensors["aux.weight"] = tensors[weight]
    with pytest.raises(CheckpointRefused) as refused:
        recognise(tensors, None)
    said = refused.value.message
    assert f"{dense} has shape" in said
    assert f"missing: {bias}" in said
    assert "unexpected: aux.weight" in said


def test_a_small_network_that_has_such_names_is_left_to_the_plain_families():
    own = [*shapes.conv("features.0", 8, 1, 3, True), *shapes.conv("features.3", 16, 8, 3, True)]
    own += [*shapes.linear("classifier.0", 32, 16 * 49), *shapes.linear("classifier.3", 16, 32)]
    spec = recognise(shapes.facts([*own, *shapes.linear("classifier.6", 10, 16)]), None)
    assert spec.family == "cnn"

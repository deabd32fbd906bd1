"""The names and shapes of torchvision's networks, written out from its source, and seeded values of such shapes."""

import math

import torch

from webapp.engine.facts import TensorFacts

VGG = {
    11: [64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"],
    13: [64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"],
    16: [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"],
    19: [64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M"],
}
MOBILENET = [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)]
EFFICIENTNET = [
    (1, 3, 16, 1),
    (6, 3, 24, 2),
    (6, 5, 40, 2),
    (6, 3, 80, 3),
    (6, 5, 112, 3),
    (6, 5, 192, 4),
    (6, 3, 320, 1),
]
WIDER_DEEPER = {
    **{"B0": (1.0, 1.0), "B1": (1.0, 1.1), "B2": (1.1, 1.2), "B3": (1.2, 1.4)},
    "thin": (0.25, 0.2),  # one block in each stage
    "thin2": (0.25, 0.5),  # two in the longest
    **{"B4": (1.4, 1.8), "B5": (1.6, 2.2), "B6": (1.8, 2.6), "B7": (2.0, 3.1)},
}
V2_S = [  # fused, expansion, input, output, blocks
    (True, 1, 24, 24, 2),
    (True, 4, 24, 48, 4),
    (True, 4, 48, 64, 4),
    (False, 4, 64, 128, 6),
    (False, 6, 128, 160, 9),
    (False, 6, 160, 256, 15),
]


def eight(width):
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


def norm(name, width):
    yield from ((f"{name}.{part}", (width,)) for part in ("weight", "bias", "running_mean", "running_var"))
    yield f"{name}.num_batches_tracked", ()


def conv(name, outputs, inputs, kernel, bias=False):
    yield f"{name}.weight", (outputs, inputs, kernel, kernel)
    if bias:
        yield f"{name}.bias", (outputs,)


def conv_norm(name, outputs, inputs, kernel):
    yield from conv(f"{name}.0", outputs, inputs, kernel)
    yield from norm(f"{name}.1", outputs)


def linear(name, outputs, inputs):
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def vgg(depth, batch_norm=False, thinner=1, classes=1000, hidden=4096):
    at, inputs = 0, 3
    for width in VGG[depth]:
        if width == "M":
            at += 1
            continue
        yield from conv(f"features.{at}", width // thinner, inputs, 3, bias=True)
        if batch_norm:
            yield from norm(f"features.{at + 1}", width // thinner)
        inputs, at = width // thinner, at + (3 if batch_norm else 2)
    yield from linear("classifier.0", hidden, inputs * 49)
    yield from linear("classifier.3", hidden, hidden)
    yield from linear("classifier.6", classes, hidden)


def mobilenet_v2(multiplier=1.0, classes=1000):
    inputs, at = eight(32 * multiplier), 1
    yield from conv_norm("features.0", inputs, 3, 3)
    for expansion, width, blocks in MOBILENET:
        for _ in range(blocks):
            hidden, outputs, place = inputs * expansion, eight(width * multiplier), 0
            if expansion != 1:
                yield from conv_norm(f"features.{at}.conv.0", hidden, inputs, 1)
                place = 1
            yield from conv_norm(f"features.{at}.conv.{place}", hidden, 1, 3)
            yield from conv(f"features.{at}.conv.{place + 1}", outputs, hidden, 1)
            yield from norm(f"features.{at}.conv.{place + 2}", outputs)
            inputs, at = outputs, at + 1
    last = eight(1280 * max(1.0, multiplier))
    yield from conv_norm("features.18", last, inputs, 1)
    yield from linear("classifier.1", classes, last)


def mb_conv(at, expansion, kernel, inputs, outputs):
    hidden, place = inputs * expansion, 0
    if expansion != 1:
        yield from conv_norm(f"{at}.0", hidden, inputs, 1)
        place = 1
    squeezed = max(1, inputs // 4)
    yield from conv_norm(f"{at}.{place}", hidden, 1, kernel)
    yield from conv(f"{at}.{place + 1}.fc1", squeezed, hidden, 1, bias=True)
    yield from conv(f"{at}.{place + 1}.fc2", hidden, squeezed, 1, bias=True)
    yield from conv_norm(f"{at}.{place + 2}", outputs, hidden, 1)


def efficientnet(name="B0", classes=1000):
    wider, deeper = WIDER_DEEPER[name]
    inputs = eight(32 * wider)
    yield from conv_norm("features.0", inputs, 3, 3)
    for stage, (expansion, kernel, width, blocks) in enumerate(EFFICIENTNET, start=1):
        for index in range(math.ceil(blocks * deeper)):
            outputs = eight(width * wider)
            yield from mb_conv(f"features.{stage}.{index}.block", expansion, kernel, inputs, outputs)
            inputs = outputs
    yield from conv_norm("features.8", 4 * inputs, inputs, 1)
    yield from linear("classifier.1", classes, 4 * inputs)


def efficientnet_v2_s(classes=1000):
    yield from conv_norm("features.0", 24, 3, 3)
    for stage, (fused, expansion, inputs, outputs, blocks) in enumerate(V2_S, start=1):
        for index in range(blocks):
            at, width = f"features.{stage}.{index}.block", outputs if index else inputs
            if not fused:
                yield from mb_conv(at, expansion, 3, width, outputs)
            elif expansion == 1:
                yield from conv_norm(f"{at}.0", outputs, width, 3)
            else:
                yield from conv_norm(f"{at}.0", width * expansion, width, 3)
                yield from conv_norm(f"{at}.1", outputs, width * expansion, 1)
    yield from conv_norm("features.7", 1280, 256, 1)
    yield from linear("classifier.1", classes, 1280)


def facts(shapes):
    return {
        name: TensorFacts(name=name, shape=shape, dtype="int64" if name.endswith("tracked") else "float32")
        for name, shape in shapes
    }


def state(shapes, seed=0):
    """Values that keep activations near 1, and batch norms that are not neutral."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for name, shape in shapes:
        if name.endswith("num_batches_tracked"):
            found[name] = torch.tensor(7)
        elif name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            found[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            scale = math.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.1
            found[name] = torch.randn(shape, generator=generator) * scale * 1.4
    return found

"""torchvision's VGG 11, 13, 16 and 19, with and without batch norm, under its parameter names.

Simonyan & Zisserman 2015, Very Deep Convolutional Networks, https://arxiv.org/abs/1409.1556. The names tell which it is
and where it pools; the widths of the layers, the input channels and the classes follow from the shapes, so a VGG whose
channels were cut elsewhere comes in as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from webapp.engine.facts import ArchitectureSpec, TensorFacts

from .comparing import ImageClassifier
from .conv_blocks import AveragePool, indices, rank

STAGES = {  # convolutions in each stage, a 2 × 2 max pool after it
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
PUBLISHED = (64, 128, 256, 512, 512)
HEAD = (0, 3, 6)  # the linear layers of the classifier, ReLU and dropout between
ASSUMED = "The tensors do not tell the size of its images (published: 224 × 224; any is pooled to {side} × {side})."


class VggModule(nn.Module):
    """(B, channels, H, W) -> (B, classes) logits; H and W are at least 32."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.features = nn.Sequential()
        inputs, widths = config["channels"], iter(config["widths"])
        for count in STAGES[config["depth"]]:
            for _ in range(count):
                width = next(widths)
                self.features.append(nn.Conv2d(inputs, width, 3, padding=1))
                if config["batch_norm"]:
                    self.features.append(nn.BatchNorm2d(width))
                self.features.append(nn.ReLU())
                inputs = width
            self.features.append(nn.MaxPool2d(2, 2))
        self.avgpool = AveragePool(config["side"])
        first, second = config["hidden"]
        self.classifier = nn.Sequential(
            nn.Linear(inputs * config["side"] ** 2, first),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(second, config["classes"]),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))  # type: ignore[no-any-return]


class Vgg(ImageClassifier):
    family: ClassVar[str] = "vgg"
    priority: ClassVar[int] = 41
    module = VggModule

    @classmethod
    def recognise(cls, tensors: Mapping[str, TensorFacts], config: dict[str, Any] | None) -> ArchitectureSpec | None:
        if config or rank(tensors, "features.0.weight") != 4 or indices(tensors, "classifier.") != list(HEAD):
            return None
        if any(rank(tensors, f"classifier.{index}.weight") != 2 for index in HEAD):
            return None
        normed = "features.1.running_mean" in tensors
        found = {index for index in indices(tensors, "features.") if rank(tensors, f"features.{index}.weight") == 4}
        places = {depth: _places(depth, normed) for depth in STAGES}
        depth = min(places, key=lambda depth: len(found ^ set(places[depth])))
        if len(found ^ set(places[depth])) > len(found) // 2:
            return None
        published = [width for width, count in zip(PUBLISHED, STAGES[depth], strict=True) for _ in range(count)]
        widths = [
            tensors[name].shape[0] if rank(tensors, name := f"features.{place}.weight") == 4 else width
            for place, width in zip(places[depth], published, strict=True)
        ]
        first, second, classes = (tensors[f"classifier.{index}.weight"].shape[0] for index in HEAD)
        side = math.isqrt(tensors["classifier.0.weight"].shape[1] // max(widths[-1], 1))
        title = f"VGG-{depth}{' with batch norm' if normed else ''}{'' if widths == published else ', other widths'}"
        return cls.described(
            tensors,
            title,
            tensors["features.0.weight"].shape[1],
            classes,
            depth=depth,
            batch_norm=normed,
            widths=widths,
            hidden=[first, second],
            side=side,
            size=224,
            assumed=ASSUMED.format(side=side),
        )


def _places(depth: int, normed: bool) -> list[int]:
    """The numbers of the convolutions among the features."""
    places, at = [], 0
    for count in STAGES[depth]:
        for _ in range(count):
            places.append(at)
            at += 3 if normed else 2
        at += 1  # the pool
    return places

"""torchvision's MobileNetV2 of any width, under its parameter names.

Sandler et al. 2018, Inverted Residuals and Linear Bottlenecks, https://arxiv.org/abs/1801.04381. Where it strides is
fixed; widths, expansions, input channels and classes follow from the shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from webapp.engine.facts import ArchitectureSpec, TensorFacts

from .comparing import ImageClassifier
from .conv_blocks import ConvNorm, indices, rank

STAGES = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))  # width, blocks, stride
STRIDES = [stride if first == 0 else 1 for _, count, stride in STAGES for first in range(count)]
PUBLISHED = [width for width, count, _ in STAGES for _ in range(count)]
LAST = len(STRIDES) + 1  # the number of the convolution after the blocks
MULTIPLIERS = [step / 20 for step in range(1, 61)]
ASSUMED = "The tensors do not tell the size of its images (published: 224 × 224; any works)."


class InvertedResidual(nn.Module):
    """Widened, convolved channel by channel, narrowed: (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""

    def __init__(self, inputs: int, hidden: int, outputs: int, stride: int, expands: bool) -> None:
        super().__init__()
        self.shortcut = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *([ConvNorm(inputs, hidden, 1, activation=nn.ReLU6)] if expands else []),
            ConvNorm(hidden, hidden, 3, stride, groups=hidden, activation=nn.ReLU6),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.shortcut else y


class MobileNetV2Module(nn.Module):
    """(B, channels, H, W) -> (B, classes) logits."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        inputs = config["stem"]
        self.features = nn.Sequential(ConvNorm(config["channels"], inputs, 3, 2, activation=nn.ReLU6))
        for hidden, outputs, stride in zip(config["hidden"], config["outputs"], STRIDES, strict=True):
            self.features.append(InvertedResidual(inputs, hidden or inputs, outputs, stride, hidden is not None))
            inputs = outputs
        self.features.append(ConvNorm(inputs, config["last"], 1, activation=nn.ReLU6))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(config["last"], config["classes"]))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]


class MobileNetV2(ImageClassifier):
    family: ClassVar[str] = "mobilenet_v2"
    priority: ClassVar[int] = 42
    module = MobileNetV2Module

    @classmethod
    def recognise(cls, tensors: Mapping[str, TensorFacts], config: dict[str, Any] | None) -> ArchitectureSpec | None:
        signs = ("features.0.0.weight", "features.1.conv.0.0.weight", "features.2.conv.2.weight")
        if config or any(rank(tensors, name) != 4 for name in signs) or rank(tensors, "classifier.1.weight") != 2:
            return None
        if max(indices(tensors, "features.")) != LAST:
            return None  # an inverted residual network of another depth: its strides are not known
        stem, channels = tensors["features.0.0.weight"].shape[:2]
        classes, last = tensors["classifier.1.weight"].shape
        hidden: list[int | None] = []
        outputs: list[int] = []
        for number, width in enumerate(PUBLISHED, start=1):
            at = f"features.{number}.conv"
            expands = any(name.startswith(f"{at}.3.") for name in tensors) or number > 1
            narrowing = f"{at}.{2 if expands else 1}.weight"
            hidden.append(_rows(tensors, f"{at}.0.0.weight", 6 * (outputs or [stem])[-1]) if expands else None)
            outputs.append(_rows(tensors, narrowing, width))
        title = f"MobileNetV2{_width(stem, outputs)}"
        return cls.described(
            tensors,
            title,
            channels,
            classes,
            stem=stem,
            hidden=hidden,
            outputs=outputs,
            last=last,
            size=224,
            assumed=ASSUMED,
        )


def divisible(width: float, by: int = 8) -> int:
    """The nearest multiple that is not more than a tenth below, as the networks of this kind round their widths."""
    nearest = max(by, int(width + by / 2) // by * by)
    return nearest + by if nearest < 0.9 * width else nearest


def _rows(tensors: Mapping[str, TensorFacts], name: str, otherwise: int) -> int:
    return tensors[name].shape[0] if rank(tensors, name) == 4 else otherwise


def _width(stem: int, outputs: list[int]) -> str:
    """The multiplier, for the title; of those that round alike the nearest to 1."""
    for multiplier in sorted(MULTIPLIERS, key=lambda multiplier: abs(multiplier - 1)):
        if [stem, *outputs] == [divisible(width * multiplier) for width in (32, *PUBLISHED)]:
            return "" if multiplier == 1 else f" × {multiplier:g}"
    return ", other widths"

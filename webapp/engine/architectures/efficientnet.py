"""torchvision's EfficientNet B0 to B7 and V2-S, M and L, under its parameter names.

Tan & Le 2019, https://arxiv.org/abs/1905.11946, and 2021, https://arxiv.org/abs/2104.00298. Depths and widths, kernels,
expansions, input channels and classes follow from names and shapes; where it strides and the epsilon of its batch norms
do not, and are those of the published network of the same depths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from webapp.engine.facts import ArchitectureSpec, TensorFacts

from .comparing import ImageClassifier
from .conv_blocks import ConvNorm, SqueezeExcitation, indices, rank

DEPTHS = (1, 2, 2, 3, 3, 4, 1)  # of B0: blocks in each stage
STRIDES = {7: (1, 2, 2, 2, 1, 2, 1), 6: (1, 2, 2, 2, 1, 2)}  # by the number of stages; 6: V2-S
PUBLISHED = {  # width of the last convolution, depths -> name, size of its images, epsilon
    **{
        (last, tuple(math.ceil(depth * deeper) for depth in DEPTHS)): (name, size, 1e-5 if name < "B5" else 1e-3)
        for name, last, deeper, size in (
            ("B0", 1280, 1.0, 224),
            ("B1", 1280, 1.1, 240),
            ("B2", 1408, 1.2, 288),
            ("B3", 1536, 1.4, 300),
            ("B4", 1792, 1.8, 380),
            ("B5", 2048, 2.2, 456),
            ("B6", 2304, 2.6, 528),
            ("B7", 2560, 3.1, 600),
        )
    },
    (1280, (2, 4, 4, 6, 9, 15)): ("V2-S", 384, 1e-3),
    (1280, (3, 5, 5, 7, 14, 18, 5)): ("V2-M", 480, 1e-3),
    (1280, (4, 7, 7, 10, 19, 25, 7)): ("V2-L", 480, 1e-3),
}
Block = dict[str, Any]


class MBConv(nn.Module):
    """Widened, convolved channel by channel, weighed, narrowed; or, `fused`, without the second and the third.

    (B, inputs, H, W) -> (B, outputs, H / stride, W / stride). The batch norms' epsilon is `eps`.
    """

    def __init__(self, inputs: int, stride: int, about: Block, eps: float) -> None:
        super().__init__()
        hidden, outputs, kernel = about["hidden"], about["outputs"], about["kernel"]
        self.shortcut = stride == 1 and inputs == outputs
        middle = hidden or inputs
        silu = partial(ConvNorm, eps=eps, activation=nn.SiLU)
        if about["fused"]:
            first = silu(inputs, hidden or outputs, kernel, stride)
            self.block = nn.Sequential(first, *([ConvNorm(middle, outputs, 1, eps=eps)] if hidden else []))
        else:
            self.block = nn.Sequential(
                *([silu(inputs, middle, 1)] if hidden else []),
                silu(middle, middle, kernel, stride, groups=middle),
                SqueezeExcitation(middle, about["squeezed"]),
                ConvNorm(middle, outputs, 1, eps=eps),
            )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.shortcut else y


class EfficientNetModule(nn.Module):
    """(B, channels, H, W) -> (B, classes) logits."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        eps, inputs = config["eps"], config["stem"]
        self.features = nn.Sequential(ConvNorm(config["channels"], inputs, 3, 2, eps=eps, activation=nn.SiLU))
        for blocks, stride in zip(config["stages"], STRIDES[len(config["stages"])], strict=True):
            stage = nn.Sequential()
            for index, about in enumerate(blocks):
                stage.append(MBConv(inputs, 1 if index else stride, about, eps))
                inputs = about["outputs"]
            self.features.append(stage)
        self.features.append(ConvNorm(inputs, config["last"], 1, eps=eps, activation=nn.SiLU))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(config["last"], config["classes"]))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]


class EfficientNet(ImageClassifier):
    family: ClassVar[str] = "efficientnet"
    priority: ClassVar[int] = 43
    module = EfficientNetModule

    @classmethod
    def recognise(cls, tensors: Mapping[str, TensorFacts], config: dict[str, Any] | None) -> ArchitectureSpec | None:
        signs = ("features.0.0.weight", "features.1.0.block.0.0.weight", "features.2.0.block.0.0.weight")
        if config or any(rank(tensors, name) != 4 for name in signs) or rank(tensors, "classifier.1.weight") != 2:
            return None
        count = max(indices(tensors, "features.")) - 1
        if count not in STRIDES:
            return None
        stem, channels = tensors["features.0.0.weight"].shape[:2]
        classes, last = tensors["classifier.1.weight"].shape
        depths = tuple(max(indices(tensors, f"features.{stage}."), default=0) + 1 for stage in range(1, count + 1))
        nearest = min(PUBLISHED, key=lambda known: _distance(known, (last, depths)))
        name, size, eps = PUBLISHED[nearest]
        stages = [
            [_block(tensors, f"features.{stage}.{index}.block") for index in range(depth)]
            for stage, depth in enumerate(depths, start=1)
        ]
        title, told = f"EfficientNet-{name}", f"published: {size} × {size}"
        assumed = f"The tensors do not tell the size of its images ({told}; any works)."
        if nearest != (last, depths):
            assumed += f" Nor the epsilon of its batch norms: that of EfficientNet-{name}, {eps:g}, is assumed."
            title = f"{title}, other widths"
        return cls.described(
            tensors,
            title,
            channels,
            classes,
            stem=stem,
            stages=stages,
            last=last,
            eps=eps,
            size=size,
            assumed=assumed,
        )


def _distance(known: tuple[int, tuple[int, ...]], found: tuple[int, tuple[int, ...]]) -> tuple[int, int]:
    """Nearer in depths first, then in width; another number of stages is far away."""
    if len(known[1]) != len(found[1]):
        return 10_000, 0
    return sum(abs(a - b) for a, b in zip(known[1], found[1], strict=True)), abs(known[0] - found[0])


def _block(tensors: Mapping[str, TensorFacts], at: str) -> Block:
    """What the tensors under `at` tell; a block that is not whole is completed, for `compare` to say what it lacks."""

    def shape(part: str) -> tuple[int, ...]:
        name = f"{at}.{part}.weight"
        return tensors[name].shape if rank(tensors, name) == 4 else (8, 8, 3, 3)

    numbers = indices(tensors, f"{at}.")
    if squeezes := [number for number in numbers if f"{at}.{number}.fc1.weight" in tensors]:
        place = squeezes[0]
        return {
            "fused": False,
            "hidden": shape("0.0")[0] if place == 2 else None,
            "kernel": shape(f"{place - 1}.0")[2],
            "squeezed": shape(f"{place}.fc1")[0],
            "outputs": shape(f"{place + 1}.0")[0],
        }
    widens = 1 in numbers
    return {
        "fused": True,
        "hidden": shape("0.0")[0] if widens else None,
        "kernel": shape("0.0")[2],
        "outputs": shape("1.0" if widens else "0.0")[0],
    }

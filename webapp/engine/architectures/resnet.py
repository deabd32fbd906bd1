"""torchvision-style ResNets, with its parameter names: 18 and 34 of basic blocks, 50, 101 and 152 of bottlenecks.

He et al. 2016, Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385; the stride of a
bottleneck is on its 3 × 3 convolution, as torchvision has it. Widths (Wide ResNet), groups (ResNeXt), the number of
classes, of input channels, and a 3 × 3 stem without pooling (the CIFAR variant) follow from the shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from webapp.engine.facts import ArchitectureSpec, TensorFacts

from .comparing import ImageClassifier

DEPTHS = {  # (bottleneck?, blocks per stage) -> the published depth
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}
SIGNS = ("conv1.weight", "layer1.0.conv1.weight", "layer2.0.conv1.weight", "fc.weight")


class ResidualBlock(nn.Module):
    """convs, each with its batch norm, plus the shortcut: (B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""

    def __init__(self, inputs: int, planes: int, stride: int, bottleneck: bool, width: int, groups: int) -> None:
        super().__init__()
        outputs = planes * 4 if bottleneck else planes
        if bottleneck:
            self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
            self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        else:
            self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(self.conv1.out_channels)
        self.bn2 = nn.BatchNorm2d(self.conv2.out_channels)
        if bottleneck:
            self.bn3 = nn.BatchNorm2d(outputs)
        self.bottleneck = bottleneck
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        if self.bottleneck:
            x = self.bn3(self.conv3(functional.relu(x)))
        return functional.relu(x + shortcut)


class ResNetModule(nn.Module):
    """(B, channels, H, W) -> (B, classes) logits."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        base, bottleneck, kernel = config["base"], config["bottleneck"], config["kernel"]
        self.pooled = kernel == 7
        self.conv1 = nn.Conv2d(config["channels"], base, kernel, 2 if self.pooled else 1, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        inputs = base
        for stage, count in enumerate(config["blocks"]):
            planes = base * 2**stage
            blocks = []
            for index in range(count):
                stride = 2 if stage and not index else 1
                blocks.append(
                    ResidualBlock(inputs, planes, stride, bottleneck, config["width"] * 2**stage, config["groups"])
                )
                inputs = planes * 4 if bottleneck else planes
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, config["classes"], bias=config["bias"])

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        if self.pooled:
            x = functional.max_pool2d(x, 3, 2, 1)
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


class ResNet(ImageClassifier):
    family: ClassVar[str] = "resnet"
    priority: ClassVar[int] = 40
    module = ResNetModule

    @classmethod
    def recognise(cls, tensors: Mapping[str, TensorFacts], config: dict[str, Any] | None) -> ArchitectureSpec | None:
        if config or not all(name in tensors for name in SIGNS):
            return None
        if len(tensors["conv1.weight"].shape) != 4 or len(tensors["fc.weight"].shape) != 2:
            return None
        bottleneck = any(name.endswith(".conv3.weight") for name in tensors)
        found = tuple(
            len({n.split(".")[1] for n in tensors if n.startswith(f"layer{stage}.")}) for stage in (1, 2, 3, 4)
        )
        known = {blocks: depth for (kind, blocks), depth in DEPTHS.items() if kind == bottleneck}
        blocks = min(known, key=lambda blocks: sum(abs(a - b) for a, b in zip(blocks, found, strict=True)))
        base, channels, kernel, _ = tensors["conv1.weight"].shape
        width, groups = base, 1
        if bottleneck and "layer1.0.conv2.weight" in tensors:
            width = tensors["layer1.0.conv1.weight"].shape[0]
            groups = max(1, width // max(1, tensors["layer1.0.conv2.weight"].shape[1]))
        depth, classes = known[blocks], tensors["fc.weight"].shape[0]
        kind = (
            f"ResNet-{depth}"
            if (width, groups) == (base, 1)
            else f"ResNet-{depth} ({groups} groups of {width // groups})"
        )
        return cls.described(
            tensors,
            kind,
            channels,
            classes,
            bottleneck=bottleneck,
            blocks=list(blocks),
            base=base,
            kernel=kernel,
            width=width,
            groups=groups,
            bias="fc.bias" in tensors,
            size=224 if kernel == 7 else 32,  # what a synthetic input takes; any size passes
            assumed=None if kernel == 7 else "Its stem is 3 × 3: stride 1 and no pooling after it are assumed.",
        )

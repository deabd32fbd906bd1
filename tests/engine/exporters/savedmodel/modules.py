"""Small modules for the operators of convolutional networks, which the tiny transformers have none of."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Excitation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.excite(F.silu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))


class Efficient(nn.Module):
    """EfficientNet's: depthwise convolutions with and without strides, SiLU, squeeze and excite."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.expand, self.narrow = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1)
        self.strided = nn.Conv2d(16, 16, 5, 2, 2, groups=16)
        self.same = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.excitation, self.head = Excitation(16), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.strided(F.hardswish(self.expand(F.silu(self.norm(self.stem(x)))))))
        x = self.narrow(self.excitation(x + F.silu(self.same(x))))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class Mixed(nn.Module):
    """Groups, dilation, every kind of pooling and normalisation, and resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.grouped = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, 2, 1, groups=4)
        self.dilated = nn.Conv2d(12, 12, 3, padding=2, dilation=2, groups=12)
        self.group_norm, self.instance_norm = nn.GroupNorm(3, 12), nn.InstanceNorm2d(12, affine=True)
        self.slope, self.largest = nn.PReLU(12), nn.MaxPool2d(3, 2, 1)
        self.last_windows = nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(2, 2, ceil_mode=True))
        self.averages = nn.AvgPool2d(3, 1, 1, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.largest(F.relu(self.plain(x)))
        x = torch.cat([x, F.hardsigmoid(x)], 1)[:, ::2]
        x = self.instance_norm(self.dilated(self.slope(self.group_norm(self.grouped(x)))))
        x = self.last_windows(self.averages(F.interpolate(x, scale_factor=2)))
        x = F.interpolate(x, scale_factor=2, mode="bilinear")
        return x.mean((2, 3)) + F.elu(x.amax((2, 3)))


class Lines(nn.Module):
    """Convolutions over sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm, self.head = nn.Embedding(40, 8), nn.BatchNorm1d(12), nn.Linear(12, 4)
        self.plain, self.strided = nn.Conv1d(8, 12, 3, padding=1), nn.Conv1d(12, 12, 3, 2, 1, groups=12)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.plain(self.words(x).transpose(1, 2)))
        return self.head(F.gelu(self.norm(self.strided(x))).mean(-1))


def seeded(kind: type[nn.Module]) -> nn.Module:
    """In eval mode, with norms that have seen something."""
    torch.manual_seed(0)
    module = kind().eval()
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.running_mean.normal_(), part.running_var.uniform_(0.5, 2)
                part.weight.normal_(), part.bias.normal_()
    return module

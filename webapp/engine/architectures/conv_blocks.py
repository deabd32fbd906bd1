"""The blocks that torchvision's mobile networks are made of, under its parameter names, and the pooling of its VGG."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from webapp.engine.facts import TensorFacts

Shapes = Mapping[str, TensorFacts]


class ConvNorm(nn.Sequential):
    """0: a convolution that keeps the size but for its stride, 1: its batch norm, 2: the activation, if any."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        eps: float = 1e-5,
        activation: type[nn.Module] | None = None,
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs, eps=eps),
        ]
        super().__init__(*layers, *([activation()] if activation else []))


class SqueezeExcitation(nn.Module):
    """x (B, C, H, W) times a weight in (0, 1) for each channel, of all of them (Hu et al. 2018, arXiv 1709.01507)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = functional.silu(self.fc1(x.mean((2, 3), keepdim=True)))
        return torch.sigmoid(self.fc2(scale)) * x


class AveragePool(nn.Module):
    """nn.AdaptiveAvgPool2d: (B, C, H, W) -> (B, C, side, side), of any height and width.

    Exporters know it for sizes that they see only; for them it is two products with the shares that each place has in
    each cell, which is the same and takes any size.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            return functional.adaptive_avg_pool2d(x, self.side)
        rows, columns = (_shares(x.shape[axis], self.side) for axis in (2, 3))
        return rows @ x @ columns.t()


def _shares(size: int, cells: int) -> Tensor:
    """(cells, size): cell i is the mean of the places from floor(i · size / cells) to ceil((i + 1) · size / cells)."""
    place, cell = torch.arange(size), torch.arange(cells)[:, None]
    start, end = cell * size // cells, ((cell + 1) * size + cells - 1) // cells
    return ((place >= start) & (place < end)) / (end - start).float()


def indices(names: Shapes, prefix: str) -> list[int]:
    """The numbers that follow `prefix` in the names, ascending."""
    found = {name[len(prefix) :].partition(".")[0] for name in names if name.startswith(prefix)}
    return sorted(int(number) for number in found if number.isdecimal())


def rank(tensors: Shapes, name: str) -> int:
    """How many axes a tensor has; 0 where there is none of the name."""
    return len(tensors[name].shape) if name in tensors else 0

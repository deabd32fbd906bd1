"""Low-rank adaptation: the weight stays, a product of two thin matrices is trained beside it and merged at the end.

Hu et al. 2021, https://arxiv.org/abs/2106.09685, equation 3: W + (alpha / r) B A, with B zero at the start.
"""

from __future__ import annotations

import math
from typing import Any

from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.weights import Encoded, Quantized

from .trained_weights import Place, QuantizedForm, TrainedWeight, dense


class LoraForm(TrainedWeight):
    """`down` (rank, in) and `up` (out, rank).

    Beside a plain weight they run as two thin products. Where the weight has zeros to keep or integers, the module
    computes with the merged weight instead, masked or rounded, because that is what will be stored.
    """

    def __init__(self, place: Place, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__(place)
        weight = place.parameter
        device = weight.device
        outputs, inputs = place.matrix(weight.detach()).shape
        drawn = torch.empty(rank, inputs).uniform_(-1, 1, generator=generator) / math.sqrt(inputs)
        self.down = nn.Parameter(drawn.to(device))
        self.up = nn.Parameter(torch.zeros(outputs, rank, device=device))
        self.factor = alpha / rank
        self.leaves = {f"{place.name}.down": self.down, f"{place.name}.up": self.up}
        self.base = place.matrix(weight.detach())
        self.mask = self.base != 0 if place.encoded.plan.pruned else None
        self.grid = QuantizedForm(place, train_scales=False) if isinstance(place.encoded, Quantized) else None
        if self.grid is None and self.mask is None:
            place.part.register_forward_hook(self._beside)

    def _beside(self, part: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        x: Tensor = args[0]
        return out + self.factor * (x @ self.down.t() @ self.up.t())

    def merged(self) -> Tensor:
        """(out, in)"""
        change = self.factor * (self.up @ self.down)
        return self.base + (change if self.mask is None else change * self.mask)

    def value(self) -> Tensor | None:
        if self.grid is not None:
            return self.place.shaped(self.grid.rounded(self.merged()))
        return None if self.mask is None else self.place.shaped(self.merged())

    def encoded(self) -> Encoded:
        with torch.no_grad():
            if self.grid is not None:
                return self.grid.on_grid(self.merged())
            return dense(self.place, self.place.shaped(self.merged()))

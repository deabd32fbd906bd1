"""Low-rank adaptation: the weight stays, a product of two low-rank factors is trained beside it and merged at the end.

Hu et al. 2021, https://arxiv.org/abs/2106.09685, equation 3: W + (alpha / r) B A, with B zero at the start.
"""

from __future__ import annotations

import math
from typing import Any

from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.weights import Encoded

from .trained_weights import Place, TrainedWeight


class LoraWeight(TrainedWeight):
    """`down` (rank, in) and `up` (out, rank).

    Beside a plain weight they run as two products. Where the weight has zeros to keep or a form that rounds, the module
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
        self.base = weight.detach()
        self.beside = self.form.plain and self.mask is None
        if self.beside:
            place.part.register_forward_hook(self._beside)

    def _beside(self, part: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        x: Tensor = args[0]
        return out + self.factor * (x @ self.down.t() @ self.up.t())

    def merged(self) -> Tensor:
        """As the module holds it."""
        change = self.place.shaped(self.factor * (self.up @ self.down))
        return self.base + (change if self.mask is None else change * self.mask)

    def value(self) -> Tensor | None:
        return None if self.beside else self.form.rounded(self.merged())

    def encoded(self) -> Encoded:
        with torch.no_grad():
            return self.form.encoded(self.merged())

"""How a ratio is spread unevenly over layers, so that the budget is kept and the least is lost.

A weight costs the share of its layer's output energy that goes with it, (|w| ||x||)^2 over the sum of all, in Wanda's
estimate (https://arxiv.org/abs/2306.11695). The least total cost at a given total is where the next weight to go would
cost the same in every layer (Lagrange), within SPREAD of the ratio that was asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from webapp.engine.lazy import Tensor, torch

SPREAD = 0.1  # further from the ratio that was asked the estimate is not to be trusted
STEPS = 41  # ratios at which a layer's next weight is looked at
HALVINGS = 60


def ratios(share: float) -> Tensor:
    """The ratios (STEPS,) that a layer may get where `share` is asked of all, float64, ascending."""
    return torch.linspace(max(share - SPREAD, 0.0), min(share + SPREAD, 0.99), STEPS, dtype=torch.float64)


def next_costs(scores: Tensor, at: Tensor) -> Tensor:
    """What the next weight costs once these ratios (steps,) of the smallest scores (any shape) are gone: (steps,)."""
    energy = scores.double().clamp(min=0).square().reshape(-1)
    places = (at * (len(energy) - 1)).round().long()
    ordered = torch.from_numpy(np.partition(energy.numpy(), sorted(set(places.tolist()))))
    return ordered[places] / energy.sum().clamp(min=torch.finfo(torch.float64).tiny)


def allocated(costs: Sequence[Tensor], sizes: Sequence[int], share: float) -> list[float]:
    """The ratio of each layer, from its `next_costs` at `ratios(share)` and how many weights it has.

    Together they remove `share` of all weights.
    """
    at, weights = ratios(share), torch.tensor(sizes, dtype=torch.float64)
    table = torch.stack(list(costs))  # (layers, steps), ascending in each row

    def chosen(threshold: float) -> Tensor:
        return at[(table < threshold).sum(1).clamp(max=len(at) - 1)]

    low, high = 0.0, float(table.max()) * 2 + 1e-300
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5 if low else high * 1e-12
        if float((chosen(middle) * weights).sum()) < share * float(weights.sum()):
            low = middle
        else:
            high = middle
    below, above = (float((chosen(end) * weights).sum() / weights.sum()) for end in (low, high))
    part = min(max((share - below) / (above - below), 0.0), 1.0) if above > below else 0.0
    mixed: list[float] = torch.lerp(chosen(low), chosen(high), part).tolist()
    return mixed

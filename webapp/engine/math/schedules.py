"""The learning rate over a training, as a factor of its peak."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "linear", "constant"]


def rate_factor(schedule: Schedule, done: float, warmup: float) -> float:
    """`done` is the share of the training that is behind, 0 to 1; it rises linearly over the share `warmup`.

    After that: half a cosine down to zero (SGDR, equation 5, https://arxiv.org/abs/1608.03983), a line to zero, or 1.
    """
    if done < warmup:
        return done / warmup
    rest = min(1.0, (done - warmup) / (1 - warmup)) if warmup < 1 else 1.0
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * rest))
    return 1 - rest if schedule == "linear" else 1.0

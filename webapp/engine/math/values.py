"""What is asked of every value of a checkpoint, as fast as memory is read."""

from __future__ import annotations

import math

import numpy as np

from webapp.engine.lazy import Tensor, torch

CHUNK = 1 << 16  # values counted at a time: they stay in a core's cache


def all_finite(values: Tensor) -> bool:
    """Whether floats hold neither NaN nor infinity. A sum tells where they do not: it is quick."""
    if not values.dtype.is_floating_point:
        return True
    if values.element_size() == 1:  # which torch neither adds up nor looks at
        return bool(torch.isfinite(values.float()).all())
    return math.isfinite(float(values.sum())) or bool(torch.isfinite(values).all())


def count_zeros(values: Tensor) -> int:
    """How many floats are zero, of either sign."""
    if values.element_size() not in (2, 4):
        return values.numel() - int(torch.count_nonzero(values))
    signed, unsigned = (torch.int16, np.uint16) if values.element_size() == 2 else (torch.int32, np.uint32)
    bits = values.contiguous().reshape(-1).view(signed).numpy().view(unsigned)
    found = sum(int(np.count_nonzero(np.left_shift(bits[i : i + CHUNK], 1))) for i in range(0, len(bits), CHUNK))
    return values.numel() - found

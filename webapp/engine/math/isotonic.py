"""Isotonic regression without scipy.optimize, of which this alone would be used and which takes 21 MB to import."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def isotonic(values: Floats, weight: Floats) -> Floats:
    """The sequence [n] nearest to `values` [n], by squares times `weight` [n] (above 0), that nowhere falls.

    Pool adjacent violators: neighbours that fall are replaced by their mean (Barlow, Bartholomew, Bremner & Brunk,
    Statistical Inference under Order Restrictions, 1972, section 1.2).
    """
    pools: list[tuple[float, float, int]] = []  # mean, weight and length, from the first on
    for mean, heavy in zip(values.tolist(), weight.tolist(), strict=True):
        length = 1
        while pools and pools[-1][0] >= mean:
            before, other, many = pools.pop()
            mean = (before * other + mean * heavy) / (other + heavy)
            heavy, length = heavy + other, length + many
        pools.append((mean, heavy, length))
    return np.repeat([mean for mean, _, _ in pools], [length for _, _, length in pools]).astype(np.float64)

"""How much each block changes the residual stream: ShortGPT's block influence, Men et al. 2024,
https://arxiv.org/abs/2403.03853, equation 1: one minus the mean cosine between a token's state before and after.
"""

from __future__ import annotations

from collections.abc import Sequence

from webapp.engine.data.batches import Batch
from webapp.engine.facts import LayerFacts
from webapp.engine.lazy import nn
from webapp.engine.progress import Report
from webapp.engine.weights.model import Model

from .sequential_calibration import block_states


def influences(model: Model, layers: Sequence[LayerFacts], data: Sequence[Batch], report: Report) -> list[float]:
    """One for each block of the row, over all tokens that are not padding."""
    found = []
    for _, before, after, masks in block_states(model, layers, data, report, "Measuring each block's influence"):
        total, tokens = 0.0, 0
        for x, y, mask in zip(before, after, masks, strict=True):
            change = 1 - nn.functional.cosine_similarity(x, y, dim=-1)  # (B, T)
            kept = change[mask.bool()] if mask is not None and mask.shape == change.shape else change
            total, tokens = total + float(kept.double().sum()), tokens + kept.numel()
        found.append(total / max(tokens, 1))
    return found

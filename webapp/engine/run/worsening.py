"""By how much a result is worse than the original, in the units in which tolerances are given and losses expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from webapp.engine.profiles.facts import LossUnit
from webapp.units import FRACTIONS

from .metrics import METRICS

LOSSES: dict[LossUnit, tuple[str, Callable[[float], float]]] = {  # a profile's unit: the metric, and the loss in it
    "nats": ("kl_divergence", float),
    "cosine distance": ("cosine", lambda cosine: 1 - cosine),
    "squared error": ("relative_error", lambda error: error**2),
}
POINTS = "points"  # of the metric with labels: a hundredth of a share, one of a perplexity


@dataclass(frozen=True)
class Worsening:
    """What is lost, and its 95 % interval. None: the answers are no numbers."""

    value: float | None
    low: float | None = None
    high: float | None = None


def lost(unit: LossUnit, metrics: Mapping[str, Any]) -> Worsening | None:
    """The loss that a result's metrics tell; None where the metric is not among them."""
    metric, loss = LOSSES[unit]
    found = metrics.get(metric)
    if found is None:
        return None
    if found["value"] is None:
        return Worsening(None)
    ends = sorted(map(loss, found["ci95"])) if found["ci95"] else (None, None)
    return Worsening(loss(found["value"]), *ends)


def points_lost(verdict: Mapping[str, Any]) -> Worsening | None:
    """The points that a receipt's verdict tells; None where nothing was measured against labels."""
    metric = verdict["metric"]
    if metric is None:
        return None
    if verdict["difference"] is None:
        return Worsening(None)
    scale = (100 if metric in FRACTIONS else 1) * (-1 if METRICS[metric].higher_is_better else 1)
    ends = sorted(scale * end + 0.0 for end in verdict["ci95"]) if verdict["ci95"] else (None, None)
    return Worsening(scale * verdict["difference"] + 0.0, *ends)  # no minus zero


def worsened(unit: str, metrics: Mapping[str, Any], verdict: Mapping[str, Any]) -> Worsening | None:
    """In POINTS or in a profile's unit; None where nothing was measured in it."""
    return points_lost(verdict) if unit == POINTS else lost(unit, metrics)  # type: ignore[arg-type]

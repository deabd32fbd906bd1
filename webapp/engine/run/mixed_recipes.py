"""Mixed recipes, measured on calibration samples: how what is predicted goes with what is lost.

Not the recipes themselves are run: that takes minutes. Each layer's weights are moved by an error of rounding that is
made as large as its option's loss says, so that a measurement tells how the losses of many layers add up, and where the
quadratic form ends; how true a technique is to its prediction is what runs tell. Some of them are measured on samples
that judge runs as well, for a model is surer of those that it was trained on: they tell what to expect, and nothing is
chosen by them.

Blocks that may leave are left out of one more version: several of them lose more than each alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from webapp.engine.data.batches import Batch
from webapp.engine.facts import CheckpointFacts
from webapp.engine.lazy import Tensor
from webapp.engine.profiles import knapsack
from webapp.engine.profiles.facts import KEPT, Cut, Measurement, ProfileFacts
from webapp.engine.profiles.losses import rounding_error
from webapp.engine.profiles.menu import Menu
from webapp.engine.progress import ProgressPart, Report
from webapp.engine.techniques.calibration.streams import answers_of_versions
from webapp.engine.weights.model import Model
from webapp.units import FRACTIONS

from .measure import scores_of_versions
from .metrics import METRICS, Scores
from .worsening import LOSSES

FAMILY = "Quantization"  # errors of rounding tell of no other
MIXES = 6
JUDGED = 3  # every how many of them one is measured on samples that judge
LEAST, MOST, RANGE = 0.003, 1.5, 100  # of the predicted losses that are tried, in any unit


def measured_mixes(
    model: Model,
    facts: CheckpointFacts,
    profile: ProfileFacts,
    data: Sequence[Batch],
    judging: Sequence[Batch],
    noise: Mapping[str, float],
    report: Report,
    without: Cut | None = None,
) -> tuple[list[Measurement], float | None]:
    """On `data`, and some of them on `judging`; and what is lost on `data` `without` the blocks of a cut.

    `noise`: what `rounding_error` costs in each layer, by name.
    """
    menu = Menu(profile, facts)
    choices = _choices(menu)
    if not choices or model.architecture is None:
        return [], None
    wanted = [_losses(profile, choice) for choice in choices]
    parts = ProgressPart(report, 0.0, 0.8), ProgressPart(report, 0.8, 1.0)
    scores = _scores(model, facts, data, wanted, noise, parts[0], without)
    judged = _scores(model, facts, judging, wanted[::JUDGED], noise, parts[1])
    measured = list(_measurements(menu, choices, wanted, scores[: len(wanted) + 1], judged, noise))
    metric, loss_of = LOSSES[profile.unit]
    lost = None if without is None else loss_of(scores[-1][metric].value(metric))
    return measured, lost if lost is not None and math.isfinite(lost) else None


def _scores(
    model: Model,
    facts: CheckpointFacts,
    data: Sequence[Batch],
    wanted: Sequence[Mapping[str, float]],
    noise: Mapping[str, float],
    report: Report,
    without: Cut | None = None,
) -> list[Scores]:
    """Of the model as it is, then with each of these losses in its layers, then without a cut's; none without data."""
    spec, units = model.architecture, {unit.weight: unit for unit in facts.units()}
    if spec is None or not data:
        return []

    def errors(name: str, values: Tensor) -> Tensor | None:
        unit = units.get(name)
        if unit is None or noise.get(unit.name, 0.0) <= 0:
            return None
        return unit.layout.weight(rounding_error(unit.layout.matrix(values)), tuple(values.shape))

    def shares(version: int, name: str) -> float:
        unit = units[name]
        if version > len(wanted):
            return 0.0
        return math.sqrt(max(wanted[version - 1].get(unit.name, 0.0), 0.0) / noise[unit.name])

    def leaves_out(version: int, prefix: str) -> bool:
        return version > len(wanted) and without is not None and any(n.startswith(prefix) for n in without.layers)

    total = len(wanted) + (without is not None)
    versions = answers_of_versions(model, facts.layers, data, total, errors, shares, report, leaves_out)
    return scores_of_versions(spec, data, total, versions)


def _measurements(
    menu: Menu,
    choices: Sequence[list[int]],
    wanted: Sequence[Mapping[str, float]],
    scores: Sequence[Scores],
    judged: Sequence[Scores],
    noise: Mapping[str, float],
) -> Iterator[Measurement]:
    metric, loss_of = LOSSES[menu.profile.unit]
    evaluated = {number * JUDGED: loss_of(found[metric].value(metric)) for number, found in enumerate(judged[1:])}
    for number, (choice, losses, measured) in enumerate(zip(choices, wanted, scores[1:], strict=True)):
        predicted = sum(loss for name, loss in losses.items() if noise.get(name, 0.0) > 0)
        loss = loss_of(measured[metric].value(metric))
        if math.isfinite(loss):
            points = _points(scores[0], measured, metric)
            size = menu.size(choice)
            there = evaluated.get(number, math.nan)
            yield Measurement(
                predicted={FAMILY: predicted},
                loss=max(loss, 0.0),
                evaluated=max(there, 0.0) if math.isfinite(there) else None,
                points=points,
                size_bytes=size,
            )


def _points(before: Scores, after: Scores, distance: str) -> float | None:
    """By how much the metric with labels got worse; None without labels."""
    metric = next(iter(before))
    if metric in (distance, "agreement", "kl_divergence", "relative_error", "cosine", "not_finite"):
        return None
    worse = before[metric].value(metric) - after[metric].value(metric)
    points = worse * (100 if metric in FRACTIONS else 1) * (1 if METRICS[metric].higher_is_better else -1)
    return points if math.isfinite(points) else None


def _choices(menu: Menu) -> list[list[int]]:
    """Budgets with predicted losses evenly apart on a logarithmic scale, of what is rounded alone."""
    allowed = np.array(
        [
            [option.family in (FAMILY, KEPT) for option in layer.options]
            + [False] * (menu.losses.shape[1] - len(layer.options))
            for layer in menu.profile.layers
        ]
    )
    along = knapsack.path(menu.bytes, np.where(allowed, menu.losses, np.inf))
    found: list[list[int]] = []
    most = min(MOST, max(float(along.costs[-1]), 1e-12))
    for target in np.geomspace(min(LEAST, most / RANGE), most, MIXES):
        steps = int(np.abs(np.log(np.maximum(along.costs, 1e-12)) - math.log(target)).argmin())
        choice = along.choice(steps).tolist()
        if choice not in found and along.costs[steps] > 0:
            found.append(choice)
    return found


def _losses(profile: ProfileFacts, choice: Sequence[int]) -> dict[str, float]:
    """What each choice's layers lose; of several that are bound together none is known for itself."""
    return {
        layer.layers[0]: layer.options[option].loss
        for layer, option in zip(profile.layers, choice, strict=True)
        if len(layer.layers) == 1
    }

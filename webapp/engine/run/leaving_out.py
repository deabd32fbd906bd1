"""What it costs to leave blocks out of a model: measured on few samples, for no quadratic form tells it.

A block that leaves moves everything behind it further than a derivative sees: in a decoder of thirty blocks the one
that seemed cheapest by the gradient at its output lost forty times as much. So every block is left out alone, then as
many of those that lose least as a cut takes: what several lose together is more than the sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from webapp.engine.data.batches import Batch
from webapp.engine.facts import CheckpointFacts
from webapp.engine.lazy import Tensor
from webapp.engine.profiles.cuts import Offered
from webapp.engine.profiles.facts import Cut, LossUnit
from webapp.engine.profiles.fit import LossFit
from webapp.engine.progress import ProgressPart, Report
from webapp.engine.techniques.calibration.streams import answers_of_versions, answers_without_blocks
from webapp.engine.weights.model import Model

from .measure import scores_of_versions
from .worsening import LOSSES

SHARE = 0.25  # of the time in which all samples go through the model once
LEAST_SAMPLES, LEAST_TOKENS = 4, 48


def leaving_out(
    model: Model,
    facts: CheckpointFacts,
    offers: Sequence[Offered],
    data: Sequence[Batch],
    unit: LossUnit,
    report: Report,
) -> list[Cut]:
    """The cuts that leave blocks out, with what was lost without them; none where no technique offers any."""
    row = facts.structure.blocks if facts.structure is not None else None
    own = [each for each in offers if each.offer.blocks]
    if row is None or not own or not data or model.architecture is None:
        return []
    some = few(data, row.count)
    free = [number for number in range(row.count) if number not in row.fixed]
    first, second = ProgressPart(report, 0.0, 0.7), ProgressPart(report, 0.7, 1.0)
    alone = _losses(model, row.count, unit, some, answers_without_blocks(model, facts.layers, some, first))
    order = sorted(free, key=alone.__getitem__)
    single = [each.cut(facts, alone[order[0]], order[:1]) for each in own if each.offer.blocks == 1]
    cuts = [each.cut(facts, 0.0, order[: each.offer.blocks]) for each in own if each.offer.blocks > 1]
    together = answers_of_versions(
        model,
        facts.layers,
        some,
        len(cuts),
        lambda name, values: None,
        lambda version, name: 0.0,
        second,
        lambda version, prefix: version > 0 and any(name.startswith(prefix) for name in cuts[version - 1].layers),
    )
    losses = _losses(model, len(cuts), unit, some, together)
    found = single + [cut.model_copy(update={"loss": loss}) for cut, loss in zip(cuts, losses, strict=True)]
    return [cut for cut in found if math.isfinite(cut.loss)]


def as_predicted(cuts: Sequence[Cut], times: float, fit: LossFit) -> list[Cut]:
    """The cuts as dear as predictions that would be measured `times` as much as these were."""
    return [cut.model_copy(update={"loss": fit.sum_within(times * cut.loss, run=False)}) for cut in cuts]


def few(data: Sequence[Batch], blocks: int) -> list[Batch]:
    """So many of the samples that to leave each block out of them once takes SHARE of all going through once."""
    share = 2 * SHARE / (blocks + 1)
    samples = sum(batch.n for batch in data)
    wanted = share * samples
    first = data[0]
    if "input_ids" in first.inputs and wanted < 1:  # the beginning of a text
        length = first.inputs["input_ids"].shape[1]
        tokens = min(length, max(LEAST_TOKENS, round(wanted * length)))
        return [first.part(0, 1).beginning(tokens)]
    return list(_first(data, max(LEAST_SAMPLES, round(wanted))))


def _first(data: Sequence[Batch], count: int) -> Iterator[Batch]:
    for batch in data:
        if count > 0:
            yield batch.part(0, min(count, batch.n))
        count -= batch.n


def _losses(
    model: Model,
    versions: int,
    unit: LossUnit,
    data: Sequence[Batch],
    answers: Iterator[tuple[int, int, list[Tensor]]],
) -> list[float]:
    """Of each version beside the first, in the unit of the profile; infinite where its answers are no numbers."""
    assert model.architecture is not None
    metric, loss_of = LOSSES[unit]
    scores = scores_of_versions(model.architecture, data, versions, answers)[1:]
    losses = [loss_of(each[metric].value(metric)) for each in scores]
    return [max(loss, 0.0) if math.isfinite(loss) else math.inf for loss in losses]

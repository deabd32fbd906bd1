"""What a cut costs: the layers that read the channels lose the columns of those that leave, and the rest makes up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from webapp.engine.facts import CheckpointFacts, Group
from webapp.engine.lazy import torch
from webapp.engine.techniques.calibration import WeightMatrix
from webapp.engine.techniques.surgery.surgery import ReadingLayers

from .cuts import Offered
from .facts import Cut
from .sensitivity import LayerSensitivity


def cut_losses(
    offers: Iterable[Offered], matrices: Iterable[WeightMatrix], known: Mapping[str, LayerSensitivity], count: float
) -> dict[str, list[float]]:
    """By number of the offer the losses of its groups whose readers are all among the matrices, in the drawn loss.

    Channels leave in the order of what is left of the readers' answers, as `reconstruction` takes them out.
    """
    by_weight = {matrix.layer.weight: matrix for matrix in matrices if not matrix.side}
    wanted: dict[Group, list[tuple[int, str]]] = {}  # (channels that leave, number of the offer)
    for place, offered in enumerate(offers):
        for group, kept in offered.offer.kept.items():
            wanted.setdefault(group, []).append((group.width - kept, str(place)))
    found: dict[str, list[float]] = {}
    for group, asked in wanted.items():
        names = [member.tensor for member in group.of_role("reads")]
        inputs = [known[name].inputs if name in known else None for name in names]
        seen = [each for each in inputs if each is not None and each.groups == 1]
        if not names or len(seen) < len(names) or len(set(names)) < len(names) or not by_weight.keys() >= set(names):
            continue
        readers = ReadingLayers(group, [by_weight[name] for name in names], seen)
        with torch.no_grad():
            eliminations, alive = readers.eliminations(), torch.arange(group.width)
            for gone, number in sorted(asked):
                more = gone - (group.width - len(alive))
                alive = readers.eliminate(eliminations, more, alive)
                changes = (e.weight.float() - m.floats() for e, m in zip(eliminations, readers.matrices, strict=True))
                loss = sum(known[name].cost(change, count) for name, change in zip(names, changes, strict=True))
                found.setdefault(number, []).append(loss)
    return found


def with_cut_losses(
    facts: CheckpointFacts, offers: Sequence[Offered], losses: Mapping[str, Sequence[float]]
) -> tuple[Cut, ...]:
    """The cuts with what they cost; those leave of which not every group was tried."""
    found = []
    for number, offered in enumerate(offers):
        tried = losses.get(str(number), ())
        if len(tried) == len(offered.offer.kept):
            found.append(offered.cut(facts, sum(tried)))
    return tuple(found)

"""What a cut costs: the layers that read the channels lose the columns of those that leave, and the rest makes up.

It makes up for them on the samples that trials see, which it fits, so that the cost is that on those held back. Of what
is cut in all blocks alike one amount is tried in some blocks, and all amounts in fewer: from block to block one amount
costs much the same beside another. Of the plain structure every group is tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from webapp.engine.facts import CheckpointFacts, Group
from webapp.engine.lazy import torch
from webapp.engine.techniques.calibration import WeightMatrix
from webapp.engine.techniques.calibration.backward import BackwardPart
from webapp.engine.techniques.surgery.surgery import ReadingLayers

from .cuts import Offered
from .facts import Cut
from .losses import EVERY
from .sensitivity import LayerSensitivity

Known = Mapping[str, LayerSensitivity]  # by tensor name
GroupLosses = dict[str, list[list[float]]]  # by unit, of each group that was tried those of its offers, or of `middle`

BLOCKS = 5  # of a row in which cuts are tried, at most
ROUNDS = 4  # in which the channels of one more amount leave


def _by_unit(offers: Sequence[Offered]) -> dict[str, list[Offered]]:
    """The offers of each unit, those that take least first."""
    found: dict[str, list[Offered]] = {}
    for each in offers:
        found.setdefault(each.offer.unit, []).append(each)
    return found


def group_losses(offers: Sequence[Offered], part: BackwardPart, known: Known, count: float) -> GroupLosses:
    """Of the groups whose readers are all in this part of the model, in the drawn loss.

    Channels leave in the order of what is left of the readers' answers, as `reconstruction` takes them out.
    """
    of_row = part.number - 1 if part.prefix else 0  # from the last block on
    if of_row % max(1, -(-(part.total - 2) // BLOCKS)):
        return {}
    matrices = {matrix.layer.weight: matrix for matrix in part.matrices if not matrix.side}
    found: GroupLosses = {}
    for unit, own in _by_unit([each for each in offers if each.offer.kept]).items():
        for group in own[0].offer.kept:
            tried = [middle(own)] if group.key and of_row % EVERY else own
            if readers := _readers(group, matrices, known):
                gone = [group.width - each.offer.kept[group] for each in tried]
                found.setdefault(unit, []).append(list(_losses(readers, gone, known, count)))
    return found


def middle(offers: Sequence[Offered]) -> Offered:
    return offers[len(offers) // 2]


def _readers(group: Group, matrices: Mapping[str, WeightMatrix], known: Known) -> ReadingLayers | None:
    """None where not all of them are there, and seen."""
    names = [member.tensor for member in group.of_role("reads")]
    if not names or len({*names}) < len(names) or not matrices.keys() >= {*names}:
        return None
    inputs = [known[name].inputs if name in known else None for name in names]
    seen = [each for each in inputs if each is not None and each.groups == 1]
    return ReadingLayers(group, [matrices[name] for name in names], seen) if len(seen) == len(names) else None


def _losses(readers: ReadingLayers, gone: Sequence[int], known: Known, count: float) -> Iterator[float]:
    """Of so many channels, ascending."""
    with torch.no_grad():
        alone = len(gone) == 1 and bool(readers.group.key)
        eliminations = readers.eliminations(torch.float32 if readers.group.key else torch.float64)
        alive = torch.arange(readers.group.width)
        for each in gone:
            more = each - (readers.group.width - len(alive))
            alive = readers.eliminate(eliminations, more, alive, 1 if alone else ROUNDS)
            total = 0.0
            for matrix, elimination in zip(readers.matrices, eliminations, strict=True):
                change = elimination.weight.float() - matrix.floats()
                total += known[matrix.layer.weight].cost(change, count, held=1.0)
            yield total


def with_cut_losses(facts: CheckpointFacts, offers: Sequence[Offered], losses: GroupLosses) -> tuple[Cut, ...]:
    """The cuts of groups with what they cost; those leave of which too little was tried."""
    found: list[Cut] = []
    for unit, own in _by_unit([each for each in offers if each.offer.kept]).items():
        if sums := _sums(own, losses.get(unit, ())):
            found += [each.cut(facts, loss) for each, loss in zip(own, sums, strict=True)]
    return tuple(found)


def _sums(offers: Sequence[Offered], tried: Sequence[Sequence[float]]) -> list[float]:
    """Over all groups, of each offer; none where too few were tried."""
    groups, at = offers[0].offer.kept, offers.index(middle(offers))
    whole = [losses for losses in tried if len(losses) == len(offers)]
    if not whole or (len(tried) < len(groups) and not next(iter(groups)).key):
        return []
    of_middle = sum(losses[at] if len(losses) == len(offers) else losses[0] for losses in tried)
    there = sum(losses[at] for losses in whole)
    times = len(groups) / len(tried) * (of_middle / there if there > 0 else 1.0)
    return [times * sum(losses[number] for losses in whole) for number in range(len(offers))]

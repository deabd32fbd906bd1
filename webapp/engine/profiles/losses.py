"""The losses of a profile: what every option of every layer is expected to cost, from the sensitivities.

In a row of alike blocks all options are tried in every EVERY-th; in those between one of each family, from which the
others follow: what one option loses beside another is much the same in neighbours. What looks at a matrix as a whole
(low rank) takes longer than all that works row by row, and is tried in every WHOLE-th of these alone.

A matrix with more than ROWS outputs is tried on some of them where a technique works on each row for itself: on those
that weigh most, and of the rest on those that a sample by weight finds, as if the rows' errors were independent. Most
rows of a table are looked up by no sample and weigh nothing, so each stands for as much weight, not for as many rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from webapp.engine.lazy import Tensor, torch
from webapp.engine.techniques.calibration import WeightMatrix
from webapp.engine.weights.memory import release_freed_memory

from .facts import LayerOptions, Option
from .sensitivity import LayerSensitivity
from .trials import Chain, changes, rows_apart

Losses = Sequence[float | None]  # in the order of a layer's options

ROWS, SHARE = 64, 1 / 64  # that are tried: so many, or that share of more
EVERY, WHOLE = 10, 3
NOISE_BITS, NOISE_GROUP = 3, 64  # of the rounding error that stands for any
HEAVIEST = 0.5  # of the rows that are tried


def option_losses(
    matrix: WeightMatrix,
    known: LayerSensitivity | None,
    options: Sequence[Option],
    count: float,
    neighbour: Losses | None = None,
    row_by_row: bool = False,
) -> Losses:
    """Of one layer, in the order of its options; None: the option cannot be done to its values.

    Where no sample reached the layer nothing is lost. `neighbour`: of an alike layer, which tells of what is not tried;
    that is all but one option of each family, and with `row_by_row` also what looks at a matrix as a whole.
    """
    groups = _by_family(options, neighbour) if neighbour is not None and len(neighbour) == len(options) else []
    middles = [group[len(group) // 2] for group in groups]
    tried = {index for index in middles if not row_by_row or rows_apart(options[index].steps)}
    tried = tried or set(range(len(options)))
    chains = [option.steps if index in tried else () for index, option in enumerate(options)]
    losses = _tried_losses(matrix, known, chains, count)
    for group in groups:
        at_hand = [index for index in group if losses[index]] if tried & {*group} else [i for i in tried if losses[i]]
        for index in group:
            if index not in tried and neighbour is not None and at_hand:
                like = min(at_hand, key=lambda other: abs(math.log(_loss(neighbour, other) / _loss(neighbour, index))))
                losses[index] = _loss(losses, like) * _loss(neighbour, index) / _loss(neighbour, like)
    return [0.0 if not option.steps else loss for option, loss in zip(options, losses, strict=True)]


def _by_family(options: Sequence[Option], neighbour: Losses) -> list[list[int]]:
    """The options that lose something of an alike layer, of each family in the order of that."""
    found: dict[str, list[int]] = {}
    for index in sorted((i for i, loss in enumerate(neighbour) if loss), key=lambda i: _loss(neighbour, i)):
        found.setdefault(options[index].family, []).append(index)
    return list(found.values())


def _loss(losses: Losses, index: int) -> float:
    found = losses[index]
    assert found
    return found


def _tried_losses(
    matrix: WeightMatrix, known: LayerSensitivity | None, chains: Sequence[Chain], count: float
) -> list[float | None]:
    losses: list[float | None] = [None] * len(chains)
    inputs = known.inputs if known is not None else None
    inputs = inputs if inputs is not None and inputs.count else None
    with torch.no_grad():
        apart = [steps if rows_apart(steps) else () for steps in chains]
        rows, weights = _some_rows(matrix, known)
        if known is None or rows is None:
            apart = [()] * len(chains)
        else:
            for index, change in changes(matrix.some_rows(rows), inputs, apart):
                costs = known.row_costs(change, rows, matrix.layout.rows(matrix.encoded.shape), count)
                losses[index] = float(costs @ weights)
        rest = [() if done else steps for done, steps in zip(apart, chains, strict=True)]
        for index, change in changes(matrix, inputs, rest) if any(rest) else ():
            losses[index] = known.cost(change, count) if known is not None else 0.0
    release_freed_memory()
    return losses


def _some_rows(matrix: WeightMatrix, known: LayerSensitivity | None) -> tuple[Tensor | None, Tensor]:
    """(the rows (n,) that stand for all, how many each stands for); None where all are tried."""
    length = matrix.layout.rows(matrix.encoded.shape)
    count = max(ROWS, int(SHARE * length))
    if known is None or length <= count or matrix.groups > 1:
        return None, torch.empty(0)
    weight = known.weight_of_rows(matrix.floats()).double()
    order = weight.argsort(descending=True, stable=True)
    first, rest = order[: int(count * HEAVIEST)], order[int(count * HEAVIEST) :]
    mass = weight[rest].cumsum(0)
    if not mass[-1] > 0:
        return first, torch.ones(len(first), dtype=torch.float64)
    each = mass[-1] / (count - len(first))
    places = torch.searchsorted(mass, (torch.arange(count - len(first)).double() + 0.5) * each)
    drawn, times = torch.unique(rest[places.clamp(max=len(rest) - 1)], return_counts=True)
    stands_for = times * each / weight[drawn]
    return torch.cat([first, drawn]), torch.cat([torch.ones(len(first), dtype=torch.float64), stands_for])


def rounding_error(matrix: Tensor) -> Tensor:
    """What plain rounding changes in a matrix (rows, columns): an error like those that options leave, but at once."""
    columns = matrix.shape[1]
    group = NOISE_GROUP if columns % NOISE_GROUP == 0 else columns
    values = matrix.reshape(-1, max(group, 1))
    scale = values.abs().amax(1, keepdim=True).clamp(min=1e-30) / (2 ** (NOISE_BITS - 1) - 0.5)
    error: Tensor = (values / scale).round_().mul_(scale).sub_(values)
    return error.view_as(matrix)


def with_losses(
    choices: Sequence[LayerOptions], losses: Mapping[str, Losses], most: Mapping[str, Sequence[int]]
) -> tuple[LayerOptions, ...]:
    """The options with what they cost, by name of the layers that each binds; what cannot be done leaves.

    `most`: the bytes of a layer's options, where they may be more than its shape tells.
    """
    found = []
    for choice in choices:
        known = [losses[name] for name in choice.layers if name in losses]
        sums = [
            None if None in column else sum(each for each in column if each is not None)
            for column in zip(*known, strict=True)
        ] or [0.0] * len(choice.options)
        sizes = most.get(choice.name) or [option.bytes for option in choice.options]
        options = tuple(
            option.model_copy(update={"loss": loss, "bytes": size})
            for option, loss, size in zip(choice.options, sums, sizes, strict=True)
            if loss is not None
        )
        found.append(choice.model_copy(update={"options": options}))
    return tuple(found)

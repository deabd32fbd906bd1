"""What one would do by hand: one option for every layer, as far as the bytes go. A budget is raced against it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from .budget import ANYTHING, Budget, Limits, Solver
from .facts import KEPT, LayerOptions, Option


@dataclass(frozen=True)
class Uniform:
    """`title` tells the options and in how many layers the larger one is."""

    title: str
    family: str
    budget: Budget


@dataclass(frozen=True)
class _Level:
    """One option everywhere: the number of each layer's."""

    label: str
    family: str
    choice: list[int]
    size_bytes: int
    loss: float  # expected


def uniform(solver: Solver, size_bytes: int, limits: Limits = ANYTHING) -> list[Uniform]:
    """For each family the best file within these bytes, as expected, whose layers all have the same option of it.

    A layer without that option takes what is stored in as many bits, nearly; a locked one keeps what it has. What is
    left of the bytes is spent on the next better option, layer by layer from the first, so that a budget is compared
    at its own size and not with a smaller file.
    """
    found = []
    levels = sorted(_levels(solver, limits), key=lambda level: level.size_bytes)
    for family in dict.fromkeys(level.family for level in levels):
        own = [level for level in levels if level.family == family]
        fitting = [level for level in own if level.size_bytes <= size_bytes]
        if not fitting:
            continue
        level = min(fitting, key=lambda each: each.loss)
        choice, title = level.choice, level.label
        if better := next((each for each in own if each.size_bytes > size_bytes and each.loss < level.loss), None):
            choice, raised = _raised(solver, choice, better.choice, size_bytes)
            title += f"; {better.label} in {raised} layer{'' if raised == 1 else 's'}" if raised else ""
        found.append(Uniform(title, family, solver.answer(choice)))
    return found


def least_uniform(solver: Solver, limits: Limits = ANYTHING) -> int | None:
    """The bytes of the smallest of all uniform recipes: a budget below them is raced against none."""

    def found() -> int | None:
        return min((level.size_bytes for level in _levels(solver, limits)), default=None)

    return solver.least_uniform.of(solver.costs(limits).tobytes(), found)


def _levels(solver: Solver, limits: Limits) -> Iterator[_Level]:
    """Every option that more than half of the layers of its family have, everywhere."""
    layers = solver.profile.layers
    named = [{(option.family, option.label): n for n, option in enumerate(layer.options)} for layer in layers]
    able = [
        {name: n for name, n in names.items() if _allowed(layer, layer.options[n], limits)}
        for layer, names in zip(layers, named, strict=True)
    ]
    has_any = Counter(family for names in named for family in {family for family, _ in names})
    for family, label in dict.fromkeys(name for names in able for name in names):
        having = [
            (layer.options[names[family, label]].bytes, layer.params)
            for layer, names in zip(layers, named, strict=True)
            if (family, label) in names
        ]
        if 2 * len(having) <= has_any[family]:
            continue
        stored, params = map(sum, zip(*having, strict=True))
        choice = []
        for layer, names in zip(layers, able, strict=True):
            number = limits.locks.get(layer.name, names.get((family, label)))
            choice.append(_nearest(layer, names.values(), family, stored / params) if number is None else number)
        yield _Level(label, family, choice, solver.menu.size(choice), solver.expected(choice).loss.value)


def _allowed(layer: LayerOptions, option: Option, limits: Limits) -> bool:
    if option.family == KEPT or (limits.families is not None and option.family not in limits.families):
        return False
    return limits.held(layer, option)


def _nearest(layer: LayerOptions, able: Collection[int], family: str, bytes_each: float) -> int:
    """The number of an option in as many bits, nearly: of the family, where it is able to have any."""
    numbers = [0, *([n for n in able if layer.options[n].family == family] or able)]
    return min(numbers, key=lambda n: abs(layer.options[n].bytes / layer.params - bytes_each))


def _raised(solver: Solver, low: list[int], high: list[int], size_bytes: int) -> tuple[list[int], int]:
    """The lower choice with as many layers of the higher one, from the first on, as fit; and how many those are."""
    choice, raised = [*low], []
    size, each = solver.menu.size(choice), solver.menu.bytes
    for row, (less, more) in enumerate(zip(low, high, strict=True)):
        grown = size + each[row, more] - each[row, less]
        if more != less and size < grown <= size_bytes:
            choice[row], size = more, grown
            raised.append(row)
    while raised and solver.menu.size(choice) > size_bytes:  # a header has grown
        row = raised.pop()
        choice[row] = low[row]
    return choice, len(raised)

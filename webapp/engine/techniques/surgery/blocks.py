"""A transformers' model with fewer of its blocks."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from webapp.engine.architectures.reshape import ShapeChange
from webapp.engine.facts import BlockRow, CheckpointFacts, Structure
from webapp.engine.techniques.calibration.sequential_calibration import SHORTEST_ROW

from .transformers_blocks import NO_ROW, described, values_now


def droppable(facts: CheckpointFacts, row: BlockRow, chosen: Collection[str]) -> tuple[int, ...]:
    """The blocks that may leave, whose layers' weights are all in `chosen`."""
    own: dict[int, list[str]] = {}
    for layer in facts.layers:
        if (number := row.of(layer.weight)) is not None:
            own.setdefault(number, []).append(layer.weight)
    return tuple(n for n in sorted(own) if n not in row.fixed and all(weight in chosen for weight in own[n]))


def shortened(facts: CheckpointFacts, gone: Collection[int]) -> ShapeChange:
    """The model without these blocks, the others numbered anew; lists in the config that have an entry each, too."""
    spec, structure = facts.architecture, facts.structure
    assert spec is not None
    assert structure is not None
    assert structure.blocks is not None
    row = structure.blocks
    left = row.without(gone)
    spec = described(spec, left)
    renamed: dict[str, str] = {}
    removed: set[str] = set()
    for name in [*(tensor.name for tensor in facts.tensors), *facts.tied]:
        moved = row.moved(name, gone)
        if moved is None:
            removed.add(name)
        elif row.of(name) is not None:
            renamed[name] = moved
    found = _left(structure, renamed, removed)
    if left.count < SHORTEST_ROW:
        found = Structure(stays={NO_ROW: tuple(weight for weights in found.stays.values() for weight in weights)})
    else:
        found = found.model_copy(update={"blocks": left})
    found = found.model_copy(update={"config": values_now(structure.config, spec)})
    for alias, name in facts.tied.items():  # a tensor that leaves with its block, and is used by what stays
        if name in removed and alias not in removed:
            removed ^= {name, alias}
            renamed[name] = renamed.get(alias, alias)
    return ShapeChange(spec, {}, renamed, frozenset(removed), found)


def _left(structure: Structure, renamed: dict[str, str], removed: Collection[str]) -> Structure:
    """The groups and reasons of the blocks that stay, under their new names."""
    groups = (group for group in structure.groups if not any(m.tensor in removed for m in group.members))
    return Structure(
        groups=tuple(
            replace(group, members=tuple(replace(m, tensor=renamed.get(m.tensor, m.tensor)) for m in group.members))
            for group in groups
        ),
        stays={
            why: tuple(renamed.get(weight, weight) for weight in weights if weight not in removed)
            for why, weights in structure.stays.items()
            if any(weight not in removed for weight in weights)
        },
    )

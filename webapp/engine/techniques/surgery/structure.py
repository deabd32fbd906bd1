"""The structure of a model: looked at in its module once, in a child process, and a fact for everything after that."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import lru_cache

from webapp.engine.architectures import architectures
from webapp.engine.architectures.reshape import ShapeChange, reshaped_facts
from webapp.engine.architectures.resize import resize_to_weights
from webapp.engine.architectures.rows import SHORTEST_ROW
from webapp.engine.facts import ArchitectureSpec, BlockRow, CheckpointFacts, Group, Structure
from webapp.engine.techniques.base import Skip

from .groups import by_reason, cut_groups, cut_shapes
from .traced import traced_groups
from .transformers_blocks import NO_MLP, NO_ROW, block_structure, described, fits, narrowed, values_now

log = logging.getLogger(__name__)

PENDING = (
    "which of its channels, heads and blocks can be cut is still being looked at, which takes a worker some seconds; "
    "ask again then"
)
TIED = "a tensor that its channels run through is another layer's too"
NOT_FOLLOWED = "how the channels of this model run through its layers could not be followed"
Shapes = tuple[tuple[str, tuple[int, ...]], ...]


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


def structure_of(facts: CheckpointFacts) -> Structure:
    """The structure among the facts. Raises Skip where it is not there yet, or could not be found."""
    if facts.structure is None:
        raise Skip(PENDING)
    if facts.structure.unknown:
        raise Skip(facts.structure.unknown)
    return facts.structure


def with_structure(facts: CheckpointFacts) -> CheckpointFacts:
    """The facts with the structure; where it is not among them, the module is built, so only in a child process."""
    if facts.structure is not None or facts.architecture is None:
        return facts
    return facts.model_copy(update={"structure": look_at(facts)})


def look_at(facts: CheckpointFacts) -> Structure:
    """The structure as the module has it. What cannot be followed is told by `unknown`, whatever the reason."""
    assert facts.architecture is not None
    shapes = tuple((tensor.name, tensor.shape) for tensor in facts.tensors)
    return _untied(_found(facts.architecture.model_dump_json(), shapes), facts.tied)


def _untied(found: Structure, tied: Mapping[str, str]) -> Structure:
    """Without the groups that run through a tensor that another layer has too, whose channels would leave as well."""
    shared = {*tied, *tied.values()}
    bound = {group for group in found.groups if shared & {member.tensor for member in group.members}}
    keys = {group.key for group in bound} - {""}  # in all blocks alike
    groups = tuple(group for group in found.groups if group not in bound and group.key not in keys)
    makers = {maker for group in found.groups if group not in groups for maker in group.makers}
    stays = {TIED: tuple(sorted(makers)), **found.stays} if makers else found.stays
    return found.model_copy(update={"groups": groups, "stays": stays})


@lru_cache(maxsize=16)
def _found(spec_json: str, shapes: Shapes) -> Structure:
    spec = ArchitectureSpec.model_validate_json(spec_json)
    try:
        module = architectures()[spec.family].skeleton(spec)
        if spec.family == "transformers":
            return block_structure(module, spec)
        resize_to_weights(module, dict(shapes))
        groups, stays = traced_groups(module, spec)
    except Exception:  # of a program that anybody may have written
        log.warning("The structure of %s could not be found", spec.title, exc_info=True)
        return Structure(unknown=NOT_FOLLOWED)
    return Structure(groups=tuple(groups), stays=by_reason(stays))


def narrower(facts: CheckpointFacts, counts: Mapping[Group, int]) -> ShapeChange:
    """The model when each of these groups of its structure keeps that many channels."""
    spec, structure = facts.architecture, structure_of(facts)
    assert spec is not None
    for group, kept in {group.key: (group, kept) for group, kept in counts.items() if group.key}.values():
        spec = narrowed(spec, structure.config, group, kept)
    shapes = cut_shapes({tensor.name: tensor.shape for tensor in facts.tensors}, counts.items())
    config = values_now(structure.config, spec)
    groups = cut_groups(structure.groups, counts)
    alike = {g.key for g in groups if g.kind == "neurons" and not g.stacked and g.width == config.get("hidden_size")}
    why = dict.fromkeys((weight for group in groups if group.key in alike for weight in group.makers), NO_MLP)
    stays = {weight: reason for reason, weights in structure.stays.items() for weight in weights} | why
    found = Structure(
        groups=tuple(group for group in groups if group.key not in alike),
        stays=by_reason(stays),
        blocks=structure.blocks,
        config=config,
    )
    return ShapeChange(spec, shapes, {}, frozenset(), found)


def check_fits(facts: CheckpointFacts, change: ShapeChange) -> None:
    """Raises Skip where the library's module of the changed config has other shapes than the tensors that are left."""
    spec = change.architecture
    if spec is not None and spec.family == "transformers" and not _fits(facts, change):
        raise Skip(f"the config of {spec.title} cannot say what would be left: its module has other shapes then")


def _fits(facts: CheckpointFacts, change: ShapeChange) -> bool:
    assert change.architecture is not None
    left = reshaped_facts(facts, change)
    shapes = {tensor.name: tensor.shape for tensor in left.tensors}
    return fits(change.architecture, shapes | {alias: shapes[name] for alias, name in left.tied.items()})

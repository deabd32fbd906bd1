"""Groups of channels that leave: what that makes of shapes, and of the structure of what is left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from webapp.engine.facts import Group, Member
from webapp.engine.lazy import Tensor, torch

Shapes = Mapping[str, tuple[int, ...]]


class Uncuttable(Exception):
    """Channels that have to stay, and why: a sentence about the layers that make them."""


def kept_indices(members: Iterable[Member], size: int, kept: Tensor, width: int) -> Tensor:
    """Which places of a dimension of `size`, that these members share, stay when of `width` channels `kept` do."""
    gone = torch.ones(width, dtype=torch.bool)
    gone[kept] = False
    stays = torch.ones(size, dtype=torch.bool)
    for member in members:
        stays[member.places(gone.nonzero().reshape(-1))] = False
    return stays.nonzero().reshape(-1)


def cut_shapes(shapes: Shapes, cuts: Iterable[tuple[Group, int]]) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors that change when each group keeps that many channels."""
    found: dict[str, list[int]] = {}
    for group, kept in cuts:
        for member in group.members:
            sizes = found.setdefault(member.tensor, list(shapes[member.tensor]))
            sizes[member.dim] -= (group.width - kept) * member.repeat
    return {name: tuple(sizes) for name, sizes in found.items()}


def cut_groups(groups: Iterable[Group], counts: Mapping[Group, int]) -> tuple[Group, ...]:
    """The groups when each keeps that many channels: narrower, and those behind others in a dimension moved up."""
    gone: dict[tuple[str, int], list[tuple[int, int]]] = {}  # by dimension: from where on how many places less
    for group, kept in counts.items():
        for member in group.members:
            gone.setdefault((member.tensor, member.dim), []).append(
                (member.offset, (group.width - kept) * member.repeat)
            )

    def moved(member: Member) -> Member:
        before = sum(places for start, places in gone.get((member.tensor, member.dim), ()) if start < member.offset)
        return replace(member, offset=member.offset - before) if before else member

    return tuple(
        replace(
            group,
            width=counts.get(group, group.width),
            members=tuple(map(moved, group.members)),
            counts=group.counts and tuple(count for count in group.counts if count < counts.get(group, group.width)),
        )
        for group in groups
    )


def by_reason(stays: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The weights under each sentence that says why they stay."""
    return {why: tuple(name for name, own in stays.items() if own == why) for why in dict.fromkeys(stays.values())}

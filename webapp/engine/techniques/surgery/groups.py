"""A group of channels that live and die together: the tensors they run through, and where in them each one lies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from webapp.engine.lazy import Tensor, torch

STAGES = "hidden_sizes"  # of models whose residual stream widens from stage to stage
Shapes = Mapping[str, tuple[int, ...]]


class Uncuttable(Exception):
    """Channels that have to stay, and why: a sentence about the layers that make them."""


@dataclass(frozen=True)
class Member:
    """A dimension of a tensor: channel c takes `repeat` places of it from offset + c * repeat on.

    `role`: "makes" (rows of a weight that produce the channels), "scales" (bias, normalisation) or "reads" (columns of
    the weight that takes them in).
    """

    tensor: str
    dim: int
    role: Literal["makes", "scales", "reads"]
    repeat: int = 1
    offset: int = 0

    def places(self, channels: Tensor) -> Tensor:
        """The indices of these channels in the dimension."""
        return (self.offset + channels[:, None] * self.repeat + torch.arange(self.repeat)).reshape(-1)


@dataclass(frozen=True)
class Group:
    """`width` channels (or neurons, or attention heads with what belongs to them)."""

    name: str
    kind: Literal["channels", "neurons", "heads"]
    width: int
    members: tuple[Member, ...]
    key: str = ""  # of a transformers' config, that holds the width: "intermediate_size", or "hidden_sizes.1" of a list
    times: int = 1  # as many channels stay as that many times those of a group of width / times
    stacked: bool = False  # tensors (experts, ...): every expert keeps channels of its own, as many as the others

    @property
    def adjusted(self) -> bool:
        """Whether calibration sees those who read it, which then make up for what is cut."""
        return not self.stacked and not self.key.startswith(STAGES)

    def of_role(self, role: str) -> list[Member]:
        return [member for member in self.members if member.role == role]

    @property
    def widths(self) -> frozenset[str]:
        """The tensors that are as long as there are channels: the makers, and what scales the channels after them."""
        return frozenset(member.tensor for member in self.members if member.role != "reads")

    @property
    def makers(self) -> frozenset[str]:
        """The weights that produce the channels."""
        return frozenset(member.tensor for member in self.of_role("makes"))


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

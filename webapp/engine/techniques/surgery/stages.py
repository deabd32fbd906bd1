"""Channels of models whose residual stream widens from stage to stage, as ConvNeXt's does.

The config lists a width for each stage and no other: the neurons of a stage's MLPs are four times its channels, and a
cut takes of both. A stage's channels run through everything in it, and into the first layer of the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from webapp.engine.facts import STAGES, Group, Member
from webapp.engine.lazy import nn

IN_STAGES = ("convnext", "convnextv2")  # model types


def stage_groups(module: nn.Module, config: Any) -> Iterator[Group]:
    """For each stage its channels, then the neurons of each of its blocks."""
    path = next(name for name, _ in module.named_modules() if name.endswith("encoder.stages"))
    widths = [int(width) for width in getattr(config, STAGES)]
    members: list[list[Member]] = [[] for _ in widths]
    inner: list[Group] = []
    at = 0  # the stage whose channels run here
    for name, part in module.named_modules():
        if any(True for _ in part.children()):
            scales = part.named_parameters(recurse=False)  # of a block's answer
            members[_stage(name, path, at)] += [Member(f"{name}.{p}", 0, "scales") for p, _ in scales]
            continue
        place = _stage(name, path, at)
        width = widths[place]
        if type(part).__name__.endswith("GRN"):
            continue  # with its block's neurons
        if getattr(part, "weight", None) is None:
            continue
        if isinstance(part, nn.Linear) and name.startswith(f"{path}."):
            if part.in_features == width:
                members[place].append(Member(f"{name}.weight", 1, "reads"))
                inner.append(_inner(module, name, place, part.out_features // width))
            else:
                members[place] += _makes(part, name)
        elif isinstance(part, nn.Linear):  # the head
            members[place].append(Member(f"{name}.weight", 1, "reads"))
        elif isinstance(part, nn.Conv2d) and part.groups == part.in_channels == part.out_channels:
            members[place] += [Member(f"{name}.{p}", 0, "scales") for p, _ in part.named_parameters()]
        elif isinstance(part, nn.Conv2d):
            if name.startswith(f"{path}."):  # from the stage before
                members[place - 1].append(Member(f"{name}.weight", 1, "reads"))
            members[place] += _makes(part, name)
        else:  # a norm; the one before a stage's first convolution is the stage before's
            members[place - (".downsampling_layer." in name)] += [
                Member(f"{name}.{p}", 0, "scales") for p, _ in part.named_parameters()
            ]
        at = place
    for place, own in enumerate(members):
        yield Group("channels", widths[place], tuple(own), f"{STAGES}.{place}")
    yield from inner


def _stage(name: str, path: str, at: int) -> int:
    """The stage that a part is in; outside of them the one that came before it."""
    return int(name.removeprefix(f"{path}.").partition(".")[0]) if name.startswith(f"{path}.") else at


def _makes(part: nn.Linear | nn.Conv2d, name: str) -> Iterator[Member]:
    yield Member(f"{name}.weight", 0, "makes")
    if part.bias is not None:
        yield Member(f"{name}.bias", 0, "scales")


def _inner(module: nn.Module, name: str, place: int, times: int) -> Group:
    """The neurons of a block: the layer of this name makes them, the next linear layer beside it reads them."""
    block, _, own = name.rpartition(".")
    beside = dict(module.get_submodule(block).named_children())
    made = beside[own]
    assert isinstance(made, nn.Linear)
    members = [*_makes(made, name)]
    for other, part in beside.items():
        if isinstance(part, nn.Linear) and part.in_features == made.out_features:
            members.append(Member(f"{block}.{other}.weight", 1, "reads"))
        elif type(part).__name__.endswith("GRN"):
            members += [Member(f"{block}.{other}.{p}", 3, "scales") for p, _ in part.named_parameters()]
    return Group("neurons", made.out_features, tuple(members), f"{STAGES}.{place}", times)

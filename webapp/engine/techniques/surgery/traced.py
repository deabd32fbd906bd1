"""Channel groups of any module: traced through residuals, normalisation, concatenation and flattening.

The dependency graph is torch-pruning's (Fang et al. 2023, https://arxiv.org/abs/2301.12900), on the meta device: it
takes shapes only, and no weight is read.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal
from unittest.mock import patch

from webapp.engine.architectures.resize import resize_to_weights
from webapp.engine.data.batches import synthetic
from webapp.engine.facts import ArchitectureSpec, Group, Member
from webapp.engine.lazy import nn, torch

from .groups import Uncuttable, cut_shapes

MOST_OPERATIONS = 20_000  # of one group
ANSWERS = "its outputs are the model's answers"
LOST = "its channels are put in another order in a way that is not followed"
FIXED = "a step of the program holds their number, so it could not run with fewer of its channels"


def traced_groups(module: nn.Module, spec: ArchitectureSpec) -> tuple[list[Group], dict[str, str]]:
    """Every group whose channels some later layer reads; and of the other weights that make channels, why not they."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch_pruning

        inputs = {name: tensor.to("meta") for name, tensor in synthetic(spec, 0).inputs.items()}
        graph = torch_pruning.DependencyGraph()
        graph.build_dependency(module, example_inputs=inputs if len(inputs) > 1 else next(iter(inputs.values())))
        found: list[Group] = []
        why_not: dict[str, str] = {}
        with patch("torch_pruning.dependency.graph.Group", _bounded_group()):
            for traced in graph.get_all_groups(root_module_types=[nn.Conv1d, nn.Conv2d, nn.Linear]):
                try:
                    found += _groups(traced, module)
                except Uncuttable as reason:
                    why_not |= {f"{name}.weight": _mixed(name, part) or str(reason) for name, part in _makers(traced)}
    if spec.family == "program":  # whose steps may hold a width as a number
        fixed = [group for group in found if not _runs_cut(module, group, spec)]
        why_not |= {weight: FIXED for group in fixed for weight in group.makers}
        found = [group for group in found if group not in fixed]
    order = {name: index for index, name in enumerate(module.state_dict())}
    return sorted(found, key=lambda group: min(order[member.tensor] for member in group.members)), why_not


def _bounded_group() -> type[Any]:
    """torch-pruning's group, which looks an operation up instead of through all of them, and ends where those of one
    group do not: a program whose operators permute channels has as many as there are orders.
    """
    from torch_pruning.dependency.group import Group as LibraryGroup

    class BoundedGroup(LibraryGroup):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.known: set[tuple[Any, ...]] = set()

        def add_dep(self, dep: Any, idxs: list[Any]) -> None:
            if len(self.known) == MOST_OPERATIONS:
                raise Uncuttable(LOST)
            super().add_dep(dep, idxs)
            self.known.add((id(dep.target), dep.handler, tuple(idxs)))

        def has_pruning_op(self, dep: Any, idxs: list[Any]) -> bool:
            return (id(dep.target), dep.handler, tuple(idxs)) in self.known

    return BoundedGroup


def _runs_cut(module: nn.Module, group: Group, spec: ArchitectureSpec) -> bool:
    """Whether the module still gives an answer of the same shape with half of the group's channels."""
    state = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    if any(m.offset + group.width * m.repeat > state[m.tensor][m.dim] for m in group.members):
        return False
    given = [tensor.to("meta") for tensor in synthetic(spec, 0).inputs.values()]
    smaller = copy.deepcopy(module)
    resize_to_weights(smaller, cut_shapes(state, [(group, max(1, group.width // 2))]))
    with torch.no_grad():
        try:
            return bool(smaller(*given).shape == module(*given).shape)
        except (RuntimeError, ValueError):
            return False


def _groups(traced: Any, module: nn.Module) -> Iterator[Group]:
    """The groups in one of torch-pruning's: concatenated channels are one group for each of the parts.

    Raises Uncuttable where nothing reads it, or a layer in it mixes channels in a way that is not followed.
    """
    runs: list[tuple[Member, int, int]] = []  # a member for channel `first` on, and how many it has
    for item in traced.items:
        part: Any = item.dep.target.module
        name = item.dep.target.name.partition(" (")[0]
        if isinstance(part, nn.Parameter):  # used by no layer: how is not known
            own = next((path for path, parameter in module.named_parameters() if parameter is part), name)
            raise Uncuttable(f"{own} runs along its channels, and it belongs to no layer")
        if not isinstance(part, nn.Conv1d | nn.Conv2d | nn.Linear | nn.Embedding) and not isinstance(part, _norms()):
            if any(True for _ in part.parameters()):
                raise Uncuttable(f"its channels run through {name}, a {type(part).__name__}, which is not followed")
            continue
        channels = list(dict.fromkeys(item.root_idxs))
        repeat = len(item.idxs) // len(channels)
        if mixed := _mixed(name, part):
            raise Uncuttable(mixed)
        if not (_in_a_row(channels) and _in_a_row(item.idxs) and len(item.idxs) == repeat * len(channels)):
            raise Uncuttable(LOST)
        reads = item.dep.handler.__name__ == "prune_in_channels" and not isinstance(part, _norms())
        runs += [(m, channels[0], len(channels)) for m in _members(part, name, reads, repeat, item.idxs[0])]
    kind: Literal["channels", "neurons"] = (
        "channels"
        if any(isinstance(item.dep.target.module, nn.Conv1d | nn.Conv2d) for item in traced.items)
        else "neurons"
    )
    if not any(member.role == "reads" for member, _, _ in runs):
        raise Uncuttable(ANSWERS)
    edges = sorted({edge for _, first, count in runs for edge in (first, first + count)})
    for start, end in pairwise(edges):
        members = {
            replace(member, offset=member.offset + (start - first) * member.repeat)
            for member, first, count in runs
            if first <= start and end <= first + count
        }
        if {"makes", "reads"} <= {member.role for member in members}:
            ordered = sorted(members, key=lambda member: (member.tensor, member.dim))
            yield Group(kind, end - start, tuple(ordered))


def _norms() -> tuple[Any, ...]:
    return nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm


def _mixed(name: str, part: nn.Module) -> str | None:
    """Why the channels of a convolution in groups have to stay; None where each output has an input of its own."""
    groups = getattr(part, "groups", 1)
    if groups == 1 or groups == part.in_channels == part.out_channels:
        return None
    return f"{name} has {groups} groups of channels, and which of them meet would change"


def _makers(traced: Any) -> Iterator[tuple[str, nn.Module]]:
    """The layers whose outputs are a group of torch-pruning's."""
    for item in traced.items:
        part, name = item.dep.target.module, item.dep.target.name.partition(" (")[0]
        makes = item.dep.handler.__name__ == "prune_out_channels" or getattr(part, "groups", 1) > 1
        if makes and isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            yield name, part


def _in_a_row(places: list[int]) -> bool:
    return places == list(range(places[0], places[0] + len(places)))


def _members(part: nn.Module, name: str, reads: bool, repeat: int, offset: int) -> Iterator[Member]:
    weight = f"{name}.weight"
    if isinstance(part, _norms()):
        tensors = dict(part.named_parameters(recurse=False)) | dict(part.named_buffers(recurse=False))
        for tensor, value in tensors.items():
            if value.dim():
                yield Member(f"{name}.{tensor}", 0, "scales", repeat, offset)
    elif isinstance(part, nn.Embedding):
        yield Member(weight, 1, "makes", repeat, offset)
    elif reads:
        if getattr(part, "groups", 1) == 1:
            yield Member(weight, 1, "reads", repeat, offset)
    else:
        depthwise = getattr(part, "groups", 1) > 1
        yield Member(weight, 0, "scales" if depthwise else "makes", repeat, offset)
        if part.bias is not None:
            yield Member(f"{name}.bias", 0, "scales", repeat, offset)

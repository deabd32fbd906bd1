"""Cutting channels out of a model, its running module included, and what has to be put right afterwards."""

from __future__ import annotations

from collections.abc import Sequence

from webapp.engine.architectures.build import build
from webapp.engine.architectures.resize import note_sizes
from webapp.engine.data.batches import Batch, outputs
from webapp.engine.facts import Group, Member
from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.techniques.calibration import CalibrationBlock
from webapp.engine.weights import Dense
from webapp.engine.weights.model import Model

from .groups import kept_indices


def cut(model: Model, group: Group, kept: Tensor, block: CalibrationBlock | None = None) -> None:
    """Leaves the channels `kept` (count,), or (experts, count) of a stack, in every tensor of the group.

    In a block's running module too.
    """
    places: dict[tuple[str, int], list[Member]] = {}
    for member in group.members:
        places.setdefault((member.tensor, member.dim), []).append(member)
    for (name, dim), members in places.items():
        encoded = model.weights[name]
        tensor = encoded.decode()
        if group.stacked:
            experts = zip(tensor, kept, strict=True)
            smaller = torch.stack([_without(own, members, dim - 1, stays, group.width) for own, stays in experts])
        else:
            smaller = _without(tensor, members, dim, kept, group.width)
        model.weights[name] = Dense(smaller, zeros_wanted=encoded.plan.pruned)
        if block is not None:
            _set(block.module, name.removeprefix(block.prefix), smaller)


def _without(tensor: Tensor, members: Sequence[Member], dim: int, kept: Tensor, width: int) -> Tensor:
    return tensor.index_select(dim, kept_indices(members, tensor.shape[dim], kept, width)).contiguous()


def _set(module: nn.Module, name: str, value: Tensor) -> None:
    path, _, last = name.rpartition(".")
    part = module.get_submodule(path)
    own = getattr(part, last)
    own.data = value.to(own.dtype)
    if last in ("weight", "running_mean"):
        note_sizes(part, tuple(value.shape))


def has_batch_norm(model: Model) -> bool:
    return any(name.endswith("running_mean") for name in model.weights)


def recalibrate_batch_norm(model: Model, data: Sequence[Batch]) -> int:
    """Means and variances of every batch norm as the data give them to the model that was cut. Returns how many."""
    assert model.architecture is not None
    module = build(model)
    norms = {n: p for n, p in module.named_modules() if isinstance(p, nn.modules.batchnorm._BatchNorm)}
    for norm in norms.values():
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    with torch.no_grad():
        for batch in data:
            outputs(module, model.architecture, batch)
    for name, norm in norms.items():
        for which in ("running_mean", "running_var"):
            key = f"{name}.{which}"
            fresh = getattr(norm, which)
            model.weights[key] = Dense(fresh.to(model.weights[key].dtype).clone())
    return len(norms)

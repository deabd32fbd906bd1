"""The order of a cut: what matters is scored, the readers take over what they can, the rest is cut; block by block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from webapp.engine.architectures.build import build
from webapp.engine.architectures.resize import note_sizes
from webapp.engine.data.batches import Batch, outputs
from webapp.engine.data.targets import target_loss
from webapp.engine.facts import ArchitectureSpec, CheckpointFacts, Group, Member
from webapp.engine.lazy import Tensor, nn, torch
from webapp.engine.math import importance
from webapp.engine.math.elimination import Elimination
from webapp.engine.progress import ProgressPart, Report
from webapp.engine.techniques.calibration import CalibrationBlock, Covariance, WeightMatrix, calibration_blocks
from webapp.engine.weights import Dense
from webapp.engine.weights.model import Model

from .groups import cut_groups, kept_indices

FROM_DATA = ("taylor", "activation", "reconstruction")
Scores = dict[Group, Tensor]
Gradients = Mapping[str, Tensor]
ROUNDS = 16  # in which the channels of a group leave, each judged on what the ones before it left


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


def places_of(member: Member, width: int) -> Tensor:
    """(width, repeat): where in the member's dimension each channel lies."""
    return member.places(torch.arange(width)).reshape(width, member.repeat)


def slices(values: Mapping[str, Tensor], group: Group, role: str = "makes") -> list[Tensor]:
    """The values of each tensor of this role by channel: (width, values) each."""
    return [
        importance.by_channel(values[member.tensor], member.dim, places_of(member, group.width))
        for member in group.of_role(role)
        if member.tensor in values
    ]


def from_weights(model: Model, group: Group, kind: str) -> Tensor:
    """kind "l1", "l2" or "batch_norm" (L2 where the group has none). (width,), or (experts, width) of a stack."""
    wanted = [member.tensor for member in group.members]
    values = {name: model.weights[name].decode() for name in wanted if name in model.weights}
    if group.stacked:
        members = tuple(replace(member, dim=member.dim - 1) for member in group.members)
        one, experts = replace(group, members=members), len(values[wanted[0]])
        each = ({name: tensor[expert] for name, tensor in values.items()} for expert in range(experts))
        return torch.stack([importance.norm(slices(own, one), 1 if kind == "l1" else 2) for own in each])
    if kind == "batch_norm":
        norms = [n for n in values if n.removesuffix("weight") + "running_mean" in values and n.endswith("weight")]
        found = slices({name: values[name] for name in norms}, group, "scales")
        if found:
            return torch.cat(found, dim=1).abs().sum(1)
    return importance.norm(slices(values, group), 1 if kind == "l1" else 2)


def gradients(model: Model, data: Sequence[Batch]) -> Gradients:
    """Of the loss on the data, by tensor: next tokens, targets, or half the squared answer without any."""
    spec = model.architecture
    assert spec is not None
    module = build(model)
    with torch.enable_grad():
        for batch in data:
            torch.autograd.backward(_loss(outputs(module, spec, batch), spec, batch) / len(data))
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def _loss(out: Tensor, spec: ArchitectureSpec, batch: Batch) -> Tensor:
    if spec.task == "causal-lm":
        return torch.nn.functional.cross_entropy(out[:, :-1].flatten(0, 1), batch.inputs["input_ids"][:, 1:].flatten())
    if batch.targets is not None:
        return target_loss(out, batch.targets)
    return out.square().sum(-1).mean() / 2


def from_gradients(model: Model, found: Gradients, group: Group) -> Tensor:
    """First-order Taylor scores over the tensors that make the group's channels."""
    names = [member.tensor for member in group.of_role("makes") if member.tensor in found]
    weights = slices({name: model.weights[name].decode() for name in names}, group)
    return importance.taylor(weights, slices({name: found[name] for name in names}, group))


class ReadingLayers:
    """The layers that read a group's channels, with the statistics of what they are given."""

    def __init__(self, group: Group, matrices: Sequence[WeightMatrix], statistics: Sequence[Covariance]) -> None:
        """One matrix and its inputs for each member that reads."""
        self.group, self.members = group, group.of_role("reads")
        self.matrices, self.statistics = matrices, statistics

    @classmethod
    def in_block(cls, block: CalibrationBlock, group: Group, statistics: Mapping[str, Covariance]) -> ReadingLayers:
        """statistics by matrix; those that are missing are collected."""
        by_weight = {matrix.layer.weight: matrix for matrix in block.matrices if not matrix.side}
        matrices = [by_weight[member.tensor] for member in group.of_role("reads")]
        missing = [matrix for matrix in matrices if matrix.path not in statistics]
        found = {**statistics, **(block.collect(missing, Covariance) if missing else {})}
        return cls(group, matrices, [found[matrix.path] for matrix in matrices])

    def columns(self, member: Member, matrix: WeightMatrix) -> Tensor:
        """(width, k): the columns of the matrix that each channel feeds."""
        patch = matrix.floats().shape[1] // matrix.encoded.shape[1] if len(matrix.encoded.shape) > 2 else 1
        places = places_of(member, self.group.width)
        return (places[:, :, None] * patch + torch.arange(patch)).flatten(1)

    def activation(self) -> Tensor:
        total = torch.zeros(self.group.width)
        for member, matrix, statistic in zip(self.members, self.matrices, self.statistics, strict=True):
            columns = self.columns(member, matrix)
            squares = statistic.mean[0].diagonal()
            total += importance.activation(squares[columns], matrix.floats().t()[columns])
        return total

    def eliminations(self, dtype: torch.dtype | None = None) -> list[Elimination]:
        return [
            Elimination(matrix.floats(), statistic.mean[0], dtype=dtype)
            for matrix, statistic in zip(self.matrices, self.statistics, strict=True)
        ]

    def remove(self, eliminations: Sequence[Elimination], channels: Tensor) -> None:
        for member, matrix, elimination in zip(self.members, self.matrices, eliminations, strict=True):
            elimination.remove(self.columns(member, matrix)[channels].reshape(-1))

    def costs(self, eliminations: Sequence[Elimination], channels: Tensor | None = None) -> Tensor:
        """What the removal of each of these channels (all, if None) adds to the squared error of all that read it."""
        chosen = torch.arange(self.group.width) if channels is None else channels
        total = torch.zeros(len(chosen), dtype=torch.float64)
        for member, matrix, elimination in zip(self.members, self.matrices, eliminations, strict=True):
            total += elimination.costs(self.columns(member, matrix)[chosen])
        return total

    def eliminate(
        self, eliminations: Sequence[Elimination], count: int, alive: Tensor | None = None, rounds: int = ROUNDS
    ) -> Tensor:
        """Takes the `count` channels that cost least away, in rounds; returns those that stay, ascending.

        `alive`: those that are still there, where some have left.
        """
        alive, left = torch.arange(self.group.width) if alive is None else alive, count
        for round_ in range(rounds, 0, -1):
            now = -(-left // round_)
            if now:
                order = self.costs(eliminations, alive).argsort()
                self.remove(eliminations, alive[order[:now]])
                alive = alive[order[now:]].sort().values
                left -= now
        return alive


@dataclass
class Surgery:
    """`importance` is one of the technique's choices. Without `data` nothing makes up for what is cut."""

    model: Model
    facts: CheckpointFacts
    groups: Sequence[Group]
    importance: str
    data: Sequence[Batch]
    report: Report

    def __post_init__(self) -> None:
        self._now = {group: group for group in self.groups}  # as those that are cut already leave them
        self._before: Scores = {}
        if self.importance == "taylor":
            found = gradients(self.model, self.data)
            self._before = {group: from_gradients(self.model, found, group) for group in self.groups if group.adjusted}
        elif self.importance not in FROM_DATA:
            self._before = {group: from_weights(self.model, group, self.importance) for group in self.groups}
        blind = [group for group in self.groups if not group.adjusted and group not in self._before]
        self._blind = {group: from_weights(self.model, group, "l2") for group in blind}

    @property
    def _adjusted(self) -> list[Group]:
        return [group for group in self.groups if group.adjusted]

    def scores(self) -> Scores:
        """Of every group in the model as it is, nothing cut yet."""
        if self._before:
            return self._before
        found: Scores = {}
        for _, group, readers in self._walked(ProgressPart(self.report, 0.0, 0.4)):
            reconstructed = self.importance == "reconstruction"
            found[group] = readers.costs(readers.eliminations()) if reconstructed else readers.activation()
        return found

    def cut(self, counts: Mapping[Group, int]) -> None:
        """Leaves each group as many channels."""
        if not self.data:
            for group in self.groups:
                self._cut(group, _most(self._before[group], counts[group]))
            return
        for block, group, readers in self._walked(ProgressPart(self.report, 0.4, 0.9)):
            eliminations = readers.eliminations()
            if self.importance == "reconstruction":
                kept = readers.eliminate(eliminations, group.width - counts[group])
            else:
                own = self._before[group] if self._before else readers.activation()
                kept = _most(own, counts[group])
                readers.remove(eliminations, _others(kept, group.width))
            for matrix, elimination in zip(readers.matrices, eliminations, strict=True):
                adjusted = elimination.weight.float()
                if matrix.encoded.plan.pruned:  # an adjustment would fill the zeros of an earlier step
                    adjusted = matrix.floats() * (adjusted != 0)
                block.keep(matrix, Dense(matrix.shaped(adjusted), zeros_wanted=matrix.encoded.plan.pruned))
            # passes that are half through a repeating block have the old width; what left is multiplied by zero there
            self._cut(group, kept, None if block.repeats else block)

        for group in self.groups:
            if not group.adjusted:
                self._cut(group, _most((self._before | self._blind)[group], counts[group]))

    def _cut(self, group: Group, kept: Tensor, block: CalibrationBlock | None = None) -> None:
        """Takes a group's other channels out; those of groups that share a dimension with it move up."""
        cut(self.model, self._now[group], kept, block)
        moved = cut_groups(self._now.values(), {self._now[group]: kept.shape[-1]})
        self._now = dict(zip(self._now, moved, strict=True))

    def _walked(self, report: Report) -> Iterator[tuple[CalibrationBlock, Group, ReadingLayers]]:
        """Each group of the model with those who read it, as the groups that were cut before it leave them."""
        if not self._adjusted:
            return
        weights = {member.tensor for group in self._adjusted for member in group.of_role("reads")}
        layers = [layer for layer in self.facts.layers if layer.weight in weights]
        for block in calibration_blocks(self.model, layers, self.data, report, "Structured pruning"):
            if block.repeats:
                yield from self._staged(block)
            elif not block.name:
                for group in self._adjusted:
                    yield block, group, ReadingLayers.in_block(block, self._now[group], {})

    def _staged(self, block: CalibrationBlock) -> Iterator[tuple[CalibrationBlock, Group, ReadingLayers]]:
        inside = [group for group in self._adjusted if all(m.tensor.startswith(block.prefix) for m in group.members)]
        for stage, statistics in block.staged(Covariance):
            here = {matrix.layer.weight for matrix in stage}
            for group in inside:
                if here & {member.tensor for member in group.of_role("reads")}:
                    yield block, group, ReadingLayers.in_block(block, self._now[group], statistics)


def _most(scores: Tensor, count: int) -> Tensor:
    return scores.topk(count).indices.sort().values


def _others(kept: Tensor, width: int) -> Tensor:
    gone = torch.ones(width, dtype=torch.bool)
    gone[kept] = False
    return gone.nonzero().reshape(-1)

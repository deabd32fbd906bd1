"""The order of a cut: what matters is scored, the readers take over what they can, the rest is cut; block by block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from webapp.engine.data.batches import Batch
from webapp.engine.facts import CheckpointFacts, Group
from webapp.engine.lazy import Tensor, torch
from webapp.engine.progress import ProgressPart, Report
from webapp.engine.techniques.calibration import CalibrationBlock, Covariance, calibration_blocks
from webapp.engine.weights import Dense
from webapp.engine.weights.model import Model

from .cutting import cut
from .groups import cut_groups
from .scores import ReadingLayers, from_gradients, from_weights, gradients

FROM_DATA = ("taylor", "activation", "reconstruction")
Scores = dict[Group, Tensor]


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
            for slot, elimination in zip(readers.slots, eliminations, strict=True):
                adjusted = elimination.weight.float()
                if slot.encoded.plan.pruned:  # an adjustment would fill the zeros of an earlier step
                    adjusted = slot.matrix() * (adjusted != 0)
                block.keep(slot, Dense(slot.shaped(adjusted), zeros_wanted=slot.encoded.plan.pruned))
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
                    yield block, group, ReadingLayers(block, self._now[group], {})

    def _staged(self, block: CalibrationBlock) -> Iterator[tuple[CalibrationBlock, Group, ReadingLayers]]:
        inside = [group for group in self._adjusted if all(m.tensor.startswith(block.prefix) for m in group.members)]
        for stage, statistics in block.staged(Covariance):
            here = {slot.layer.weight for slot in stage}
            for group in inside:
                if here & {member.tensor for member in group.of_role("reads")}:
                    yield block, group, ReadingLayers(block, self._now[group], statistics)


def _most(scores: Tensor, count: int) -> Tensor:
    return scores.topk(count).indices.sort().values


def _others(kept: Tensor, width: int) -> Tensor:
    gone = torch.ones(width, dtype=torch.bool)
    gone[kept] = False
    return gone.nonzero().reshape(-1)

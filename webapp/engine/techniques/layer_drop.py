"""Layer drop: whole transformer blocks leave, those that change the residual stream least."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from webapp.engine.architectures.reshape import Plans, ShapeChange, reshaped_facts
from webapp.engine.data.batches import Batch
from webapp.engine.facts import BlockRow, CheckpointFacts, LayerFacts
from webapp.engine.lazy import nn
from webapp.engine.progress import Report
from webapp.engine.recipe import StepSettings, TechniqueSettings, setting
from webapp.engine.techniques.surgery.structure import droppable, shortened
from webapp.engine.weights import StoragePlan
from webapp.engine.weights.model import Model

from .base import Context, CutOffer, Need, Outcome, Skip, Technique, calibration_samples
from .calibration.sequential_calibration import block_states
from .surgery import check_fits, structure_of, with_structure

SHARES = (0.0, 0.1, 0.2, 0.33, 0.5)  # of the blocks that a budget may leave out; at least one leaves


def influences(model: Model, layers: Sequence[LayerFacts], data: Sequence[Batch], report: Report) -> list[float]:
    """For each block of the row one minus the mean cosine between a token's state before and after it.

    That is the paper's equation 1, over all tokens that are not padding.
    """
    found = []
    for _, before, after, masks in block_states(model, layers, data, report, "Measuring each block's influence"):
        total, tokens = 0.0, 0
        for x, y, mask in zip(before, after, masks, strict=True):
            change = 1 - nn.functional.cosine_similarity(x, y, dim=-1)  # (B, T)
            kept = change[mask.bool()] if mask is not None and mask.shape == change.shape else change
            total, tokens = total + float(kept.double().sum()), tokens + kept.numel()
        found.append(total / max(tokens, 1))
    return found


class LayerDrop(Technique):
    name = "layer_drop"
    title = "Layer drop"
    family = "Pruning"
    summary = (
        "Removes whole transformer blocks, by how little each one changes the residual stream; "
        "time and bytes fall by its full share, and a short distillation afterwards is worth it."
    )
    paper = "https://arxiv.org/abs/2403.03853"
    needs = frozenset({"architecture", "calibration"})
    layers = frozenset({"linear", "conv", "experts"})

    class Settings(TechniqueSettings):
        blocks: int = setting(1, "Blocks to drop", "How many of the model's blocks leave.", unit="blocks", ge=1, le=500)
        by: Literal["influence", "influence_again", "evenly", "last"] = setting(
            "influence",
            "Block importance",
            "influence: one minus the cosine between a block's input and its output, on calibration data. "
            "influence_again: the same, measured again after each block that left. evenly: spread over the model, "
            "without data. last: the last ones but one.",
        )
        samples: int = calibration_samples()

    def needs_for(self, settings: Any) -> frozenset[Need]:
        return self.needs if settings.by.startswith("influence") else frozenset({"architecture"})

    def plan(self, layer: LayerFacts, plan: StoragePlan, settings: Any) -> StoragePlan:
        return plan

    def reshape(self, facts: CheckpointFacts, layers: Sequence[LayerFacts], settings: StepSettings) -> ShapeChange:
        _, candidates = self._droppable(facts, layers, settings.own)
        return shortened(facts, spread(candidates, settings.own))

    def cuts(self, facts: CheckpointFacts) -> Iterator[CutOffer]:
        """Whole blocks: all that a step is for leave, whatever they change."""
        row = facts.structure.blocks if facts.structure is not None else None
        if row is None:
            return
        most = min(len(droppable(facts, row, [layer.weight for layer in facts.layers])), row.count - 1)
        for count in sorted({min(max(1, round(share * row.count)), most) for share in SHARES} - {0}):
            yield CutOffer("blocks", f"{count} of {row.count} removed", {"blocks": count, "by": "evenly"}, blocks=count)

    def removes_alike(
        self, facts: CheckpointFacts, layers: Sequence[LayerFacts], plans: Plans, settings: StepSettings
    ) -> bool:
        """Which blocks leave does not matter to the size where they are alike."""
        if not settings.own.by.startswith("influence"):
            return True
        row, candidates = self._droppable(facts, layers, settings.own)
        shared = {row.of(name) for name in (*facts.tied, *facts.tied.values())}
        blocks: dict[int, dict[str, Any]] = {}
        for name, plan in plans.items():
            number = row.of(name)
            if number in candidates:
                own = {name.removeprefix(f"{row.path}.{number}."): (plan.shape, plan.parts, plan.meta)}
                blocks.setdefault(number, {key: of[number] for key, of in row.lists.items()}).update(own)
        return not shared & {*blocks} and all(block == blocks[candidates[0]] for block in blocks.values())

    def _droppable(
        self, facts: CheckpointFacts, layers: Sequence[LayerFacts], settings: Any
    ) -> tuple[BlockRow, tuple[int, ...]]:
        """The row of blocks, and which of them may leave. Raises Skip where those are too few."""
        row = structure_of(facts).blocks
        if row is None:
            raise Skip("the model is not a row of transformer blocks, or its config cannot say how many there are")
        candidates = droppable(facts, row, [layer.weight for layer in layers])
        if settings.blocks > len(candidates) or settings.blocks >= row.count:
            fixed = ", ".join(map(str, row.fixed))
            raise Skip(
                f"{settings.blocks} blocks are to leave, and of the model's {row.count} "
                f"{len(candidates)} {'can and ' if fixed else ''}are among the chosen layers; at least one has to stay"
                + (f", and its config cannot describe the model without block {fixed}" if fixed else "")
            )
        return row, candidates

    def apply(self, model: Model, settings: StepSettings, context: Context) -> list[Outcome]:
        assert context.facts is not None
        facts, own = with_structure(context.facts), settings.own
        row, candidates = self._droppable(facts, context.layers, own)
        asked = f"{own.blocks} of {row.count} blocks, by {own.by.replace('_', ' ')}"
        if not own.by.startswith("influence"):
            gone = spread(candidates, own)
            _drop(model, facts, gone)
            return _rows(row, context.layers, asked, dict.fromkeys(gone, ""))
        left, notes = list(range(row.count)), {}  # the original numbers of those that are still there
        at_once = own.blocks if own.by == "influence" else 1
        for _ in range(0, own.blocks, at_once):
            found = influences(model, facts.layers, context.calibration(own.samples), context.report)
            may_leave = [place for place, number in enumerate(left) if number in candidates]
            places = sorted(sorted(may_leave, key=lambda place: found[place])[:at_once])
            for place in places:
                notes[left[place]] = f"it changed the residual stream by {found[place]:.4f} (one minus the cosine)"
            facts = _drop(model, facts, places)
            left = [number for place, number in enumerate(left) if place not in places]
        return _rows(row, context.layers, asked, notes)


def _rows(blocks: BlockRow, layers: Sequence[LayerFacts], asked: str, gone: Mapping[int, str]) -> list[Outcome]:
    """One for each chosen layer; `gone` has a note for each block that left, by its number."""
    found = []
    for layer in layers:
        number = blocks.of(layer.weight)
        if number is None:
            found.append(Outcome.not_asked(layer.name, "it is in none of the blocks"))
        elif number in gone:
            found.append(Outcome(layer.name, asked, f"removed with block {number}", note=gone[number]))
        else:
            found.append(Outcome(layer.name, asked, f"stays with block {number}"))
    return found


def _drop(model: Model, facts: CheckpointFacts, gone: Sequence[int]) -> CheckpointFacts:
    """Takes the blocks out of the model. Returns the facts of what is left; raises Skip where no config can say it."""
    change = shortened(facts, gone)
    check_fits(facts, change)
    model.weights = model.weights.renamed(
        {change.renamed.get(name, name): name for name in model.weights if name not in change.removed}
    )
    model.tied = {
        change.renamed.get(alias, alias): change.renamed.get(name, name)
        for alias, name in model.tied.items()
        if alias not in change.removed
    }
    model.architecture = change.architecture
    return reshaped_facts(facts, change)


def spread(candidates: Sequence[int], settings: Any) -> list[int]:
    """The blocks that leave where no data decide: evenly apart, or the last but the very last."""
    if settings.by == "evenly":
        step = len(candidates) / settings.blocks
        return sorted({candidates[int((number + 0.5) * step)] for number in range(settings.blocks)})
    start = max(0, len(candidates) - 1 - settings.blocks)
    return list(candidates[start : start + settings.blocks])

"""The way of techniques that calibrate: block by block, layer by layer, each on what the compressed ones put out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from ..calibration import Block, Slot, Statistic, walk
from ..encodings import Encoded
from ..facts import LayerFacts
from ..model import Model
from .base import Context, Outcome, Skip, Technique

UNREACHED = "no calibration sample reached it, so nothing is known of its inputs"


class BlockByBlock(Technique):
    """Calls `compress_slot` for each matrix in the order in which the model runs them.

    `statistic` is what is kept of each matrix's inputs. With `originals` a walk keeps the activations of the model as
    it was before this step too. Settings must have `samples`.
    """

    needs = frozenset({"calibration", "architecture"})
    layers = frozenset({"linear", "conv"})
    statistic: ClassVar[type[Statistic]]
    at_once: ClassVar[bool] = False  # a repeating block's layers are all judged before one of them changes
    originals: ClassVar[bool] = False

    def apply(self, model: Model, settings: Any, context: Context) -> list[Outcome]:
        data = context.calibration(settings.samples)
        found: dict[str, list[Outcome]] = {layer.name: [] for layer in context.layers}
        for block in walk(model, context.layers, data, context.report, self.title, self.originals):
            for slot, outcome in self.compress_block(block, settings, context):
                found[slot.layer.name].append(outcome)
        return [self.outcome(layer, found[layer.name], settings) for layer in context.layers]

    def compress_block(self, block: Block, settings: Any, context: Context) -> Sequence[tuple[Slot, Outcome]]:
        """Everything in one block: its stages in order, each seen by the next."""
        done = []
        together = (
            [(block.slots, block.collect(block.slots, self.statistic))] if self.at_once and block.repeats else None
        )
        for stage, statistics in together or block.staged(self.statistic):
            for slot in stage:
                asked = self.asked(slot.layer, settings)
                try:
                    if not statistics[slot.path].count:
                        raise Skip(UNREACHED)
                    with torch.no_grad():
                        encoded, outcome = self.compress_slot(slot, statistics[slot.path], settings, context)
                except Skip as reason:
                    done.append((slot, Outcome.left(slot.layer.name, asked, str(reason))))
                    continue
                block.keep(slot, encoded)
                done.append((slot, outcome))
        return done

    def outcome(self, layer: LayerFacts, parts: Sequence[Outcome], settings: Any) -> Outcome:
        """One line for a layer out of those of its matrices; a factored layer has two."""
        if not parts:
            return Outcome.left(layer.name, self.asked(layer, settings), UNREACHED)
        return parts[0] if len(parts) == 1 else joined(parts)

    @abstractmethod
    def asked(self, layer: LayerFacts, settings: Any) -> str: ...

    @abstractmethod
    def compress_slot(self, slot: Slot, statistic: Any, settings: Any, context: Context) -> tuple[Encoded, Outcome]:
        """The matrix in its new form (shape and dtype as `slot.encoded` has them). Raises Skip with the reason."""


def joined(parts: Sequence[Outcome]) -> Outcome:
    first = parts[0]
    done = " and ".join(dict.fromkeys(part.done for part in parts))
    notes = " ".join(dict.fromkeys(part.note for part in parts if part.note))
    skipped = all(part.skipped for part in parts)
    return Outcome(first.layer, first.asked, done, ok=all(p.ok for p in parts), skipped=skipped, note=notes)

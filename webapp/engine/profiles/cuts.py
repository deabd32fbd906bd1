"""Channels, neurons, heads and blocks that may leave a model, and the facts of what then is left."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from webapp.engine.architectures.reshape import reshaped_facts
from webapp.engine.facts import CheckpointFacts
from webapp.engine.recipe import StepSettings
from webapp.engine.techniques import CutOffer, Technique, technique, techniques

from .facts import KEPT, Cut, OptionStep, ProfileFacts

WITH_CUTS = (KEPT, "Quantization")  # families whose options a layer that has lost channels may have


@dataclass(frozen=True)
class Offered:
    by: Technique
    offer: CutOffer

    def cut(self, facts: CheckpointFacts, loss: float, blocks: Collection[int] = ()) -> Cut:
        """`blocks`: which of the row leave, where the offer is of some."""
        makers = frozenset[str]().union(*(group.makers for group in self.offer.kept))
        row = facts.structure.blocks if facts.structure is not None else None
        leaves = {layer.weight for layer in facts.layers if row is not None and row.of(layer.weight) in blocks}
        return Cut(
            unit=self.offer.unit,
            label=self.offer.label,
            family=self.by.family,
            step=OptionStep(technique=self.by.name, settings=dict(self.offer.settings)),
            layers=tuple(layer.name for layer in facts.layers if layer.weight in makers | leaves),
            loss=loss,
        )


@dataclass(frozen=True)
class Left:
    """What cuts leave: its facts, and what each unit that is still there is called now, by its name before."""

    facts: CheckpointFacts
    names: Mapping[str, str]


def offered(facts: CheckpointFacts) -> tuple[Offered, ...]:
    """Every cut that a technique offers of a checkpoint whose structure is known; none without an architecture."""
    if facts.architecture is None:
        return ()
    return tuple(Offered(able, offer) for able in techniques().values() for offer in able.cuts(facts))


def cut_facts(facts: CheckpointFacts, cuts: Iterable[Cut]) -> Left:
    """Raises Skip where they cannot be done together."""
    left = Left(facts, {name: name for name in _names(facts)})
    for cut in in_order(cuts):
        doing, before = technique(cut.step.technique), left.facts
        layers = [layer for layer in before.layers if layer.name in cut.layers]
        change = doing.reshape(before, layers, StepSettings(doing.Settings.model_validate(cut.step.settings)))
        if change is not None:
            after = reshaped_facts(before, change)
            now = dict(zip(_names(before, change.removed), _names(after), strict=True))
            left = Left(after, {first: now[name] for first, name in left.names.items() if name in now})
    return left


def _names(facts: CheckpointFacts, removed: Collection[str] = ()) -> list[str]:
    """Of its units in their order, but those whose weights are removed."""
    weights = {layer.weight for layer in facts.layers}
    rest = [tensor.name for tensor in facts.tensors if tensor.is_float and tensor.name not in weights | {*removed}]
    return [*(layer.name for layer in facts.layers if layer.weight not in removed), *rest]


def in_order(cuts: Iterable[Cut]) -> list[Cut]:
    """As a recipe makes them: those that calibrate come first, so that the names of layers are still theirs."""

    def calibrates(cut: Cut) -> bool:
        doing = technique(cut.step.technique)
        return "calibration" in doing.needs_for(doing.Settings.model_validate(cut.step.settings))

    return sorted(cuts, key=lambda cut: not calibrates(cut))


def by_unit(profile: ProfileFacts) -> dict[str, list[Cut]]:
    found: dict[str, list[Cut]] = {}
    for cut in profile.cuts:
        found.setdefault(cut.unit, []).append(cut)
    return found

"""Channels, neurons and heads that may leave a model's shapes, and the profile of what then is left."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import escape

from webapp.engine.architectures.reshape import reshaped_facts
from webapp.engine.facts import CheckpointFacts, LayerFacts, TensorFacts
from webapp.engine.recipe import StepSettings
from webapp.engine.techniques import CutOffer, Skip, Technique, technique, techniques
from webapp.engine.weights import DensePlan, StoragePlan

from .facts import KEPT, Cut, LayerOptions, Option, OptionStep, ProfileFacts

WITH_CUTS = (KEPT, "Quantization")  # families whose options a layer that has lost channels may have


@dataclass(frozen=True)
class Offered:
    by: Technique
    offer: CutOffer

    def cut(self, facts: CheckpointFacts, loss: float) -> Cut:
        makers = frozenset[str]().union(*(group.makers for group in self.offer.kept))
        return Cut(
            unit=self.offer.unit,
            label=self.offer.label,
            family=self.by.family,
            step=OptionStep(technique=self.by.name, settings=dict(self.offer.settings)),
            layers=tuple(layer.name for layer in facts.layers if layer.weight in makers),
            loss=loss,
        )


def offered(facts: CheckpointFacts) -> tuple[Offered, ...]:
    """Every cut that a technique offers of a checkpoint whose structure is known; none without an architecture."""
    if facts.architecture is None:
        return ()
    return tuple(Offered(able, offer) for able in techniques().values() for offer in able.cuts(facts))


def cut_facts(facts: CheckpointFacts, cuts: Sequence[Cut]) -> CheckpointFacts:
    """The facts of what these cuts leave. Raises Skip where they cannot be done together."""
    by_name: dict[str, list[Cut]] = {}
    for cut in cuts:
        by_name.setdefault(cut.step.technique, []).append(cut)
    for name, own in by_name.items():
        doing = technique(name)
        given = [doing.Settings.model_validate(cut.step.settings) for cut in own]
        each = tuple((escape(layer), one) for cut, one in zip(own, given, strict=True) for layer in cut.layers)
        wanted = {layer for cut in own for layer in cut.layers}
        layers = [layer for layer in facts.layers if layer.name in wanted]
        change = doing.reshape(facts, layers, StepSettings(given[0], each))
        facts = facts if change is None else reshaped_facts(facts, change)
    return facts


def cut_profile(
    profile: ProfileFacts,
    facts: CheckpointFacts,
    cuts: Sequence[Cut],
    left: CheckpointFacts,
    made: dict[tuple[object, ...], StoragePlan | None],
) -> ProfileFacts:
    """The profile of what is `left`: every option in its new bytes, and each cut as a choice that has been made.

    A layer that a cut made smaller is rounded at the loss that it had: what leaves matters least. What else takes
    values away would take the same ones once more, so it is not combined: that loses infinitely, and so does what the
    new shape does not allow. `made` keeps the plans from one profile to the next.
    """
    before, units = {unit.name: unit for unit in facts.units()}, {unit.name: unit for unit in left.units()}
    whole, tensors = ({tensor.name: tensor for tensor in these.tensors} for these in (facts, left))

    def plan(unit: LayerFacts, tensor: TensorFacts, option: Option) -> StoragePlan | None:
        key = (unit.kind, unit.layout, unit.groups, unit.shape, tensor.dtype, tensor.zeros, option.family, option.label)
        if key not in made:
            made[key] = _planned(unit, DensePlan(tensor.shape, tensor.dtype, zeros=tensor.zeros), option.steps)
        return made[key]

    layers = []
    for layer in profile.layers:
        own = [units[name] for name in layer.layers]
        params = sum(unit.size for unit in own)
        if params == sum(before[name].size for name in layer.layers):
            layers.append(layer)
            continue
        options = []
        for option in layer.options:
            plans = [plan(unit, tensors[unit.weight], option) for unit in own]
            stored = sum(each.bytes for each in plans if each is not None)
            uncut = [plan(before[name], whole[before[name].weight], option) for name in layer.layers]
            stored += max(0, option.bytes - sum(each.bytes for each in uncut if each is not None))  # known beyond plans
            allowed = option.family in WITH_CUTS and None not in plans
            loss = option.loss if allowed else math.inf
            options.append(option.model_copy(update={"bytes": stored, "loss": loss}))
        shape = own[0].shape if layer.shape else ()
        layers.append(layer.model_copy(update={"shape": shape, "params": params, "options": tuple(options)}))
    return profile.model_copy(update={"layers": (*layers, *map(_taken, cuts)), "cuts": ()})


def _taken(cut: Cut) -> LayerOptions:
    option = Option(label=cut.label, family=cut.family, bytes=0, loss=cut.loss)
    return LayerOptions(name=cut.unit, layers=(), kind="other", params=0, options=(option,))


def _planned(unit: LayerFacts, plan: StoragePlan, steps: Sequence[OptionStep]) -> StoragePlan | None:
    """None: one of the steps cannot be done to it."""
    for step in steps:
        found = technique(step.technique)
        try:
            plan = found.plan(unit, plan, found.Settings.model_validate(step.settings))
        except Skip:
            return None
    return plan


def by_unit(profile: ProfileFacts) -> dict[str, list[Cut]]:
    found: dict[str, list[Cut]] = {}
    for cut in profile.cuts:
        found.setdefault(cut.unit, []).append(cut)
    return found


def touched(facts: CheckpointFacts, profile: ProfileFacts, cut: Cut) -> Iterator[str]:
    """The names of the profile's layers whose shape a cut changes. Raises Skip where it cannot be done."""
    sizes = {unit.name: unit.size for unit in cut_facts(facts, [cut]).units()}
    before: Mapping[str, int] = {unit.name: unit.size for unit in facts.units()}
    for layer in profile.layers:
        if any(sizes[name] != before[name] for name in layer.layers):
            yield layer.name

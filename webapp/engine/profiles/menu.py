"""The options of a profile as arrays: what each is predicted to cost, and the bytes of Pare's file that it takes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache, cached_property, lru_cache

import numpy as np

from webapp.engine.facts import CheckpointFacts, LayerFacts
from webapp.engine.techniques import Skip, technique
from webapp.engine.weights import DensePlan, StoragePlan
from webapp.engine.weights.artifact import predicted_size
from webapp.engine.weights.quantized import QuantizedPlan

from .facts import OptionStep, ProfileFacts
from .knapsack import Floats


class Menu:
    """What may be chosen for a checkpoint. A choice names for each layer of the profile one of its options."""

    def __init__(self, profile: ProfileFacts, facts: CheckpointFacts) -> None:
        self.profile, self.facts = profile, facts
        self.known: dict[tuple[object, ...], StoragePlan] = {}  # plans, which menus of one checkpoint may share
        self._sized = lru_cache(64)(self._size)

    @cached_property
    def losses(self) -> Floats:
        """(layers, options) as predicted; infinite where a layer has no more options."""
        return self._table([option.loss for option in layer.options] for layer in self.profile.layers)

    @cached_property
    def bytes(self) -> Floats:
        """(layers, options) of the file, with what its header says of them: exact but for some tens of bytes."""
        total = sum(tensor.bytes for tensor in self.facts.tensors)
        return self._table(
            [
                beyond + sum(plan.bytes + _header(plan, len(name), total) for name, plan in plans.items())
                for beyond, plans in zip(more, stored, strict=True)
            ]
            for more, stored in zip(self._beyond, self.plans, strict=True)
        )

    @cached_property
    def plans(self) -> list[list[dict[str, StoragePlan]]]:
        """How the tensors of each layer are stored under each option, by their names."""
        units, dense = {unit.name: unit for unit in self.facts.units()}, self._dense
        found = self.known

        def stored(unit: LayerFacts, steps: Sequence[OptionStep], key: str) -> StoragePlan:
            before = dense[unit.weight]
            alike = (unit.kind, unit.layout, before, key)
            if alike not in found:
                found[alike] = planned(unit, before, steps)
            return found[alike]

        rows: list[list[dict[str, StoragePlan]]] = []
        for layer in self.profile.layers:
            own = [units[name] for name in layer.layers]
            keyed = [(option.steps, json.dumps([s.model_dump() for s in option.steps])) for option in layer.options]
            plans = [{unit.weight: stored(unit, *steps) for unit in own} for steps in keyed]
            rows.append([_of_size(option.bytes, found) for option, found in zip(layer.options, plans, strict=True)])
        return rows

    @cached_property
    def _dense(self) -> dict[str, StoragePlan]:
        return {each.name: DensePlan(each.shape, each.dtype, zeros=each.zeros) for each in self.facts.tensors}

    def size(self, choice: Iterable[int]) -> int:
        """The file's bytes, exactly; at most, where zeros of the values may save more."""
        return self._sized(tuple(choice))

    def _size(self, choice: tuple[int, ...]) -> int:
        plans, more = dict(self._dense), 0
        for stored, beyond, option in zip(self.plans, self._beyond, choice, strict=True):
            plans |= stored[option]
            more += beyond[option]
        return predicted_size(plans, self.facts.tied, self.facts.architecture)[1] + more

    @cached_property
    def _beyond(self) -> list[list[int]]:
        """What each option takes more than its plan says, where whoever tried it knows of more."""
        return [
            [
                max(0, option.bytes - sum(plan.bytes for plan in plans.values()))
                for option, plans in zip(layer.options, stored, strict=True)
            ]
            for layer, stored in zip(self.profile.layers, self.plans, strict=True)
        ]

    def _table(self, rows: Iterable[Sequence[float]]) -> Floats:
        given = list(rows)
        widest = max((len(row) for row in given), default=0)
        return np.array([[*row, *[np.inf] * (widest - len(row))] for row in given], dtype=np.float64).reshape(
            len(given), widest
        )


def planned(unit: LayerFacts, plan: StoragePlan, steps: Iterable[OptionStep]) -> StoragePlan:
    """How a weight is stored after these steps."""
    for step in steps:
        found = technique(step.technique)
        try:
            plan = found.plan(unit, plan, found.Settings.model_validate(step.settings))
        except Skip:
            continue
    return plan


def in_wide_scales(plan: StoragePlan) -> StoragePlan:
    """With float32 scales in the place of float16's."""
    return plan.mapped(lambda leaf: replace(leaf, scale_dtype="float32") if isinstance(leaf, QuantizedPlan) else leaf)


def _of_size(size: int, plans: dict[str, StoragePlan]) -> dict[str, StoragePlan]:
    """The plans of an option of that many bytes: whoever looked at the values may know that they need wide scales."""
    if sum(plan.bytes for plan in plans.values()) < size:
        wide = {name: in_wide_scales(plan) for name, plan in plans.items()}
        if sum(plan.bytes for plan in wide.values()) == size:
            return wide
    return plans


@cache
def _header(plan: StoragePlan, name: int, total: int) -> int:
    """Bytes of a file's header about a weight with a name of that length, behind `total` bytes of other weights."""
    before = {"": DensePlan((max(total // 8, 1),), "float64")}
    whole, _ = predicted_size({**before, "n" * name: plan}, {}, None)
    rest, _ = predicted_size(before, {}, None)
    return whole - rest

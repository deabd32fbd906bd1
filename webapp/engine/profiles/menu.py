"""The options of a profile as arrays: what each is predicted to cost, and the bytes of the file that it takes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from operator import add

import numpy as np

from webapp.engine.facts import CheckpointFacts, LayerFacts
from webapp.engine.techniques import Skip, technique
from webapp.engine.weights import StoragePlan, stored_plan
from webapp.engine.weights.quantized import QuantizedPlan

from .facts import OptionStep, ProfileFacts
from .file_sizes import OWN, FileSizes
from .knapsack import Floats


@dataclass(frozen=True)
class MenuRow:
    """How the weights of a layer are stored under each of its options, and the bytes of the file that each takes.

    `wide`: with float32 scales in the place of float16's; `beyond`: what it takes more than its plans say. `allowed`:
    whether an option can be chosen; None of all.
    """

    weights: tuple[str, ...]
    plans: tuple[tuple[StoragePlan, ...], ...]
    wide: tuple[bool, ...]
    beyond: tuple[int, ...]
    bytes: tuple[float, ...]
    allowed: tuple[bool, ...] | None = None

    def stored(self, option: int) -> int:
        """The bytes of its weights, without what a header says of them."""
        return sum(plan.bytes for plan in self.plans[option]) + self.beyond[option]


class Menu:
    """What may be chosen for a checkpoint. A choice names for each layer of the profile one of its options.

    `rows`: those of the layers, where they are known. `sizes`: of which file the bytes are.
    """

    def __init__(
        self,
        profile: ProfileFacts,
        facts: CheckpointFacts,
        rows: Sequence[MenuRow] | None = None,
        sizes: FileSizes = OWN,
    ) -> None:
        self.profile, self.facts, self._rows, self.sizes = profile, facts, rows, sizes
        self._sized = lru_cache(64)(self._size)

    @cached_property
    def losses(self) -> Floats:
        """(layers, options) as predicted; infinite where a layer has no more options."""
        rows = []
        for layer, row in zip(self.profile.layers, self.rows, strict=True):
            able = row.allowed or (True,) * len(layer.options)
            rows.append([o.loss if can else np.inf for o, can in zip(layer.options, able, strict=True)])
        return self._table(rows)

    @cached_property
    def bytes(self) -> Floats:
        """(layers, options) of the file, with what its header says of them: exact but for some tens of bytes."""
        return self._table(row.bytes for row in self.rows)

    @cached_property
    def rows(self) -> Sequence[MenuRow]:
        """One for each layer."""
        if self._rows is not None:
            return self._rows
        units, dense = {unit.name: unit for unit in self.facts.units()}, self._dense
        known: dict[tuple[object, ...], StoragePlan] = {}

        def stored(unit: LayerFacts, steps: Sequence[OptionStep], key: str) -> StoragePlan:
            before = dense[unit.weight]
            alike = (unit.kind, unit.layout, before, key)
            if alike not in known:
                known[alike] = planned(unit, before, steps)
            return known[alike]

        rows = []
        for layer in self.profile.layers:
            own = [units[name] for name in layer.layers]
            keyed = [(option.steps, json.dumps([s.model_dump() for s in option.steps])) for option in layer.options]
            usual = [tuple(stored(unit, *steps) for unit in own) for steps in keyed]
            plans = [_of_size(option.bytes, each) for option, each in zip(layer.options, usual, strict=True)]
            wide = tuple(each is not narrow for each, narrow in zip(plans, usual, strict=True))
            sums = [sum(plan.bytes for plan in each) for each in plans]
            beyond = tuple(max(0, option.bytes - each) for option, each in zip(layer.options, sums, strict=True))
            rows.append(self.row(tuple(unit.weight for unit in own), plans, wide, beyond))
        return rows

    def row(
        self,
        weights: tuple[str, ...],
        plans: Sequence[tuple[StoragePlan, ...]],
        wide: tuple[bool, ...],
        beyond: tuple[int, ...],
    ) -> MenuRow:
        """What a layer may be stored as, in a file about as large as this menu's."""
        named = [list(zip(weights, each, strict=True)) for each in plans]
        stored = [sum(self.sizes.weight(plan, len(name), self._total) for name, plan in each) for each in named]
        return MenuRow(weights, tuple(plans), wide, beyond, tuple(map(float, map(add, stored, beyond))))

    @cached_property
    def _total(self) -> int:
        return sum(tensor.bytes for tensor in self.facts.tensors)

    @cached_property
    def _dense(self) -> dict[str, StoragePlan]:
        return {each.name: stored_plan(each) for each in self.facts.tensors}

    def size(self, choice: Iterable[int]) -> int:
        """The file's bytes, exactly; at most, where zeros of the values may save more."""
        return self._sized(tuple(choice), self.sizes)

    def own_size(self, choice: Iterable[int]) -> int:
        """The same of Pare's file."""
        return self._sized(tuple(choice), OWN)

    def _size(self, choice: tuple[int, ...], sizes: FileSizes) -> int:
        plans, more = dict(self._dense), 0
        for row, option in zip(self.rows, choice, strict=True):
            plans.update(zip(row.weights, row.plans[option], strict=True))
            more += row.beyond[option]
        return sizes.file(plans, self.facts) + more

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
            plan = found.plan(unit, plan.opened, found.Settings.model_validate(step.settings))
        except Skip:
            continue
    return plan


def in_wide_scales(plan: StoragePlan) -> StoragePlan:
    """With float32 scales in the place of float16's."""
    return plan.mapped(lambda leaf: replace(leaf, scale_dtype="float32") if isinstance(leaf, QuantizedPlan) else leaf)


def _of_size(size: int, plans: tuple[StoragePlan, ...]) -> tuple[StoragePlan, ...]:
    """The plans of an option of that many bytes: whoever looked at the values may know that they need wide scales."""
    if sum(plan.bytes for plan in plans) < size:
        wide = tuple(map(in_wide_scales, plans))
        if sum(plan.bytes for plan in wide) == size:
            return wide
    return plans

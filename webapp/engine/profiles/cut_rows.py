"""What cuts leave of a profile's layers, their shapes and options: worked out once for all combinations of cuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from webapp.engine.facts import CheckpointFacts, LayerFacts
from webapp.engine.techniques import Skip, technique
from webapp.engine.weights import StoragePlan, stored_plan

from .cuts import WITH_CUTS, cut_facts
from .facts import Cut, LayerOptions, Option, ProfileFacts
from .menu import Menu, MenuRow, in_wide_scales

Shapes = Mapping[str, tuple[int, ...] | None]


@dataclass(frozen=True)
class CutRow:
    """A layer of a profile: its units as cuts leave them, under their old names; `smaller` where one of them did."""

    units: tuple[LayerFacts, ...]
    menu: MenuRow
    smaller: bool


class CutRows:
    """`menu` is that of the whole profile. Layers keep the names that their units have before any cut."""

    def __init__(self, profile: ProfileFacts, facts: CheckpointFacts, menu: Menu) -> None:
        self.profile, self.menu, self.facts = profile, menu, facts
        self._units = {unit.name: unit for unit in facts.units()}
        self._tensors = {tensor.name: tensor for tensor in facts.tensors}
        self._changed: dict[tuple[str, str], Shapes] = {}
        self._touched: dict[tuple[str, str], frozenset[int]] = {}
        self._rows: dict[tuple[object, ...], CutRow | None] = {}
        self._alike: dict[tuple[object, ...], MenuRow] = {}
        self._plans: dict[tuple[object, ...], tuple[StoragePlan | None, ...]] = {}

    def changed(self, cut: Cut) -> Shapes:
        """By name the shape of each unit that this cut alone changes, None of one that leaves; empty: it can't be."""
        key = cut.unit, cut.label
        if key not in self._changed:
            found: dict[str, tuple[int, ...] | None] = {}
            try:
                left = cut_facts(self.facts, [cut])
            except Skip:
                pass
            else:
                weights = {layer.name: layer.weight for layer in left.facts.layers}
                after = {tensor.name: tensor.shape for tensor in left.facts.tensors}
                for name, unit in self._units.items():
                    now = left.names.get(name)
                    shape = None if now is None else after[weights.get(now, now)]
                    if shape != unit.shape:
                        found[name] = shape
            self._changed[key] = found
        return self._changed[key]

    def touched(self, cut: Cut) -> frozenset[int]:
        """The numbers of the layers that a cut changes or takes away."""
        key = cut.unit, cut.label
        if key not in self._touched:
            changed, layers = self.changed(cut), enumerate(self.profile.layers)
            self._touched[key] = frozenset(
                number for number, layer in layers if any(name in changed for name in layer.layers)
            )
        return self._touched[key]

    def row(self, number: int, cuts: Sequence[Cut]) -> CutRow | None:
        """A layer after these cuts; None where nothing is left of it.

        It can be rounded at the loss that it had: what leaves matters least. What else takes values away would take
        the same ones once more, so it is not combined, and neither is what the shape does not allow.
        """
        layer = self.profile.layers[number]
        reaching = [cut for cut in cuts if any(name in self.changed(cut) for name in layer.layers)]
        key = (number, *((cut.unit, cut.label) for cut in reaching))
        if key not in self._rows:
            units = [unit for name in layer.layers if (unit := self._after(self._units[name], reaching)) is not None]
            whole = self.menu.rows[number]
            menu = self._menu_row(layer, units, whole) if reaching and units else whole
            self._rows[key] = CutRow(tuple(units), menu, bool(reaching)) if units else None
        return self._rows[key]

    def layer(self, number: int, row: CutRow) -> LayerOptions:
        """As a profile has it. Its options are as they were: what they take and may lose is told by the menu's row."""
        layer = self.profile.layers[number]
        if not row.smaller:
            return layer
        changes = {
            "layers": tuple(unit.name for unit in row.units),
            "shape": row.units[0].shape if layer.shape else (),
            "params": sum(unit.size for unit in row.units),
        }
        return layer.model_copy(update=changes)

    def _menu_row(self, layer: LayerOptions, units: Sequence[LayerFacts], whole: MenuRow) -> MenuRow:
        by_unit = [self._stored(unit, layer.options) for unit in units]
        lengths = tuple(len(unit.weight) for unit in units)
        key = (tuple(id(stored) for stored in by_unit), lengths, whole.wide, whole.beyond)
        if key not in self._alike:
            plans, allowed = [], []
            for wide, *own in zip(whole.wide, *by_unit, strict=True):
                known = [plan for plan in own if plan is not None]
                allowed.append(len(known) == len(own))
                if len(known) < len(own):
                    known = [self._plain(unit) for unit in units]
                plans.append(tuple(map(in_wide_scales, known)) if wide else tuple(known))
            names = tuple(unit.weight for unit in units)
            self._alike[key] = replace(self.menu.row(names, plans, whole.wide, whole.beyond), allowed=tuple(allowed))
        return replace(self._alike[key], weights=tuple(unit.weight for unit in units))

    def _after(self, unit: LayerFacts, cuts: Sequence[Cut]) -> LayerFacts | None:
        sizes = list(unit.shape)
        for cut in cuts:
            shape = self.changed(cut).get(unit.name, unit.shape)
            if shape is None:
                return None
            sizes = [size - (before - now) for size, before, now in zip(sizes, unit.shape, shape, strict=True)]
        depthwise = unit.kind == "conv" and unit.groups > 1 and unit.groups == unit.shape[0]
        return unit.model_copy(update={"shape": tuple(sizes), "groups": sizes[0] if depthwise else unit.groups})

    def _plain(self, unit: LayerFacts) -> StoragePlan:
        return stored_plan(self._tensors[unit.weight], unit.shape)

    def _stored(self, unit: LayerFacts, options: Sequence[Option]) -> tuple[StoragePlan | None, ...]:
        """Under each option, None where it cannot be had. Layers that are alike are planned once."""
        before = self._plain(unit)
        key = (unit.kind, unit.layout, before, tuple((option.family, option.label) for option in options))
        if key not in self._plans:
            self._plans[key] = tuple(_planned(unit, before, option) for option in options)
        return self._plans[key]


def _planned(unit: LayerFacts, plan: StoragePlan, option: Option) -> StoragePlan | None:
    """None where it does not go with cuts, or one of its steps cannot be done."""
    if option.family not in WITH_CUTS:
        return None
    for step in option.steps:
        found = technique(step.technique)
        try:
            plan = found.plan(unit, plan.opened, found.Settings.model_validate(step.settings))
        except Skip:
            return None
    return plan

"""A choice of options as a recipe: one step for each technique, whose overrides are few and short."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from webapp.engine.facts import CheckpointFacts
from webapp.engine.recipe import LayerPatterns, Recipe, Step
from webapp.engine.techniques import Technique, technique

from .facts import Cut, OptionStep, ProfileFacts
from .patterns import Patterns

FAMILIES = ("Low rank", "Pruning", "Quantization")  # in the order of a recipe: each takes what those before leave


@dataclass
class _Draft:
    """A step to be: the settings of all its layers, and by layer's name those that may differ, both as JSON."""

    technique: Technique
    shared: str
    layers: dict[str, str] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)  # settings that an option names, though they be the usual ones

    @property
    def place(self) -> tuple[int, bool, bool]:
        """Steps that calibrate come before those of their family that do not, and a cast last."""
        family = FAMILIES.index(self.technique.family) if self.technique.family in FAMILIES else len(FAMILIES)
        own = next(iter(self.layers.values()))
        settings = self.technique.Settings.model_validate(json.loads(self.shared) | json.loads(own))
        return family, "other" in self.technique.layers, "calibration" not in self.technique.needs_for(settings)


class RecipeWriter:
    """Writes recipes for one checkpoint."""

    def __init__(self, facts: CheckpointFacts) -> None:
        self.units = facts.units()
        self.patterns = Patterns(self.units)

    def recipe(self, profile: ProfileFacts, choice: Sequence[int]) -> Recipe | None:
        """What gives every layer its option; None where all stay as they are."""
        chosen = [
            (name, layer.options[number])
            for layer, number in zip(profile.layers, choice, strict=True)
            for name in layer.layers
        ]
        return self._written((name, step) for name, option in chosen for step in option.steps)

    def cutting(self, cuts: Iterable[Cut]) -> Recipe | None:
        """What makes these cuts."""
        return self._written((name, cut.step) for cut in cuts for name in cut.layers)

    def _written(self, steps: Iterable[tuple[str, OptionStep]]) -> Recipe | None:
        drafts = sorted(_drafts(steps), key=lambda draft: draft.place)
        return Recipe(steps=tuple(map(self._step, drafts))) if drafts else None

    def _step(self, draft: _Draft) -> Step:
        usual = draft.technique.Settings().model_dump(mode="json")
        common = Counter(draft.layers.values()).most_common(1)[0][0]
        own = json.loads(draft.shared) | json.loads(common)
        overrides: dict[str, dict[str, Any]] = {}
        for pattern, text in self._overriding(draft.layers, common):
            asked = json.loads(text)
            differing = {key: value for key, value in asked.items() if value != (usual | own)[key]}
            overrides[pattern] = differing or {key: value for key, value in asked.items() if key in draft.said}
        return Step(
            technique=draft.technique.name,
            settings={key: value for key, value in own.items() if key in draft.said or value != usual[key]},
            layers=self._layers(draft),
            overrides=overrides,
        )

    def _layers(self, draft: _Draft) -> LayerPatterns:
        reachable = self.patterns.of(unit.name for unit in self.units if unit.kind in draft.technique.layers)
        wanted = self.patterns.of(draft.layers)
        others = reachable & ~wanted
        include, exclude = self.patterns.cover(wanted, others), self.patterns.cover(others, wanted)
        if len(exclude) + 1 < len(include):
            return LayerPatterns(include=("*",), exclude=tuple(exclude))
        return LayerPatterns(include=tuple(include), exclude=())

    def _overriding(self, texts: Mapping[str, str], common: str) -> Iterator[tuple[str, str]]:
        """(pattern, settings) of all that have not the common settings, the last one that matches counting.

        First what most layers of a column have, those named alike but for a number; then whoever differs from that.
        """
        groups: dict[str, list[str]] = {}
        for name, text in texts.items():
            groups.setdefault(text, []).append(name)
        if len(groups) < 2:
            return
        wanted = {text: self.patterns.of(names) for text, names in groups.items()}
        every = self.patterns.of(texts)
        right = {text: every if text == common else 0 for text in wanted}
        for column, pattern in self.patterns.columns(every):
            most = max(wanted, key=lambda text: (wanted[text] & column).bit_count())
            before = sum((wanted[text] & right[text] & column).bit_count() for text in wanted)
            if (wanted[most] & column).bit_count() > before + 1:
                yield pattern, most
                right = {text: bits | column if text == most else bits & ~column for text, bits in right.items()}
        for text, bits in wanted.items():
            for pattern in self.patterns.cover(bits & ~right[text], every & ~bits):
                yield pattern, text


def _drafts(steps: Iterable[tuple[str, OptionStep]]) -> list[_Draft]:
    found: dict[tuple[str, str], _Draft] = {}
    for name, step in steps:
        shared, own = apart(step.technique, json.dumps(step.settings))
        draft = found.setdefault((step.technique, shared), _Draft(technique(step.technique), shared))
        draft.layers[name] = own
        draft.said.update(step.settings)
    return list(found.values())


@lru_cache(4096)
def apart(name: str, settings: str) -> tuple[str, str]:
    """As JSON the settings of a step that its layers share, and those that an override can change, if they count."""
    kind = technique(name).Settings
    whole = kind.model_validate_json(settings).model_dump(mode="json")
    free, parts = kind.per_layer(), (dict[str, Any](), dict[str, Any]())
    for key, value in whole.items():
        extra: Any = kind.model_fields[key].json_schema_extra or {}
        if all(whole[other] == needed for other, needed in extra.get("show_when", {}).items()):
            parts[key in free][key] = value
    shared, own = (json.dumps(part, sort_keys=True) for part in parts)
    return shared, own

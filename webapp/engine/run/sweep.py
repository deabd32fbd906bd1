"""A sweep: a recipe in which settings are ranges or lists, and a technique may be a list, as all that it stands for."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, DecimalException
from typing import Any

from webapp.engine.errors import RecipeInvalid
from webapp.engine.recipe import Recipe
from webapp.engine.techniques import technique_title, techniques

MOST_VARIANTS = 500
NUMBER = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"\s*({NUMBER})\s*\.\.\s*({NUMBER})(?:\s+step\s+({NUMBER}))?\s*\Z")
LOOKS_LIKE_A_RANGE = re.compile(r"\s*[-+]?\.?\d.*\.\.")
LONGEST_RANGE = 80  # characters
HOW = "write it like 0.3..0.8 step 0.1"

Place = tuple[str, ...]  # in a step: ("settings", "bits"), ("overrides", "0", "bits")


@dataclass(frozen=True)
class Axis:
    """What differs between the recipes: a setting of a step, one of its overrides, or its technique."""

    path: str  # "steps.0.settings.sparsity", "steps.1.technique"
    title: str  # "Sparsity", "Step 2, technique"
    values: tuple[Any, ...]  # in the order in which they were asked


@dataclass(frozen=True)
class Variant:
    """One of the recipes, and what it has of each axis: nothing of a setting that its technique does not have."""

    recipe: Recipe
    chosen: Mapping[str, Any] = field(default_factory=dict)  # by the axis' path


@dataclass(frozen=True)
class Sweep:
    axes: tuple[Axis, ...]
    variants: tuple[Variant, ...]  # no two are the same recipe

    def title_of(self, variant: Variant) -> str:
        """ "GPTQ, Bits 4": what it has of each axis."""
        own = variant.chosen
        return ", ".join(shown(axis.path, axis.title, own[axis.path]) for axis in self.axes if axis.path in own)


@dataclass(frozen=True)
class _Way:
    """A step with one technique, and the values of those of its settings that are ranges or lists."""

    step: Mapping[str, Any]
    chosen: Mapping[str, str]  # its technique by the axis' path, where there are several
    values: Mapping[Place, tuple[Any, ...]]


def shown(path: str, title: str, value: Any) -> str:
    """A value of an axis in words: "GPTQ", "Bits 4"."""
    if path.endswith(".technique"):
        return technique_title(value)
    word = ("off", "on")[value] if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else value
    return f"{title} {word}"


def value_at(recipe: Mapping[str, Any], path: str) -> Any:
    """What a run's recipe has of an axis: as it says, or by default; None where its technique has no such setting."""
    _, index, part, *rest = path.split(".", 3)
    steps = recipe["steps"]
    if int(index) >= len(steps):
        return None
    step = steps[int(index)]
    if part == "technique":
        return step["technique"]
    name = rest[0]
    if part == "overrides":
        pattern, _, name = name.rpartition(".")
        rows = step.get("overrides", ())
        given = dict(rows if isinstance(rows, list) else rows.items()).get(pattern, {}) if rows else {}
    else:
        given = step.get("settings", {})
    if name in given:
        return given[name]
    known = techniques().get(step["technique"])
    declared = known.Settings.model_fields.get(name) if known and part == "settings" else None
    return declared.get_default(call_default_factory=True) if declared else None


def numeric_axes(axes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of a study's axes, `{"path", "title", "values"}`, that have numbers only; that of most values first."""
    numeric = [axis for axis in axes if all(is_amount(value) for value in axis["values"])]
    return sorted(numeric, key=lambda axis: -len(axis["values"]))


def is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_sweep(data: Any) -> bool:
    """Whether a recipe, as plain data, has a range or a list anywhere that a run has one value."""
    steps = data.get("steps") if isinstance(data, Mapping) else None
    held = [step for step in steps if isinstance(step, Mapping)] if isinstance(steps, list) else []
    return any(
        isinstance(step.get("technique"), list) or any(_is_varying(raw) for _, raw in _settings(step)) for step in held
    )


def unfold(data: Any) -> Sweep:
    """All recipes that plain data stands for; of a recipe without ranges, that one.

    Raises RecipeInvalid with the field: for a range that cannot be read, and for more than MOST_VARIANTS recipes.
    """
    steps = data.get("steps") if isinstance(data, Mapping) else None
    if not isinstance(steps, list) or not all(isinstance(step, Mapping) for step in steps):
        return Sweep((), (Variant(Recipe.read(data)),))  # which says what is wrong with it
    ways = [list(_ways(step, f"steps.{index}")) for index, step in enumerate(steps)]
    count = math.prod(sum(math.prod(map(len, way.values.values())) for way in each) for each in ways)
    if count > MOST_VARIANTS:
        raise RecipeInvalid(
            f"These ranges make {f'{count:,}' if count < 10**12 else 'far too many'} recipes, and a study has at most "
            f"{MOST_VARIANTS}. Narrow one of them.",
            "steps",
        )
    variants: dict[str, Variant] = {}
    for combination in itertools.product(*(_made(each, f"steps.{index}") for index, each in enumerate(ways))):
        recipe = Recipe.read({**data, "steps": [step for step, _ in combination]})
        chosen = {path: value for _, own in combination for path, value in own.items()}
        variants.setdefault(recipe.digest, Variant(recipe, chosen))
    return Sweep(tuple(_axes(ways)), tuple(variants.values()))


def _ways(step: Mapping[str, Any], where: str) -> Iterator[_Way]:
    """The step once for each of its techniques, with the settings that it has."""
    pairs = step.get("overrides")
    if isinstance(pairs, Mapping):
        step = {**step, "overrides": [[pattern, given] for pattern, given in pairs.items()]}
    if not isinstance(named := step.get("technique"), list):
        yield _Way(step, {}, _values(step, where))
        return
    path, field_names = f"{where}.technique", {}
    for name in _listed(named, path):
        if not isinstance(name, str):
            raise RecipeInvalid(f"`{path}` is a list of techniques' names; {name!r} is none.", path)
        known = techniques().get(name)
        field_names[name] = set(known.Settings.model_fields) if known else None
    everything = set[str]().union(*(names for names in field_names.values() if names is not None))
    for name, names in field_names.items():
        strange = set() if names is None else everything - names  # another one's; what is nobody's will be refused
        own = {**{key: value for key, value in step.items() if key != "version"}, "technique": name}
        if isinstance(settings := step.get("settings"), Mapping):
            own["settings"] = {key: value for key, value in settings.items() if key not in strange}
        if isinstance(rows := step.get("overrides"), list):
            own["overrides"] = [_only(row, strange) for row in rows]
        yield _Way(own, {path: name}, _values(own, where))


def _only(row: Any, strange: set[str]) -> Any:
    if not (isinstance(row, list | tuple) and len(row) == 2 and isinstance(row[1], Mapping)):
        return row
    return [row[0], {key: value for key, value in row[1].items() if key not in strange}]


def _settings(step: Mapping[str, Any]) -> Iterator[tuple[Place, Any]]:
    """Every setting of a step and of its overrides."""
    if isinstance(settings := step.get("settings"), Mapping):
        yield from ((("settings", str(key)), value) for key, value in settings.items())
    rows = step.get("overrides")
    pairs = list(rows.items()) if isinstance(rows, Mapping) else rows if isinstance(rows, list) else []
    for index, pair in enumerate(pairs):
        if isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[1], Mapping):
            yield from ((("overrides", str(index), str(key)), value) for key, value in pair[1].items())


def _is_varying(raw: Any) -> bool:
    return isinstance(raw, list) or (isinstance(raw, str) and LOOKS_LIKE_A_RANGE.match(raw) is not None)


def _values(step: Mapping[str, Any], where: str) -> dict[Place, tuple[Any, ...]]:
    return {
        place: tuple(_expanded(raw, _path(where, step, place))) for place, raw in _settings(step) if _is_varying(raw)
    }


def _path(where: str, step: Mapping[str, Any], place: Place) -> str:
    if place[0] == "settings":
        return f"{where}.settings.{place[1]}"
    return f"{where}.overrides.{step['overrides'][int(place[1])][0]}.{place[2]}"


def _expanded(raw: Any, path: str) -> list[Any]:
    """The values of a list or a range. Raises RecipeInvalid."""
    found: list[Any] = []
    for one in _listed(raw, path) if isinstance(raw, list) else [raw]:
        if isinstance(one, list | dict) or one is None:
            raise RecipeInvalid(f"`{path}` is a list of values; {one!r} is none.", path)
        found += _ranged(one, path) if _is_varying(one) else [one]
    return list({(type(value), value): value for value in found}.values())  # 1, 1.0 and true are not the same


def _listed(given: Sequence[Any], path: str) -> Iterable[Any]:
    if not given:
        raise RecipeInvalid(f"`{path}` is an empty list; name at least one value.", path)
    return dict.fromkeys(given) if all(isinstance(one, str) for one in given) else given


def _ranged(text: str, path: str) -> list[int | float]:
    found = RANGE.match(text) if len(text) <= LONGEST_RANGE else None
    if found is None:
        raise RecipeInvalid(f"`{path}`: {text[:40]!r} is no range; {HOW}.", path)
    whole = all(part is None or part.lstrip("-+").isdecimal() for part in found.groups())
    if found[3] is None and not whole:
        raise RecipeInvalid(f"`{path}`: the range {text.strip()[:40]} has no step; {HOW}.", path)
    try:
        first, last, step = Decimal(found[1]), Decimal(found[2]), Decimal(found[3] or 1)
        if step <= 0 or last < first:
            raise RecipeInvalid(f"`{path}`: a range goes up, by a step above 0; {HOW}.", path)
        if (last - first) / step >= MOST_VARIANTS:
            raise RecipeInvalid(f"`{path}`: this range has more values than can run, {MOST_VARIANTS}.", path)
        count = int((last - first) / step) + 1
        values = [first + index * step for index in range(count)]
    except DecimalException:
        raise RecipeInvalid(f"`{path}`: {text[:40]!r} is no range; {HOW}.", path) from None
    numbers: list[int | float] = [int(value) for value in values] if whole else [float(value) for value in values]
    if not all(map(math.isfinite, numbers)):
        raise RecipeInvalid(f"`{path}`: {text[:40]!r} is no range; {HOW}.", path)
    return numbers


def _made(ways: Sequence[_Way], where: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(a step as a run has it, what it has of each axis)."""
    for way in ways:
        for values in itertools.product(*way.values.values()):
            step: dict[str, Any] = {**way.step}
            chosen: dict[str, Any] = {**way.chosen}
            for place, value in zip(way.values, values, strict=True):
                chosen[_path(where, way.step, place)] = value
                step = _with(step, place, value)
            yield step, chosen


def _with(step: Mapping[str, Any], place: Place, value: Any) -> dict[str, Any]:
    if place[0] == "settings":
        return {**step, "settings": {**step["settings"], place[1]: value}}
    rows = [list(row) for row in step["overrides"]]
    rows[int(place[1])][1] = {**rows[int(place[1])][1], place[2]: value}
    return {**step, "overrides": rows}


def _axes(ways: Sequence[Sequence[_Way]]) -> Iterator[Axis]:
    found: dict[str, tuple[int, str, list[Any]]] = {}  # by path: the step, the title, the values
    for index, each in enumerate(ways):
        where = f"steps.{index}"
        for way in each:
            for path, name in way.chosen.items():
                found.setdefault(path, (index, "Technique", []))[2].append(name)
            for place, values in way.values.items():
                title = _title(way.step, place)
                own = found.setdefault(_path(where, way.step, place), (index, title, []))[2]
                own.extend(value for value in values if value not in own)
    titles = [title for _, title, _ in found.values()]
    for path, (index, title, all_) in found.items():
        if len(all_) > 1:
            full = title if titles.count(title) == 1 else f"Step {index + 1}, {title[:1].lower()}{title[1:]}"
            yield Axis(path, full, tuple(all_))


def _title(step: Mapping[str, Any], place: Place) -> str:
    known = techniques().get(str(step.get("technique")))
    declared = known.Settings.model_fields.get(place[-1]) if known else None
    title = (declared.title if declared else None) or place[-1]
    return title if place[0] == "settings" else f"{title} of {step['overrides'][int(place[1])][0]}"

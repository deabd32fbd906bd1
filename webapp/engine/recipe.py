"""A recipe is a list of steps; a step is a technique with its settings, its layers, and overrides for some of them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from .errors import RecipeInvalid
from .facts import LayerFacts

LARGEST_TEXT = 100_000  # characters of a recipe
MOST_STEPS = 20


class TechniqueSettings(BaseModel):
    """Base of every technique's settings: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def per_layer(cls) -> list[str]:
        """The settings that an override may give some layers another value of."""
        schemas = ((name, field.json_schema_extra) for name, field in cls.model_fields.items())
        return [name for name, extra in schemas if isinstance(extra, dict) and extra.get("per_layer")]


def setting(
    default: Any,
    title: str,
    help: str,
    unit: str = "",
    widget: str = "",
    step: float | None = None,
    show_when: dict[str, Any] | None = None,
    per_layer: bool = False,
    **bounds: Any,
) -> Any:
    """A field of a technique's settings: what the form draws, the API documents and pydantic checks, said once.

    `widget` is that of its kind unless said: a switch, a choice of texts, a number. `per_layer`: an override may give
    some of a step's layers another value.
    """
    kind = "switch" if isinstance(default, bool) else "choice" if isinstance(default, str) else "number"
    extra: dict[str, Any] = {
        "unit": unit,
        "widget": widget or kind,
        "step": step,
        "show_when": show_when,
        "per_layer": per_layer or None,
    }
    shown = {key: value for key, value in extra.items() if value not in (None, "")}
    return Field(default, title=title, description=help, json_schema_extra=shown, **bounds)


class LayerPatterns(BaseModel):
    """Which layers: at least one pattern of `include` matches and none of `exclude`. `*` matches dots too."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    include: tuple[str, ...] = Field(("*",), min_length=1, max_length=200)
    exclude: tuple[str, ...] = Field((), max_length=200)


def _ordered(given: Any) -> Any:
    """A list of [pattern, settings] is taken as the mapping: not every JSON library keeps the order of keys."""
    for key in given if isinstance(given, dict) else ():
        if not isinstance(key, str):
            raise PydanticCustomError("pattern", "{key} is not text; put the pattern in quotes", {"key": repr(key)})
    if not isinstance(given, list):
        return given
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in given):
        raise PydanticCustomError("pairs", "a list of overrides has pairs of a pattern and its settings")
    patterns = [pattern for pattern, _ in given]
    for pattern in patterns:
        if patterns.count(pattern) > 1:
            raise PydanticCustomError("twice", "{pattern} stands twice; remove one of them", {"pattern": repr(pattern)})
    return dict(given)


Overrides = Annotated[dict[str, dict[str, Any]], BeforeValidator(_ordered), Field(max_length=200)]


class Step(BaseModel):
    """`settings` and `overrides` are checked by the technique, in `predict`.

    `overrides`: settings that replace the step's own in the layers that a pattern matches. Only the last pattern that
    matches a layer counts for it, so their order is part of the recipe.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    technique: str = Field(max_length=80)
    version: int | None = None  # of the technique; a stored recipe names it
    settings: dict[str, Any] = Field(default_factory=dict)
    layers: LayerPatterns = Field(default_factory=lambda: LayerPatterns.model_validate({}))
    overrides: Overrides = Field(default_factory=dict)

    def canonical(self) -> dict[str, Any]:
        """Plain data that is the same step however its keys are sorted: overrides are pairs in their order."""
        data = self.model_dump(mode="json")
        return {**data, "overrides": [[pattern, given] for pattern, given in self.overrides.items()]}


NUMBERS = {  # of YAML 1.2 and JSON
    "tag:yaml.org,2002:int": re.compile(r"[-+]?[0-9]+\Z"),
    "tag:yaml.org,2002:float": re.compile(
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z|[-+]?\.inf\Z|\.nan\Z"
    ),
}


class _Loader(yaml.SafeLoader):
    """Reads scalars as YAML 1.2 does: 2:4 and on are text, 1e-3 is a number; the library's own are of YAML 1.1.

    Takes no key twice: YAML forbids it, and the library lets the last one win in silence.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise RecipeInvalid(f"The recipe has a list or a mapping where a name belongs (line {line}).")
            if key.value in keys:
                raise RecipeInvalid(
                    f"The recipe says {key.value!r} twice in one place (line {line}); remove one of them."
                )
            keys.add(str(key.value))
        return super().construct_mapping(node, deep)

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """JSON escapes some characters as two halves. Raises ValueError where one of them stands alone."""
        return str(self.construct_scalar(node)).encode("utf-16", "surrogatepass").decode("utf-16")

    def construct_number(self, node: yaml.ScalarNode) -> int:
        return int(self.construct_scalar(node))  # in tens, where YAML 1.1 takes 010 for eight


class _Dumper(yaml.SafeDumper):
    """Puts text in quotes that would be read as something else, by YAML 1.2 or 1.1."""


_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_text)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)
_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(~|null|Null|NULL|)\Z"), ["~", "n", "N", ""])
for _tag, _written in NUMBERS.items():
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(_tag, _written, list("-+.0123456789"))


class Recipe(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[2] = 2
    steps: tuple[Step, ...] = Field(min_length=1, max_length=MOST_STEPS)

    @model_validator(mode="before")
    @classmethod
    def _upgraded(cls, data: Any) -> Any:
        return upgraded(data)

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """A recipe from YAML or JSON text. Raises RecipeInvalid with a sentence and the field it is about."""
        return cls.read(read_text(text))

    @classmethod
    def read(cls, data: Any) -> Recipe:
        """A recipe from plain data. Raises RecipeInvalid."""
        if not isinstance(data, dict):
            raise RecipeInvalid("A recipe is a mapping with `version: 2` and a list of `steps`.")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise invalid(error, "recipe") from None

    def to_yaml(self) -> str:
        return as_yaml(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """Plain data as JSON has it; what was left at "all layers", and at none that differ, is left out."""
        data = self.model_dump(mode="json", exclude_none=True)
        for step in data["steps"]:
            if step["layers"] == {"include": ["*"], "exclude": []}:
                del step["layers"]
            if not step["overrides"]:
                del step["overrides"]
        return data

    @property
    def digest(self) -> str:
        return hashlib.sha256(
            json.dumps([step.canonical() for step in self.steps], sort_keys=True).encode()
        ).hexdigest()


def read_text(text: str) -> Any:
    """YAML or JSON text of a recipe as plain data. Raises RecipeInvalid with the line."""
    if len(text) > LARGEST_TEXT:
        raise RecipeInvalid(f"The recipe has {len(text):,} characters; at most {LARGEST_TEXT:,} are read.")
    if text.lstrip().startswith("{"):  # JSON may have tabs between its parts, and YAML may not
        text = text.replace("\t", " ")
    if "&" in text or "*" in text:
        refuse_aliases(text)
    try:
        return yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        place = f" (line {where.line + 1}, column {where.column + 1})" if where else ""
        raise RecipeInvalid(f"The recipe is neither YAML nor JSON{place}; check its indentation and quotes.") from None


def as_yaml(data: Any) -> str:
    """Plain data of a recipe as YAML."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def upgraded(data: Any) -> Any:
    """A recipe of version 1, or of none, as version 2: `bits_by_layer` becomes overrides. Raises RecipeInvalid."""
    if not isinstance(data, dict) or data.get("version", 1) != 1 or data.get("version") is True:
        return data
    if not isinstance(steps := data.get("steps"), list | tuple):
        return {**data, "version": 2}
    if "version" in data and any(isinstance(step, dict) and "overrides" in step for step in steps):
        raise RecipeInvalid("A recipe of version 1 has no `overrides`; write `version: 2`.", "version")
    steps = [_without_bits_by_layer(step, f"steps.{index}") for index, step in enumerate(steps)]
    return {**data, "version": 2, "steps": steps}


def _without_bits_by_layer(step: Any, where: str) -> Any:
    settings = step.get("settings") if isinstance(step, dict) and "overrides" not in step else None
    if not isinstance(settings, dict) or not isinstance(text := settings.get("bits_by_layer"), str):
        return step
    overrides: dict[str, dict[str, Any]] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        pattern, _, bits = (piece.strip() for piece in part.rpartition("="))
        if not pattern or not bits.isdecimal():
            raise RecipeInvalid(
                f"{part!r} is not a pattern with its bits; write `overrides` instead, like '*.down_proj': {{bits: 4}}.",
                f"{where}.settings.bits_by_layer",
            )
        overrides.pop(pattern, None)  # said twice: the last counts, and stands last
        overrides[pattern] = {"bits": int(bits)}
    rest = {key: value for key, value in settings.items() if key != "bits_by_layer"}
    return {**step, "settings": rest, "overrides": overrides}


def refuse_aliases(text: str) -> None:
    """YAML aliases can unfold into gigabytes; no recipe needs them."""
    try:
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, yaml.AliasToken):
                raise RecipeInvalid(
                    f"The recipe uses a YAML alias, `*{token.value}` (line {token.start_mark.line + 1}); "
                    "write its value out, and put patterns with a `*` in quotes."
                )
    except yaml.YAMLError:
        return  # safe_load says it better


@contextmanager
def lines_named(given: Any) -> Iterator[None]:
    """Where a recipe was given as lines of text, a RecipeInvalid about a field of it says in which line that stands."""
    try:
        yield
    except RecipeInvalid as error:
        of_lines = isinstance(given, str) and "\n" in given.strip()
        line = line_of(given, error.field) if of_lines and error.field else None
        if line is None:
            raise
        raise RecipeInvalid(f"{error.message.removesuffix('.')} (line {line}).", error.field) from None


def line_of(text: str, field: str) -> int | None:
    """The line, from 1, in which a field such as `steps.1.settings.sparsity` stands, or what should hold it."""
    line, rest = None, field
    node = yaml.compose(text.replace("\t", " "), Loader=yaml.SafeLoader)
    while rest and node is not None:
        children: list[tuple[str, yaml.Node, yaml.Node]] = []
        if isinstance(node, yaml.MappingNode):
            children = [(str(key.value), key, value) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            children = [(str(index), value, value) for index, value in enumerate(node.value)]
        held = [child for child in children if f"{rest}.".startswith(f"{child[0]}.")]
        if not held:
            break
        name, at, node = max(held, key=lambda child: len(child[0]))  # a pattern may hold dots itself
        line, rest = at.start_mark.line + 1, rest[len(name) + 1 :]
    return line


KINDS = {  # pydantic's errors about the kind of what was given, in the words of YAML and JSON
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "tuple_type": "a list",
    "string_type": "text; put it in quotes",
}


def invalid(error: ValidationError, prefix: str) -> RecipeInvalid:
    """The first thing that pydantic found, as a sentence about a field such as `steps.1.settings.sparsity`."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    field = path if prefix == "recipe" else f"{prefix}.{path}" if path else prefix
    given = first["input"]
    shown = f" (it is {json.dumps(given)[:80]})" if given is None or isinstance(given, str | int | float) else ""
    if first["type"] in KINDS:
        return RecipeInvalid(f"`{field}` must be {KINDS[first['type']]}{shown}.", field)
    said = first["msg"].removeprefix("Value error, ")
    what = said[:1].lower() + said[1:]
    if first["type"] == "extra_forbidden":
        return RecipeInvalid(f"`{field}` is not a setting that exists; remove it.", field)
    if first["type"] == "missing":
        return RecipeInvalid(f"`{field}` is missing.", field)
    if first["type"] == "too_short":
        return RecipeInvalid(f"`{field}` is empty; it needs at least {first['ctx']['min_length']} item.", field)
    return RecipeInvalid(f"`{field}`: {what}{shown}.", field)


@lru_cache(4096)  # a recipe may hold thousands, and `fnmatch` itself remembers 256
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))


def matches(layer: LayerFacts, pattern: str) -> bool:
    match = _compiled(pattern).match
    return match(layer.name) is not None or any(match(alias) for alias in layer.aliases)


@dataclass(frozen=True)
class StepSettings:
    """The settings of a step: its `own`, and those of the layers that an override matches."""

    own: Any
    overrides: tuple[tuple[str, Any], ...] = ()  # (pattern, whole settings)

    def of(self, layer: LayerFacts) -> Any:
        """The settings of this layer: of the last pattern that matches it, else the step's own."""
        return next((given for pattern, given in reversed(self.overrides) if matches(layer, pattern)), self.own)


def select_layers(layers: Iterable[LayerFacts], patterns: LayerPatterns) -> list[LayerFacts]:
    """The layers that a step is for. A tied tensor is left alone when any of its names is excluded."""
    return [
        layer
        for layer in layers
        if any(matches(layer, p) for p in patterns.include) and not any(matches(layer, p) for p in patterns.exclude)
    ]

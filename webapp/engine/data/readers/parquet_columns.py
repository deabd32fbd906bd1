"""Which columns of a Parquet file are what: by their types, then by the names that everyone uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from webapp.engine.errors import DatasetRefused

from .questions import ANSWER_NAMES, CHOICE_NAMES, CONTEXT_NAMES, QUESTION_NAMES, holds_questions
from .text import LABEL_NAMES, TEXT_NAMES

LABELS = (*LABEL_NAMES, "y", "fine_label")
VECTORS = ("x", "features", "feature", "embedding", "embeddings", "pixels", "pixel_values", "values", "data")
INDEXES = ("id", "idx", "index", "__index_level_0__")


@dataclass(frozen=True)
class Columns:
    kind: Literal["questions", "images", "arrays", "text"]
    values: list[str]
    label: str | None
    left: list[str]

    @property
    def labels(self) -> list[str]:
        return [self.label] if self.label else []

    @property
    def taken(self) -> str:
        """ "image as image, label as label": for a note."""
        word = {"questions": "question", "images": "image", "arrays": "numbers", "text": "text"}[self.kind]
        shown = ", ".join(self.values[:6]) + (f" and {len(self.values) - 6} more" if len(self.values) > 6 else "")
        return f"{shown} as {word}" + (f", {self.label} as label" if self.label else "")


def choose(schema: Any, filename: str) -> Columns:
    """Raises DatasetRefused that names the columns where it is not clear."""
    import pyarrow.types as types

    def of(fits: Callable[[Any], bool]) -> list[str]:
        return [field.name for field in schema if fits(field.type)]

    names = [str(name) for name in schema.names]
    if len(set(names)) < len(names):
        raise DatasetRefused(f"{filename} has two columns of one name")
    if holds_questions(names):
        wanted = {*CONTEXT_NAMES, *QUESTION_NAMES, *CHOICE_NAMES, *ANSWER_NAMES}
        values = [name for name in names if name.strip().lower() in wanted]
        return Columns("questions", values, None, [name for name in names if name not in values])
    images = of(lambda kind: _binary(kind) or (types.is_struct(kind) and _has_bytes(kind)))
    texts = of(lambda kind: types.is_string(kind) or types.is_large_string(kind))
    whole = of(lambda kind: types.is_integer(kind) or types.is_boolean(kind))
    numbers = [*whole, *of(types.is_floating)]
    vectors = of(lambda kind: _list(kind) and (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)))
    label = _one(LABELS, [*whole, *texts])
    if images:
        if len(images) > 1:
            raise _unclear(filename, images, "hold images; leave one of them in")
        if label is None:
            others = [name for name in [*whole, *texts] if name.lower() not in INDEXES]
            if len(others) > 1:
                raise _unclear(filename, others, "could be the label; call one of them label", images[0])
            label = others[0] if others else None
        return _columns("images", images, label, names)
    texts = [name for name in texts if name != label]
    label = label or _one(LABELS, numbers)
    if texts:
        text = _one(TEXT_NAMES, texts) or (texts[0] if len(texts) == 1 else None)
        if text is None:
            raise _unclear(filename, texts, "hold text; call one of them text")
        return _columns("text", [text], label, names)
    if label is None and not vectors:
        raise _unclear(filename, names, "are there, and none is called text or label; call the label label")
    if vectors:
        vector = _one(VECTORS, vectors) or (vectors[0] if len(vectors) == 1 else None)
        if vector is None:
            raise _unclear(filename, vectors, "hold lists of numbers; call one of them x")
        return _columns("arrays", [vector], label, names)
    values = [name for name in names if name in numbers and name != label and name.lower() not in INDEXES]
    if not values:
        raise _unclear(filename, names, "are there, and none holds text, images or numbers beside the label")
    return _columns("arrays", values, label, names)


def _columns(
    kind: Literal["images", "arrays", "text"], values: list[str], label: str | None, names: list[str]
) -> Columns:
    return Columns(kind, values, label, [name for name in names if name not in (*values, label)])


def _binary(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _has_bytes(kind: Any) -> bool:
    """As the `datasets` library stores an image: {"bytes", "path"}."""
    return any(
        kind.field(index).name == "bytes" and _binary(kind.field(index).type) for index in range(kind.num_fields)
    )


def _list(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _one(known: tuple[str, ...], names: list[str]) -> str | None:
    """The first of the known names that is there."""
    found = {name.strip().lower(): name for name in reversed(names)}
    return next((found[name] for name in known if name in found), None)


def _unclear(filename: str, names: list[str], what: str, beside: str = "") -> DatasetRefused:
    told = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return DatasetRefused(
        f"{filename} has the columns {told or 'none'}{f' beside {beside}' if beside else ''}, which {what}"
    )

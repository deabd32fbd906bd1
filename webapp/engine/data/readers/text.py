"""Text for language models (.txt), and rows of text and label (.csv, .tsv, .jsonl)."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from webapp.engine.data.datasets import LabelledText
from webapp.engine.data.questions import Questions
from webapp.engine.errors import DatasetRefused, is_text, json_fault
from webapp.engine.plugins import Accepted

from .questions import holds_questions, read_questions

TEXT_NAMES = ("text", "sentence", "content", "review", "document", "input")
LABEL_NAMES = ("label", "labels", "class", "category", "target", "sentiment")
PROSE = Accepted((".txt", ".md"), "Plain text", "UTF-8, for language models.")
ROWS = Accepted(
    (".csv", ".tsv", ".jsonl", ".ndjson"),
    "Labelled text",
    "Columns or keys named text and label: a class, or a number.",
)
QUESTIONS = Accepted(
    (".jsonl", ".ndjson"),
    "Multiple-choice questions",
    "question or context, choices and answer, for language models.",
)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
SIZE_LIMIT_BYTES = 2**30
FIELD_LIMIT = 10_000_000  # characters of one text


def read_text(upload: Path, filename: str) -> str:
    """The file as UTF-8, line ends as \\n. Raises DatasetRefused where it is not text."""
    size = upload.stat().st_size
    if size > SIZE_LIMIT_BYTES:
        raise DatasetRefused(f"{filename} is {size} bytes; text is read up to {SIZE_LIMIT_BYTES}: upload a part of it")
    try:
        text = upload.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetRefused(
            f"{filename} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}; convert it to UTF-8"
        ) from error
    if "\0" in text:
        raise DatasetRefused(f"{filename} holds zero bytes, so it is not text; convert it to UTF-8")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise DatasetRefused(f"{filename} holds nothing but white space")
    return text


def read_rows(upload: Path, filename: str, notes: list[str]) -> tuple[LabelledText | Questions, tuple[str, ...] | None]:
    """The rows, and the classes' names in order (None without labels). Raises DatasetRefused that names the line."""
    content, suffix = read_text(upload, filename), Path(filename).suffix.lower()
    if suffix not in (".jsonl", ".ndjson"):
        return labelled(_table_rows(content, filename, suffix), filename, notes)
    _, first = next(json_rows(content, filename))
    if holds_questions(first):
        rows = ((f"line {line} of {filename}", row) for line, row in json_rows(content, filename))
        return read_questions(rows, filename, notes), None
    return labelled(_text_and_label(json_rows(content, filename), filename), filename, notes)


def labelled(
    rows: Iterable[tuple[int, Any, Any]], filename: str, notes: list[str], noun: str = "line"
) -> tuple[LabelledText, tuple[str, ...] | None]:
    """Of (line, text, label or None); `noun` is what a line is called. Raises DatasetRefused that names the line."""
    texts: list[str] = []
    raw: list[Any] = []
    for line, text, label in rows:
        if not isinstance(text, str) or not text.strip():
            raise DatasetRefused(f"{noun} {line} of {filename} has no text")
        texts.append(text)
        raw.append(label)
        if (label is None) != (raw[0] is None):
            raise DatasetRefused(
                f"{noun} {line} of {filename} {'lacks' if label is None else 'has'} a label, unlike {noun} 1"
            )
    if not texts:
        raise DatasetRefused(f"{filename} holds no rows")
    if raw[0] is None:
        return LabelledText(texts, None), None
    labels, names = targets(raw, filename)
    if names is not None:
        notes.append(f"Labels: {', '.join(f'{index} is {name}' for index, name in enumerate(names[:10]))}.")
    return LabelledText(texts, labels), names


def json_rows(content: str, filename: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) of every line that is not empty. Raises DatasetRefused."""
    for line, raw in enumerate(content.split("\n"), 1):
        if not raw.strip():
            continue
        try:
            row = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise DatasetRefused(f"line {line} of {filename} is {json_fault(error)}") from error
        if "\\u" in raw and not _writable(row):
            raise DatasetRefused(
                f"line {line} of {filename} holds half of a character or a zero byte, which is no text; leave it out"
            )
        if not isinstance(row, dict):
            raise DatasetRefused(f'line {line} of {filename} must be an object such as {{"text": "...", "label": 0}}')
        yield line, row


def _writable(row: Any) -> bool:
    told = json.dumps(row, ensure_ascii=False).replace(r"\\", "")  # a backslash itself
    return is_text(told) and r"\u0000" not in told


def _text_and_label(rows: Iterable[tuple[int, dict[str, Any]]], filename: str) -> Iterator[tuple[int, Any, Any]]:
    for line, row in rows:
        text, label = columns([str(key) for key in row], f"line {line} of {filename}")
        yield line, row[text], row[label] if label is not None else None


def _table_rows(content: str, filename: str, suffix: str) -> Iterator[tuple[int, Any, Any]]:
    csv.field_size_limit(FIELD_LIMIT)
    header = content.split("\n", 1)[0]
    delimiter = "\t" if suffix == ".tsv" else ";" if header.count(";") > header.count(",") else ","
    reader = csv.reader(io.StringIO(content), delimiter=delimiter, strict=True)
    try:
        names = next(reader)
        text, label = columns(names, f"the header of {filename}")
        places = names.index(text), names.index(label) if label is not None else None
        for row in reader:
            if not row:
                continue
            if len(row) != len(names):
                raise DatasetRefused(
                    f"line {reader.line_num} of {filename} has {len(row)} columns; its header has {len(names)}"
                )
            yield reader.line_num, row[places[0]], row[places[1]].strip() if places[1] is not None else None
    except csv.Error as error:
        raise DatasetRefused(f"line {reader.line_num} of {filename} is not valid CSV: {error}") from error


def columns(names: list[str], where: str) -> tuple[str, str | None]:
    """The names of the text's and the label's column. Raises DatasetRefused where there is no text."""
    known = {name.strip().lower(): name for name in names}
    text = next((known[name] for name in TEXT_NAMES if name in known), None)
    if text is None:
        raise DatasetRefused(
            f"{where} has {', '.join(names[:6]) or 'nothing'}; it needs a column called text (and label)"
        )
    return text, next((known[name] for name in LABEL_NAMES if name in known), None)


def numbered(raw: list[Any], filename: str) -> tuple[list[int], tuple[str, ...]]:
    """Class numbers and names: numbers are kept as they are, names are numbered in sorted order.

    Raises DatasetRefused.
    """
    if any(isinstance(label, float | list | dict) for label in raw):
        raise DatasetRefused(f"{filename} has labels that are neither whole numbers nor names")
    as_text = [str(int(label)) if isinstance(label, bool) else str(label) for label in raw]
    if all(label.isascii() and label.isdigit() and len(label) < 6 for label in as_text):
        numbers = [int(label) for label in as_text]
        return numbers, tuple(str(index) for index in range(max(numbers) + 1))
    if "" in as_text:
        raise DatasetRefused(f"row {as_text.index('') + 1} of {filename} has an empty label")
    names = sorted(set(as_text))
    if _too_many(names, raw):
        raise DatasetRefused(f"{filename} has {len(names)} different labels in {len(raw)} rows: that is no class label")
    index = {name: number for number, name in enumerate(names)}
    return [index[label] for label in as_text], tuple(names)


def targets(raw: list[Any], filename: str) -> tuple[list[int] | list[float], tuple[str, ...] | None]:
    """As `numbered`, but numbers that are no class numbers (fractions, or too many of them) are kept, without names.

    Raises DatasetRefused.
    """
    try:
        found = [float(label) for label in raw]
    except (TypeError, ValueError, OverflowError):
        return numbered(raw, filename)
    if any(isinstance(label, str) and not NUMBER.fullmatch(label.strip()) for label in raw):
        return numbered(raw, filename)
    for row, number in enumerate(found, 1):
        if not math.isfinite(number):
            raise DatasetRefused(f"row {row} of {filename} has the label {raw[row - 1]}, which is no finite number")
    fractions = any(number != math.floor(number) for number in found)
    distinct = set(found)
    if fractions or (_too_many(distinct, raw) and not all(0 <= number < 10**5 for number in distinct)):
        return found, None
    return numbered([int(label) if isinstance(label, float) else label for label in raw], filename)


def _too_many(distinct: Collection[Any], raw: list[Any]) -> bool:
    return len(distinct) > len(raw) // 2 and len(distinct) > 100

"""A Parquet file: text, text and label, images and label, numbers and label, or questions, by its columns.

Read by row groups, a thousand rows at a time. What the footer declares is held against the file before anything of that
size is allocated, and what comes is counted as it comes.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from webapp.engine.data.datasets import Arrays, LabelledText, SampleSet, Text
from webapp.engine.data.images import ImageBomb, Images, ImageUnread
from webapp.engine.errors import DatasetRefused, some
from webapp.engine.lazy import torch
from webapp.engine.plugins import Accepted
from webapp.engine.progress import Report

from .images import mixed, note_unread, pixel_digest
from .questions import (
    ANSWER_NAMES,
    CHOICE_NAMES,
    CONTEXT_NAMES,
    QUESTION_NAMES,
    holds_questions,
    read_questions,
)
from .text import LABEL_NAMES, TEXT_NAMES, labelled, numbered, targets

ACCEPTS = Accepted((".parquet",), "Parquet", "Any of these as columns; images as {bytes, path}.")
ROWS_AT_ONCE = 1000
MOST_ROWS = 10_000_000
MOST_BYTES = 4 * 2**30  # of what is read, decoded
CHUNK_LIMIT_BYTES = 2**31  # of one column in one row group, decoded
THRIFT_LIMIT_BYTES = 100_000_000
LABELS = (*LABEL_NAMES, "y", "fine_label")
VECTORS = ("x", "features", "feature", "embedding", "embeddings", "pixels", "pixel_values", "values", "data")
INDEXES = ("id", "idx", "index", "__index_level_0__")

Read = tuple[SampleSet, None, tuple[str, ...] | None]


@dataclass
class Table:
    """The open file; `rows` gives chosen columns as Python objects, `batches` as they are."""

    file: Any
    filename: str

    @property
    def count(self) -> int:
        return int(self.file.metadata.num_rows)

    def batches(self, columns: list[str]) -> Iterator[Any]:
        """Raises DatasetRefused where the file is damaged, or holds other than it declares."""
        import pyarrow

        seen = size = 0
        try:
            for batch in self.file.iter_batches(ROWS_AT_ONCE, columns=columns):
                seen, size = seen + batch.num_rows, size + batch.nbytes
                if size > MOST_BYTES:
                    raise DatasetRefused(
                        f"{self.filename} holds more than {MOST_BYTES:,} bytes in {', '.join(columns[:4])}; "
                        "upload a part of it"
                    )
                if seen > self.count:
                    break
                yield batch
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise DatasetRefused(f"{self.filename} is damaged: {_first_line(error)}; write it again") from error
        if seen != self.count:
            raise DatasetRefused(f"{self.filename} declares {self.count:,} rows and holds {seen:,}; write it again")

    def rows(self, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """(number from 1, row). Raises DatasetRefused."""
        number = 0
        for batch in self.batches(columns):
            try:
                rows = batch.to_pylist()
            except UnicodeDecodeError as error:
                raise DatasetRefused(
                    f"{self.filename} holds bytes that are not UTF-8 in a column of text, from row {number + 1} on"
                ) from error
            for row in rows:
                number += 1
                yield number, row


def read_parquet(upload: Path, filename: str, notes: list[str], scratch: Path, report: Report) -> Read:
    """(all of it, None, class names). Raises DatasetRefused that names the columns or the row."""
    table = _opened(upload, filename)
    chosen = choose(table.file.schema_arrow, filename)
    notes.append(f"Taken: {chosen.taken}.")
    if chosen.left:
        notes.append(f"Not used: {some(chosen.left, 8)}.")
    names = _class_names(table, chosen)
    if chosen.kind == "questions":
        rows = ((f"row {number} of {filename}", row) for number, row in table.rows(chosen.values))
        return read_questions(rows, filename, notes), None, None
    if chosen.kind == "images":
        return _images(table, chosen, names, notes, scratch, report)
    if chosen.kind == "arrays":
        return _arrays(table, chosen, names)
    return _text(table, chosen, names, notes)


def _opened(upload: Path, filename: str) -> Table:
    import pyarrow
    import pyarrow.parquet

    size = upload.stat().st_size
    try:
        file = pyarrow.parquet.ParquetFile(
            upload, thrift_string_size_limit=THRIFT_LIMIT_BYTES, thrift_container_size_limit=1_000_000
        )
        about = file.metadata
        groups = [about.row_group(index) for index in range(about.num_row_groups)]
        parts = [group.column(index) for group in groups for index in range(group.num_columns)]
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DatasetRefused(f"{filename} is a damaged Parquet file: {_first_line(error)}; write it again") from error
    if about.num_rows != sum(group.num_rows for group in groups) or any(group.num_rows < 0 for group in groups):
        raise DatasetRefused(f"{filename} declares {about.num_rows:,} rows, and its row groups others; write it again")
    if about.num_rows == 0:
        raise DatasetRefused(f"{filename} holds no rows")
    if about.num_rows > MOST_ROWS:
        raise DatasetRefused(f"{filename} declares {about.num_rows:,} rows; at most {MOST_ROWS:,} are read")
    for part in parts:
        start = part.dictionary_page_offset if part.has_dictionary_page else part.data_page_offset
        if start < 0 or part.total_compressed_size < 0 or start + part.total_compressed_size > size:
            raise DatasetRefused(
                f"{filename} declares {part.total_compressed_size:,} bytes of {part.path_in_schema} at {start:,} "
                f"and has {size:,} bytes in all; it was cut short or damaged"
            )
        if not 0 <= part.total_uncompressed_size <= CHUNK_LIMIT_BYTES:
            raise DatasetRefused(
                f"{filename} declares {part.total_uncompressed_size:,} bytes of {part.path_in_schema} in one row "
                f"group; at most {CHUNK_LIMIT_BYTES:,} are read: write it with smaller row groups"
            )
    return Table(file, filename)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")[:200]


def _class_names(table: Table, chosen: Columns) -> tuple[str, ...] | None:
    """What the `datasets` library noted about the label: the names of its numbers."""
    noted = (table.file.schema_arrow.metadata or {}).get(b"huggingface")
    try:
        names = json.loads(noted)["info"]["features"][chosen.label]["names"] if noted else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return tuple(names) if isinstance(names, list) and names and all(isinstance(n, str) for n in names) else None


def _named(labels: Sequence[float], found: tuple[str, ...], told: tuple[str, ...] | None) -> tuple[str, ...]:
    """The told names where the labels are numbers among them."""
    return told if told is not None and found[0].isdigit() and max(labels) < len(told) else found


def _text(table: Table, chosen: Columns, told: tuple[str, ...] | None, notes: list[str]) -> Read:
    column, label = chosen.values[0], chosen.label
    if label is None:
        rows = (row[column] for _, row in table.rows([column]))
        text = "\n\n".join(part.strip("\n") for part in rows if isinstance(part, str) and part.strip())
        if not text:
            raise DatasetRefused(f"{table.filename} holds nothing but white space in {column}")
        return Text(text.replace("\r\n", "\n").replace("\0", "")), None, None
    triples = ((number, row[column], row[label]) for number, row in table.rows([column, label]))
    samples, names = labelled(triples, table.filename, notes, "row")
    if samples.labels is not None and names is not None:
        names = _named(samples.labels, names, told)
    return LabelledText(samples.texts, samples.labels), None, names


def _complete(raw: list[Any], chosen: Columns, table: Table) -> list[Any]:
    if None in raw:
        raise DatasetRefused(f"row {raw.index(None) + 1} of {table.filename} has no {chosen.label}")
    return raw


def _arrays(table: Table, chosen: Columns, told: tuple[str, ...] | None) -> Read:
    parts = []
    raw: list[Any] = []
    for batch in table.batches([*chosen.values, *chosen.labels]):
        columns = [_numbers(batch.column(name), name, table.filename) for name in chosen.values]
        parts.append(columns[0] if columns[0].ndim > 1 else np.stack(columns, axis=1))
        raw += batch.column(chosen.label).to_pylist() if chosen.label else ()
        if parts[-1].shape[1:] != parts[0].shape[1:]:
            raise DatasetRefused(f"{chosen.values[0]} in {table.filename} has rows of different lengths")
    x = torch.from_numpy(np.concatenate(parts))
    if chosen.label is None:
        return Arrays(x, None), None, None
    labels, names = targets(_complete(raw, chosen, table), table.filename)
    y = torch.tensor(labels, dtype=torch.float64 if names is None else torch.int64)
    return Arrays(x, y), None, _named(labels, names, told) if names is not None else None


def _numbers(column: Any, name: str, filename: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(rows,) or (rows, length) float32. Raises DatasetRefused for missing or infinite values."""
    values = column.to_pylist()
    try:
        found = np.array(values, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise DatasetRefused(f"{name} in {filename} has rows of different lengths, or without a number") from error
    if not np.isfinite(found).all():
        raise DatasetRefused(f"{name} in {filename} holds missing, NaN or infinite values")
    return found


def _images(
    table: Table, chosen: Columns, told: tuple[str, ...] | None, notes: list[str], scratch: Path, report: Report
) -> Read:
    column, place = chosen.values[0], scratch / "images.zip"
    raw: list[Any] = []
    digests: dict[str, str] = {}
    unread: list[str] = []
    with zipfile.ZipFile(place, "w") as archive:
        for number, row in table.rows([column, *chosen.labels]):
            content, where = row[column], f"row {number}"
            content = content.get("bytes") if isinstance(content, dict) else content
            try:
                if not content:
                    raise ImageUnread("has no bytes (its image may lie in a file beside, which is not read)")
                digests[f"{number}"] = pixel_digest(content)
            except ImageBomb as bomb:
                raise DatasetRefused(f"{where} of {table.filename} {bomb}; make it smaller") from bomb
            except ImageUnread as error:
                unread.append(f"{where} {error}")
                continue
            archive.writestr(f"{number}", content)
            raw += [row[label] for label in chosen.labels]
            if number % 100 == 0:
                report.progress(0.05 + 0.5 * number / table.count, f"Decoding image {number:,} of {table.count:,}")
    note_unread(unread, len(unread) + len(digests), table.filename, notes)
    if chosen.label is None:
        order = mixed([(0, name) for name in digests])
        return Images(zipfile.ZipFile(place), order, None, [digests[n] for n in order]), None, None
    labels, names = numbered(_complete(raw, chosen, table), table.filename)
    label = dict(zip(digests, labels, strict=True))
    if len(set(labels)) < 2:
        raise DatasetRefused(f"{table.filename} holds images of one class, {raw[0]}; it takes two")
    order = mixed([(label[name], name) for name in digests])
    samples = Images(zipfile.ZipFile(place), order, [label[n] for n in order], [digests[n] for n in order])
    return samples, None, _named(labels, names, told)


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
        return f"{some(self.values, 6)} as {word}" + (f", {self.label} as label" if self.label else "")


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
    there = f"{some(names, 8) or 'none'}{f' beside {beside}' if beside else ''}"
    return DatasetRefused(f"{filename} has the columns {there}, which {what}")

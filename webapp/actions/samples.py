"""What a run kept of each sample that evaluates: counted, filtered, and a page of them at a time, the worst first."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np

from webapp.engine.run.sample_answers import (
    ABOUT,
    BOTH_RIGHT,
    BOTH_WRONG,
    CHANGED,
    OUTCOMES,
    SAME,
    TO_RIGHT,
    TO_WRONG,
)
from webapp.store.files import FileStore
from webapp.store.models import SAMPLES, Run

from .errors import NotFound, RequestInvalid

PAGE = 24  # samples
PAGE_OF_CHUNKS = 4  # of text, with hundreds of tokens each
MOST_CLASSES = 40  # of a confusion matrix: those that the result gets wrong most
OUTCOME_TITLES = {
    TO_WRONG: "Now wrong",
    TO_RIGHT: "Now right",
    BOTH_WRONG: "Wrong both times",
    BOTH_RIGHT: "Right both times",
    CHANGED: "Answered otherwise",
    SAME: "Answered alike",
}
COLOURED_BY = {
    "gained": "the loss it gained",
    "result": "its loss in the result",
    "original": "its loss in the original",
}
ANSWERS = ("outcome", "label", "original_class", "result_class", "distance")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class SampleFilter:
    """All that the address says. Classes are the model's numbers; `after` is the rank of the last that was shown."""

    outcome: str = ""
    label: int | None = None
    original: int | None = None  # the class that the original answered
    result: int | None = None
    distance: float | None = None  # at least
    after: int = -1
    colour: str = "gained"  # of tokens

    @classmethod
    def read(cls, query: Mapping[str, str]) -> SampleFilter:
        """Raises RequestInvalid with the parameter that cannot be read."""
        found: dict[str, Any] = {}
        for each in fields(cls):
            given = query.get(each.name, "").strip()
            if given == "":
                continue
            kind = str if each.name in ("outcome", "colour") else float if each.name == "distance" else int
            try:
                found[each.name] = kind(given)
            except ValueError:
                raise RequestInvalid(f"{each.name}={given[:40]!r} is not a number.", each.name) from None
        asked = cls(**found)
        for name, known in (("outcome", ("", *OUTCOMES)), ("colour", (*COLOURED_BY,))):
            if getattr(asked, name) not in known:
                given = getattr(asked, name)[:40]
                raise RequestInvalid(
                    f"{name}={given!r} is not known: use one of {', '.join(filter(None, known))}.", name
                )
        if asked.distance is not None and not math.isfinite(asked.distance):
            raise RequestInvalid("distance has to be a finite number.", "distance")
        return asked

    def query(self, **changes: Any) -> str:
        """The address' query with changes, from the first sample on; what is as by default is left out."""
        now = {each.name: getattr(self, each.name) for each in fields(self)} | {"after": -1} | changes
        return urlencode({each.name: now[each.name] for each in fields(self) if now[each.name] != each.default})

    @property
    def narrows(self) -> bool:
        return bool(self.outcome) or any(
            value is not None for value in (self.label, self.original, self.result, self.distance)
        )

    def chosen(self, columns: Mapping[str, Array]) -> Array:
        """(samples,) whether each is asked for."""
        found = np.ones(len(columns["distance"]), bool)
        named = {"outcome": "outcome", "label": "label", "original": "original_class", "result": "result_class"}
        for name, column in named.items():
            if (value := getattr(self, name)) not in ("", None):
                found &= columns[column] == value if column in columns else False
        if self.distance is not None:
            found &= np.nan_to_num(columns["distance"], nan=np.inf) >= self.distance
        return found


@dataclass(frozen=True)
class SampleRow:
    """A sample, with what there is of it; `picture` is a data: address. `rank` 0 is the worst."""

    rank: int
    index: int
    distance: float | None
    outcome: str | None = None
    label: int | None = None
    original_class: int | None = None
    original_confidence: float | None = None
    result_class: int | None = None
    result_confidence: float | None = None
    target: list[float] | None = None
    original_answer: list[float] | None = None
    result_answer: list[float] | None = None
    text: str | None = None
    choices: list[str] | None = None
    numbers: list[float] | None = None
    picture: str | None = None
    tokens: list[str] | None = None
    original_loss: list[float | None] | None = None
    result_loss: list[float | None] | None = None

    @property
    def kept(self) -> bool:
        """Whether the sample itself can be shown."""
        return any(value is not None for value in (self.text, self.numbers, self.picture, self.tokens))

    def coloured(self, by: str) -> list[TokenLoss]:
        """Its tokens, with how bad each is from 0 to 6; what is gained is bad, what is won back is -1."""
        if self.tokens is None or self.original_loss is None or self.result_loss is None:
            return []
        rows = zip(self.tokens, self.original_loss, self.result_loss, strict=True)
        return [TokenLoss.of(text, was, now, by) for text, was, now in rows]

    def worst_tokens(self, by: str, most: int = 5) -> list[TokenLoss]:
        known = [token for token in self.coloured(by) if token.value is not None]
        return sorted(known, key=lambda token: -(token.value or 0.0))[:most]


LEVELS = {"gained": (0.1, 0.25, 0.5, 1.0, 2.0, 4.0), "result": (0.5, 1.0, 2.0, 4.0, 6.0, 9.0)}  # nats: from where on


@dataclass(frozen=True)
class TokenLoss:
    """A token with both losses in nats; None of the first of a chunk. `value` is what it is coloured by."""

    text: str
    original: float | None
    result: float | None
    value: float | None
    level: int

    @classmethod
    def of(cls, text: str, original: float | None, result: float | None, by: str) -> TokenLoss:
        if original is None or result is None:
            return cls(text, original, result, None, 0)
        value = {"gained": result - original, "result": result, "original": original}[by]
        ends = LEVELS.get(by, LEVELS["result"])
        level = sum(value >= end for end in ends) if math.isfinite(value) else len(ends)
        return cls(text, original, result, value, -1 if value <= -ends[0] else level)


@dataclass(frozen=True)
class ClassCounts:
    """Of the samples of one class; `mistaken` is the class that the result takes most of its mistakes for."""

    label: int
    name: str
    n: int
    original_right: int
    result_right: int
    to_wrong: int
    to_right: int
    mistaken: int | None


@dataclass(frozen=True)
class Confusion:
    """`matrix[i][j]` samples of class `classes[i]` were taken for `classes[j]` by `side`.

    Without labels the rows are what the original answered.
    """

    side: str
    classes: list[int]
    matrix: list[list[int]]
    left_out: int  # classes that there is no room for


@dataclass(frozen=True)
class KeptSamples:
    """What a run kept, opened. `columns` are those of ANSWERS that it has, by rank."""

    about: dict[str, Any]
    columns: dict[str, Array]
    file: Any = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> KeptSamples:
        """Raises NotFound where it is of a version that is not read here."""
        import pyarrow.parquet  # 40 MB, for pages that are seldom

        file = pyarrow.parquet.ParquetFile(path)
        about = json.loads(file.metadata.metadata[ABOUT])
        if about["version"] != 1:
            raise NotFound("What this run kept of its samples was written by another version of Pare. Fork it.")
        names = [name for name in ANSWERS if name in file.schema_arrow.names]
        table = file.read(columns=names, use_threads=False)
        return cls(about, {name: table[name].to_numpy() for name in names}, file)

    def name_of(self, number: int | None) -> str:
        """Of a class, by its number."""
        if number is None:
            return "no number"
        names = self.about["classes"]
        return str(names[number]) if names and 0 <= number < len(names) else str(number)

    @property
    def outcomes(self) -> dict[str, int]:
        """Samples of each outcome that there is, in the order of OUTCOMES; empty where samples have none."""
        found = self.columns.get("outcome")
        counts = {} if found is None else {name: int((found == name).sum()) for name in OUTCOMES}
        of = (TO_WRONG, TO_RIGHT, BOTH_WRONG, BOTH_RIGHT) if "label" in self.columns else (CHANGED, SAME)
        return {name: counts[name] for name in of} if counts else {}

    def rows(self, ranks: Sequence[int]) -> list[SampleRow]:
        """Of these ranks, which rise; only the row groups that they lie in are read."""
        about = self.file.metadata
        starts = [0]
        for group in range(about.num_row_groups):
            starts.append(starts[-1] + about.row_group(group).num_rows)
        names = [each.name for each in fields(SampleRow) if each.name in self.file.schema_arrow.names]
        found = []
        for group, (start, end) in enumerate(pairwise(starts)):
            if own := [rank for rank in ranks if start <= rank < end]:
                table = self.file.read_row_group(group, columns=names, use_threads=False)
                for rank, row in zip(own, table.take([rank - start for rank in own]).to_pylist(), strict=True):
                    picture = _address(row["picture"]) if row.get("picture") else None
                    found.append(SampleRow(rank=rank, **row | {"picture": picture}))
        return found

    def classes(self) -> list[ClassCounts]:
        """The table by class, those that lost most first; empty where samples have no labels of classes."""
        if self.about["kind"] != "classes" or "label" not in self.columns:
            return []
        label, outcome, result = (self.columns[name] for name in ("label", "outcome", "result_class"))
        found = []
        for number in np.unique(label):
            own = outcome[label == number]
            counts = {name: int((own == name).sum()) for name in (TO_WRONG, TO_RIGHT, BOTH_RIGHT)}
            wrong = result[(label == number) & (result != number)]
            taken, times = np.unique(wrong[~_lost(wrong)], return_counts=True)
            found.append(
                ClassCounts(
                    label=int(number),
                    name=self.name_of(int(number)),
                    n=len(own),
                    original_right=counts[TO_WRONG] + counts[BOTH_RIGHT],
                    result_right=counts[TO_RIGHT] + counts[BOTH_RIGHT],
                    to_wrong=counts[TO_WRONG],
                    to_right=counts[TO_RIGHT],
                    mistaken=int(taken[times.argmax()]) if len(taken) else None,
                )
            )
        return sorted(found, key=lambda row: (row.result_right - row.original_right, row.label))

    def confusions(self) -> list[Confusion]:
        """Of original and result beside the labels; without labels, of the result beside the original."""
        if self.about["kind"] != "classes":
            return []
        original, result = self.columns["original_class"], self.columns["result_class"]
        label = self.columns.get("label")
        sides = (
            {"result": (original, result)}
            if label is None
            else {"original": (label, original), "result": (label, result)}
        )
        rows, columns = sides["result"]
        numbers = np.unique(np.concatenate([each[~_lost(each)] for pair in sides.values() for each in pair]))
        wrong = [int(((rows == number) ^ (columns == number)).sum()) for number in numbers]
        most = np.argsort([-count for count in wrong], kind="stable")[:MOST_CLASSES]
        shown = np.sort(numbers[most]).astype(int)
        return [
            Confusion(side, shown.tolist(), _matrix(*pair, shown), len(numbers) - len(shown))
            for side, pair in sides.items()
        ]


def _lost(classes: Array) -> Array:
    return np.isnan(classes.astype(float))


def _matrix(rows: Array, columns: Array, shown: Array) -> list[list[int]]:
    place = {int(number): at for at, number in enumerate(shown)}
    found = np.zeros((len(shown), len(shown)), int)
    inside = np.isin(rows, shown) & np.isin(columns, shown)
    pairs, times = np.unique(np.stack([rows[inside], columns[inside]], 1), axis=0, return_counts=True)
    for (row, column), count in zip(pairs, times, strict=True):
        found[place[int(row)], place[int(column)]] = count
    return found.tolist()


def _address(content: bytes) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


@dataclass(frozen=True)
class SamplesPage:
    """`matching` samples are as asked; `next` is the `after` of the page that follows, None on the last."""

    kept: KeptSamples
    view: SampleFilter
    matching: int
    rows: list[SampleRow]
    next: int | None


def why_no_samples(run: Run) -> str | None:
    """Why the run has none to show, as sentences; None where it has."""
    if any(artifact.format == SAMPLES and artifact.digest for artifact in run.artifacts):
        return None
    if run.receipt is None:
        return f"The run is {run.state}. What was answered to each sample is kept once it has succeeded."
    if why := (run.result or {}).get("metrics_unavailable"):
        return f"Nothing was measured on samples. {why}"
    return "This run was made before Pare kept what is answered to each sample. Fork it to measure it again."


def open_samples(files: FileStore, run: Run) -> KeptSamples:
    """Raises NotFound with why there is none, and FileMissing where the store lost it."""
    if why := why_no_samples(run):
        raise NotFound(why)
    artifact = next(each for each in run.artifacts if each.format == SAMPLES)
    assert artifact.digest is not None
    return KeptSamples.open(files.path(artifact.digest))


def samples_page(files: FileStore, run: Run, view: SampleFilter, limit: int | None = None) -> SamplesPage:
    """Raises as `open_samples`."""
    kept = open_samples(files, run)
    ranks = np.flatnonzero(view.chosen(kept.columns))
    left = ranks[ranks > view.after]
    size = limit or (PAGE_OF_CHUNKS if kept.about["kind"] == "tokens" else PAGE)
    shown = left[:size].tolist()
    return SamplesPage(kept, view, len(ranks), kept.rows(shown), shown[-1] if len(left) > size else None)


def sample_of(files: FileStore, run: Run, rank: int) -> SampleRow:
    """Raises NotFound, also as `open_samples`."""
    kept = open_samples(files, run)
    if not 0 <= rank < kept.about["n"]:
        raise NotFound(f"The run {run.name} has no sample of rank {rank}; they are 0 to {kept.about['n'] - 1}.")
    return kept.rows([rank])[0]

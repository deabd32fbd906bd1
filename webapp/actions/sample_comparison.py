"""Which samples which run loses: samples × runs, those on which the runs differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from webapp.engine.run.sample_answers import BOTH_RIGHT, SAME, TO_RIGHT
from webapp.store.errors import FileMissing
from webapp.store.files import FileStore
from webapp.store.models import Run

from .errors import NotFound, RequestInvalid
from .samples import KeptSamples, SampleRow, open_samples

MOST_RUNS = 50
ROWS = 30  # of a page


@dataclass(frozen=True)
class ComparedRun:
    """`lost` samples it answers wrongly (without labels, otherwise than the original), `alone` of them no other run."""

    run: Run
    lost: int | None
    alone: int | None


@dataclass(frozen=True)
class ComparedSample:
    """`cells`, one for each run: whether it loses the sample, or its distance where none is right or wrong."""

    index: int
    cells: list[Any]
    sample: SampleRow


@dataclass(frozen=True)
class SampleComparison:
    """`differ` of `n` samples are not alike in all runs; `next` is the `after` of the next page."""

    kept: KeptSamples  # of the first run
    runs: list[ComparedRun]
    notes: list[str]  # sentences on runs that are left out
    decided: bool  # whether cells are yes or no
    n: int
    differ: int
    rows: list[ComparedSample]
    next: int | None


def compare_samples(files: FileStore, runs: Sequence[Run], lost_by: str = "", after: int = -1) -> SampleComparison:
    """Those that most runs lose first; of distances, those where they lie furthest apart. `lost_by`: a run's id.

    Raises RequestInvalid for `lost_by` that is none of them, NotFound where no run kept samples.
    """
    opened, notes = _opened(files, runs[:MOST_RUNS])
    if len(runs) > MOST_RUNS:
        notes.append(f"Of {len(runs)} runs the first {MOST_RUNS} are compared by samples.")
    if not opened:
        raise NotFound(" ".join(notes) or "Name the runs to compare in the address: ?run=ID&run=ID.")
    if lost_by and lost_by not in [run.id for run, _ in opened]:
        raise RequestInvalid(f"lost={lost_by[:40]!r} is none of the runs that are compared.", "lost")
    first = opened[0][1]
    orders = [np.argsort(index_of(kept)) for _, kept in opened]
    decided = bool(first.outcomes)
    if decided:
        fine = (BOTH_RIGHT, TO_RIGHT, SAME)
        cells = np.stack(
            [~np.isin(kept.columns["outcome"][order], fine) for (_, kept), order in zip(opened, orders, strict=True)], 1
        )
        weight = cells.sum(1).astype(float)
        differ = (weight > 0) & (weight < cells.shape[1])
        told = [
            ComparedRun(run, int(cells[:, at].sum()), int((cells[:, at] & (weight == 1)).sum()))
            for at, (run, _) in enumerate(opened)
        ]
        if lost_by:
            differ &= cells[:, [run.id for run, _ in opened].index(lost_by)]
    else:
        cells = np.stack([kept.columns["distance"][order] for (_, kept), order in zip(opened, orders, strict=True)], 1)
        finite = np.nan_to_num(cells.astype(float), nan=np.finfo(float).max / 4)
        weight = finite.max(1) - finite.min(1)
        differ = weight > 0
        told = [ComparedRun(run, None, None) for run, _ in opened]
    found = np.flatnonzero(differ)
    found = found[np.argsort(-weight[found], kind="stable")]
    shown = found[after + 1 : after + 1 + ROWS]
    samples = _samples_of(opened, orders, shown)
    rows = [
        ComparedSample(int(place), [_plain(cell) for cell in cells[place]], sample)
        for place, sample in zip(shown, samples, strict=True)
    ]
    last = after + len(shown)
    return SampleComparison(
        first, told, notes, decided, len(cells), len(found), rows, last if last + 1 < len(found) else None
    )


def index_of(kept: KeptSamples) -> Any:
    return kept.file.read(columns=["index"], use_threads=False)["index"].to_numpy()


def _opened(files: FileStore, runs: Sequence[Run]) -> tuple[list[tuple[Run, KeptSamples]], list[str]]:
    """The runs whose samples are those of the first that kept any, and sentences on the others."""
    opened: list[tuple[Run, KeptSamples]] = []
    notes = []
    for run in runs:
        try:
            kept = open_samples(files, run)
        except (NotFound, FileMissing) as error:
            notes.append(f"{run.name} has no samples to compare. {error.message}")
            continue
        if opened:
            other, theirs = opened[0]
            alike = ("kind", "n", "labelled")
            if run.dataset_id != other.dataset_id or any(kept.about[name] != theirs.about[name] for name in alike):
                notes.append(f"{run.name} was evaluated on other samples than {other.name}, so it is left out.")
                continue
        opened.append((run, kept))
    return opened, notes


def _samples_of(opened: list[tuple[Run, KeptSamples]], orders: list[Any], places: Any) -> list[SampleRow]:
    """Each sample as the first run has it that kept what it is."""
    found: dict[int, SampleRow] = {}
    for (_, kept), order in zip(opened, orders, strict=True):
        missing = {
            int(order[place]): int(place) for place in places if not (int(place) in found and found[int(place)].kept)
        }
        for row in kept.rows(sorted(missing)):
            if row.kept or missing[row.rank] not in found:
                found[missing[row.rank]] = row
    return [found[int(place)] for place in places]


def _plain(cell: Any) -> bool | float | None:
    if isinstance(cell, np.bool_):
        return bool(cell)
    return float(cell) if np.isfinite(cell) else None

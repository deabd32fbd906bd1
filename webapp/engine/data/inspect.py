"""Reads an untrusted dataset and writes down its two splits: evaluation.* and, mostly, training.*.

What was given as two parts stays two parts; else the first 70 % train and the last 30 % evaluate, or all evaluates if
the uploader says so. A sample that both splits would hold is left out of training.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

from webapp.engine.archive import members
from webapp.engine.data.readers.arrays import read_arrays
from webapp.engine.data.readers.images import MOST_FILES, read_images
from webapp.engine.data.readers.parquet import read_parquet
from webapp.engine.data.readers.text import PROSE, QUESTIONS, ROWS, read_rows, read_text
from webapp.engine.errors import DatasetRefused
from webapp.engine.facts import DatasetFacts
from webapp.engine.plugins import one_of
from webapp.engine.progress import Report

from .datasets import Arrays, SampleSet, Text
from .readers import arrays as array_uploads
from .readers import images as image_uploads
from .readers import parquet as parquet_uploads
from .samples import samples_of
from .split import apart, divided, joined, kind_of, targets_of, write_split

Split = Literal["auto", "all"]
READ = (array_uploads.ACCEPTS, image_uploads.ACCEPTS, PROSE, ROWS, QUESTIONS, parquet_uploads.ACCEPTS)
PARQUET = b"PAR1"
PICKLE = "a Python pickle, which runs code when it is read; save arrays with np.savez(path, x=..., y=...)"
FOREIGN = (
    (b"\x93NUMPY", "a single NumPy array; save it with np.savez(path, x=..., y=...)"),
    (b"\x89HDF", "an HDF5 file; save its arrays with np.savez(path, x=..., y=...)"),
    (b"\x1f\x8b", "a gzip archive; unpack it and upload what is inside"),
    *((b"\x80" + bytes([protocol]), PICKLE) for protocol in range(2, 6)),  # a length may begin with 0x80 too
)


def inspect_dataset(upload: Path, filename: str, split: Split, out: Path, report: Report) -> DatasetFacts:
    """Writes the splits into the empty folder `out`. Raises DatasetRefused with nothing left there, or DiskFull."""
    report.progress(0.05, f"Reading {filename}")
    notes: list[str] = []
    with tempfile.TemporaryDirectory(dir=out, prefix=".inspection-") as scratch:
        evaluation, training, labels = _read(upload, filename, notes, Path(scratch), report)
        given = training is not None
        if split == "all":
            if training is not None:
                evaluation, training = joined(training, evaluation), None
                notes.append("Its training split evaluates too, as asked.")
        elif training is None:
            training, evaluation = divided(evaluation, filename, notes)
        report.progress(0.6, "Looking for samples that both splits hold")
        if training is not None:
            training = apart(training, evaluation, notes)
        report.progress(0.8, "Writing the splits")
        classes = len(labels) if labels is not None else None
        return DatasetFacts(
            kind=kind_of(evaluation),
            split="all" if split == "all" else "given" if given else "70/30",
            evaluation=write_split(evaluation, "evaluation", out, classes),
            training=write_split(training, "training", out, classes) if training is not None else None,
            sample_shape=tuple(evaluation.x.shape[1:]) if isinstance(evaluation, Arrays) else None,
            value_range=evaluation.value_range if isinstance(evaluation, Arrays) else None,
            labels=labels,
            targets=targets_of(evaluation),
            target_shape=tuple(evaluation.y.shape[1:])
            if isinstance(evaluation, Arrays) and evaluation.y is not None
            else (),
            notes=tuple(notes),
            samples=samples_of(evaluation, out),
        )


def _read(
    upload: Path, filename: str, notes: list[str], scratch: Path, report: Report
) -> tuple[SampleSet, SampleSet | None, tuple[str, ...] | None]:
    """(all of it, or what is to evaluate; what is given to train, or None; the names of the labels)."""
    with upload.open("rb") as file:
        head = file.read(8)
    if not head:
        raise DatasetRefused(f"{filename} is empty")
    if head[:2] == b"PK":
        archive, inside = members(upload, filename, DatasetRefused, MOST_FILES, "a dataset")
        archive.close()
        if any(name.endswith(".npy") for name in inside):
            return read_arrays(upload, filename, notes)
        return read_images(upload, filename, notes, report)
    if head.startswith(PARQUET):
        return read_parquet(upload, filename, notes, scratch, report)
    for magic, sentence in FOREIGN:
        if head.startswith(magic):
            raise DatasetRefused(f"{filename} is {sentence}")
    suffix = Path(filename).suffix.lower()
    if suffix in PROSE.suffixes:
        return Text(read_text(upload, filename)), None, None
    if suffix in ROWS.suffixes:
        rows, labels = read_rows(upload, filename, notes)
        return rows, None, labels
    raise DatasetRefused(f"{filename} is of no format that Pare knows; upload {one_of(READ)}")

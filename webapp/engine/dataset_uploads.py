"""Reads a dataset that nobody vouches for and writes down its two halves: evaluation.* and, mostly, training.*.

What was given as two parts stays two parts; else the first 70 % train and the last 30 % evaluate, or all evaluates if
the uploader says so. A sample that both halves would hold is left out of training.
"""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Literal

from .array_uploads import read_arrays
from .datasets import SUFFIX, Arrays, Half, LabelledText, Text, without
from .errors import DatasetRefused
from .facts import DatasetFacts, SplitFacts
from .progress import Report
from .safetensors_file import write_safetensors
from .text_uploads import read_labelled_text, read_text

Split = Literal["auto", "all"]
TRAINING_SHARE = 0.7
ACCEPTED = "an .npz with x and y, a .txt, or a .csv or .jsonl with text and label"
FOREIGN = (
    (b"PAR1", "a Parquet file; save its columns as .csv or .jsonl"),
    (b"\x93NUMPY", "a single NumPy array; save it with np.savez(path, x=..., y=...)"),
    (b"\x89HDF", "an HDF5 file; save its arrays with np.savez(path, x=..., y=...)"),
    (b"\x1f\x8b", "a gzip archive; unpack it and upload what is inside"),
    (b"\x80", "a Python pickle, which runs code when it is read; save arrays with np.savez(path, x=..., y=...)"),
)


def inspect_dataset(upload: Path, filename: str, split: Split, out: Path, report: Report) -> DatasetFacts:
    """Writes the halves into the empty folder `out`. Raises DatasetRefused with nothing left there, or DiskFull."""
    report.progress(0.05, f"Reading {filename}")
    notes: list[str] = []
    evaluation, training, labels = _read(upload, filename, notes)
    given = training is not None
    if split == "all":
        if training is not None:
            evaluation, training = _joined(training, evaluation), None
            notes.append("Its training part evaluates too, as asked.")
    elif training is None:
        training, evaluation = _divided(evaluation, filename, notes)
    report.progress(0.6, "Looking for samples that both halves hold")
    if training is not None:
        training = _apart(training, evaluation, notes)
    report.progress(0.8, "Writing the halves")
    return DatasetFacts(
        kind=_kind(evaluation),
        split="all" if split == "all" else "given" if given else "70/30",
        evaluation=_write(evaluation, "evaluation", out),
        training=_write(training, "training", out) if training is not None else None,
        sample_shape=tuple(evaluation.x.shape[1:]) if isinstance(evaluation, Arrays) else None,
        labels=labels,
        notes=tuple(notes),
    )


def _read(upload: Path, filename: str, notes: list[str]) -> tuple[Half, Half | None, tuple[str, ...] | None]:
    """(all of it, or what is to evaluate; what is given to train, or None; the names of the labels)."""
    with upload.open("rb") as file:
        head = file.read(8)
    if not head:
        raise DatasetRefused(f"{filename} is empty")
    if head[:2] == b"PK":
        return read_arrays(upload, filename, notes)
    for magic, sentence in FOREIGN:
        if head.startswith(magic):
            raise DatasetRefused(f"{filename} is {sentence}")
    suffix = Path(filename).suffix.lower()
    if suffix in (".txt", ".md"):
        return Text(read_text(upload, filename)), None, None
    if suffix in (".csv", ".tsv", ".jsonl", ".ndjson"):
        rows, labels = read_labelled_text(upload, filename, notes)
        return rows, None, labels
    raise DatasetRefused(f"{filename} is of no format that Pare knows; upload {ACCEPTED}")


def _kind(half: Half) -> Literal["arrays", "text", "labelled-text"]:
    return "arrays" if isinstance(half, Arrays) else "text" if isinstance(half, Text) else "labelled-text"


def _joined(training: Half, evaluation: Half) -> Half:
    import torch

    assert isinstance(training, Arrays)  # only arrays are given in two parts
    assert isinstance(evaluation, Arrays)
    labelled = training.y is not None and evaluation.y is not None
    y = torch.cat([training.y, evaluation.y]) if labelled else None  # type: ignore[list-item]
    return Arrays(torch.cat([training.x, evaluation.x]), y)


def _divided(half: Half, filename: str, notes: list[str]) -> tuple[Half, Half]:
    """(the first 70 %, the last 30 %)"""
    if isinstance(half, Text):
        return _divided_text(half.text, filename)
    n = len(half.x) if isinstance(half, Arrays) else len(half.texts)
    if n < 2:
        raise DatasetRefused(f"{filename} holds {n} sample; to divide it takes 2, or say that all of it evaluates")
    cut = min(n - 1, max(1, int(n * TRAINING_SHARE)))
    labels = half.y.tolist() if isinstance(half, Arrays) and half.y is not None else None
    labels = half.labels if isinstance(half, LabelledText) else labels
    if labels and labels[0] != labels[-1] and all(a <= b for a, b in pairwise(labels)):
        notes.append(
            "The samples are sorted by label, so the two halves hold different classes: shuffle them and upload again."
        )
    return half.only([index < cut for index in range(n)]), half.only([index >= cut for index in range(n)])


def _divided_text(text: str, filename: str) -> tuple[Text, Text]:
    """At a paragraph, after 70 % of them; text without paragraphs at a line, or else a space, after 70 % of it."""
    for separator in ("\n\n", "\n", " "):
        parts = text.split(separator)
        if len(parts) >= 4:
            if separator == "\n\n":
                cut = int(len(parts) * TRAINING_SHARE)
            else:
                lengths, cut = 0, 0
                while lengths + len(parts[cut]) < len(text) * TRAINING_SHARE and cut < len(parts) - 2:
                    lengths, cut = lengths + len(parts[cut]) + 1, cut + 1
            first, last = separator.join(parts[:cut]), separator.join(parts[cut:])
            if first.strip() and last.strip():
                return Text(first), Text(last)
    raise DatasetRefused(f"{filename} is too short to divide into two halves; say that all of it evaluates")


def _apart(training: Half, evaluation: Half, notes: list[str]) -> Half | None:
    """Training less what evaluates too; None if nothing is left."""
    kept = without(training, evaluation)
    before, after = sum(1 for _ in training.hashes()), sum(1 for _ in kept.hashes())
    empty = not kept.text.strip() if isinstance(kept, Text) else after == 0
    if dropped := before - (0 if empty else after):
        unit = "paragraph" if isinstance(training, Text) else "sample"
        notes.append(
            f"{dropped} {unit}{'s' * (dropped > 1)} of the training half evaluate too and were left out of it."
        )
    return None if empty else kept


def _write(half: Half, name: str, out: Path) -> SplitFacts:
    path = out / f"{name}.{SUFFIX[_kind(half)]}"
    if isinstance(half, Arrays):
        n = len(half.x)
        write_safetensors(path, {"x": half.x} | ({"y": half.y} if half.y is not None else {}), {})
    elif isinstance(half, Text):
        n = len(half.text)
        path.write_text(half.text, encoding="utf8", newline="")
    else:
        n = len(half.texts)
        with path.open("w", encoding="utf8", newline="") as file:
            for index, text in enumerate(half.texts):
                row = {"text": text} | ({"label": half.labels[index]} if half.labels is not None else {})
                file.write(json.dumps(row) + "\n")
    with path.open("rb") as file:
        return SplitFacts(n=n, digest=hashlib.file_digest(file, "sha256").hexdigest())


__all__ = ["inspect_dataset"]

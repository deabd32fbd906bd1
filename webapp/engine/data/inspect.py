"""Reads an untrusted dataset and writes down its two splits: evaluation.* and, mostly, training.*.

What was given as two parts stays two parts; else the first 70 % train and the last 30 % evaluate, or all evaluates if
the uploader says so. A sample that both splits would hold is left out of training.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Literal

from webapp.engine.archive import members
from webapp.engine.data.readers.arrays import read_arrays
from webapp.engine.data.readers.images import MOST_FILES, read_images
from webapp.engine.data.readers.parquet import read_parquet
from webapp.engine.data.readers.text import PROSE, QUESTIONS, ROWS, read_rows, read_text
from webapp.engine.errors import DatasetRefused
from webapp.engine.facts import DatasetFacts, DatasetKind, SplitFacts, Targets
from webapp.engine.lazy import torch
from webapp.engine.plugins import one_of
from webapp.engine.progress import Report
from webapp.engine.weights.safetensors import write_safetensors

from .datasets import SUFFIX, Arrays, LabelledText, SampleSet, Text, without
from .images import Images, write_images
from .questions import Questions, write_questions
from .readers import arrays as array_uploads
from .readers import images as image_uploads
from .readers import parquet as parquet_uploads
from .samples import samples_of

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
TRAINING_SHARE = 0.7
FAR_SHARE = 0.1  # of a text, from where it should be divided
MOST_COUNTED = 1000  # labels that are counted one by one


def kind_of(samples: SampleSet) -> DatasetKind:
    kinds: dict[type, DatasetKind] = {
        Arrays: "arrays",
        Text: "text",
        LabelledText: "labelled-text",
        Images: "images",
        Questions: "multiple-choice",
    }
    return kinds[type(samples)]


def targets_of(samples: SampleSet) -> Targets | None:
    """What a sample's target is; None where there is none."""
    if isinstance(samples, Arrays) and samples.y is not None:
        return "numbers" if samples.y.is_floating_point() else "masks" if samples.y.dim() > 1 else "classes"
    if isinstance(samples, LabelledText | Images) and samples.labels is not None:
        return "numbers" if any(isinstance(label, float) for label in samples.labels) else "classes"
    return None


def labels_of(samples: SampleSet) -> list[int] | None:
    """The class number of each sample; None where it has none."""
    if targets_of(samples) != "classes":
        return None
    if isinstance(samples, Arrays) and samples.y is not None:
        found: list[int] = samples.y.tolist()
        return found
    assert isinstance(samples, LabelledText | Images)
    return [int(label) for label in samples.labels or ()]


def joined(training: SampleSet, evaluation: SampleSet) -> SampleSet:
    if isinstance(training, Images) and isinstance(evaluation, Images):
        return training.joined(evaluation)
    assert isinstance(training, Arrays)  # only arrays and images are given in two parts
    assert isinstance(evaluation, Arrays)
    labelled = training.y is not None and evaluation.y is not None
    y = torch.cat([training.y, evaluation.y]) if labelled else None  # type: ignore[list-item]
    return Arrays(torch.cat([training.x, evaluation.x]), y)


def divided(samples: SampleSet, filename: str, notes: list[str]) -> tuple[SampleSet, SampleSet]:
    """(the first 70 %, the last 30 %). Raises DatasetRefused."""
    if isinstance(samples, Text):
        return _divided_text(samples.text, filename)
    n = len(samples)
    if n < 2:
        raise DatasetRefused(f"{filename} holds {n} sample; to divide it takes 2. Choose to evaluate on all of it")
    cut = min(n - 1, max(1, int(n * TRAINING_SHARE)))
    labels = labels_of(samples)
    if labels and labels[0] != labels[-1] and all(a <= b for a, b in pairwise(labels)):
        notes.append(
            "The samples are sorted by label, so the two splits hold different classes: shuffle them and upload again."
        )
    return samples.only([index < cut for index in range(n)]), samples.only([index >= cut for index in range(n)])


def _divided_text(text: str, filename: str) -> tuple[Text, Text]:
    """After 70 % of its characters: at the nearest end of a paragraph, or of a line or a word where that is far off."""
    wanted, found = len(text) * TRAINING_SHARE, []
    for separator in ("\n\n", "\n", " "):
        parts = text.split(separator)
        ends = list(accumulate(len(part) + len(separator) for part in parts[:-1]))
        for end in sorted(ends, key=lambda end: abs(end - wanted))[:3]:
            first, last = text[: end - len(separator)], text[end:]
            if first.strip() and last.strip():
                found.append((abs(end - wanted), Text(first), Text(last)))
                break
        if found and found[-1][0] <= FAR_SHARE * len(text):
            return found[-1][1:]
    if not found:
        raise DatasetRefused(f"{filename} is too short to divide into two splits; choose to evaluate on all of it")
    return min(found, key=lambda each: each[0])[1:]


def apart(training: SampleSet, evaluation: SampleSet, notes: list[str]) -> SampleSet | None:
    """Training less what evaluates too; None if nothing is left."""
    kept = without(training, evaluation)
    before, after = sum(1 for _ in training.hashes()), sum(1 for _ in kept.hashes())
    empty = not kept.text.strip() if isinstance(kept, Text) else after == 0
    if dropped := before - (0 if empty else after):
        unit = "paragraph" if isinstance(training, Text) else "sample"
        notes.append(
            f"{dropped} {unit}{'s' * (dropped > 1)} of the training split evaluate too and were left out of it."
        )
    return None if empty else kept


def write_split(samples: SampleSet, name: str, out: Path, classes: int | None) -> SplitFacts:
    """Writes `name`.* into `out`; `classes` is how many labels there are."""
    path = out / f"{name}.{SUFFIX[kind_of(samples)]}"
    if isinstance(samples, Arrays):
        write_safetensors(path, {"x": samples.x} | ({"y": samples.y} if samples.y is not None else {}), {})
    elif isinstance(samples, Text):
        path.write_text(samples.text, encoding="utf8", newline="")
    elif isinstance(samples, Images):
        write_images(samples, path)
    elif isinstance(samples, Questions):
        write_questions(samples, path)
    else:
        with path.open("w", encoding="utf8", newline="") as file:
            for index, text in enumerate(samples.texts):
                row = {"text": text} | ({"label": samples.labels[index]} if samples.labels is not None else {})
                file.write(json.dumps(row) + "\n")
    labels, counts = labels_of(samples), None
    if labels is not None and classes is not None and classes <= MOST_COUNTED:
        counts = tuple(torch.bincount(torch.tensor(labels, dtype=torch.int64), minlength=classes).tolist())
    n = len(samples.text) if isinstance(samples, Text) else len(samples)
    with path.open("rb") as file:
        return SplitFacts(n=n, per_class=counts, digest=hashlib.file_digest(file, "sha256").hexdigest())


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

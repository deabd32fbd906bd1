"""Dividing a dataset into two splits that share no sample, and writing a split down."""

from __future__ import annotations

import hashlib
import json
from itertools import accumulate, pairwise
from pathlib import Path

from webapp.engine.errors import DatasetRefused
from webapp.engine.facts import DatasetKind, SplitFacts, Targets
from webapp.engine.lazy import torch
from webapp.engine.weights.safetensors import write_safetensors

from .datasets import SUFFIX, Arrays, LabelledText, SampleSet, Text, without
from .images import Images, write_images
from .questions import Questions, write_questions

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
        raise DatasetRefused(f"{filename} holds {n} sample; to divide it takes 2, or say that all of it evaluates")
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
        raise DatasetRefused(f"{filename} is too short to divide into two splits; say that all of it evaluates")
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

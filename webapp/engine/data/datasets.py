"""A dataset after its inspection: two splits that never share a sample, and whether they fit a checkpoint.

Reading an upload is in `readers/`; here is what everything after it uses.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path

from webapp.engine.architectures import class_names, classes
from webapp.engine.errors import DatasetUnfit, some
from webapp.engine.facts import ArchitectureSpec, DatasetFacts, DatasetKind
from webapp.engine.lazy import Tensor, torch
from webapp.engine.weights.safetensors import lazy_tensors

from .images import Images, open_images
from .preprocessing import Preprocessing, default_preprocessing
from .questions import Questions, open_questions
from .tasks import CLASSIFYING, OF_TARGETS, TITLES, answer_shape, for_task, is_number, resolved

SUFFIX = {
    "arrays": "safetensors",
    "text": "txt",
    "labelled-text": "jsonl",
    "images": "zip",
    "multiple-choice": "jsonl",
}
HELD = {  # what a dataset of this kind holds, in a sentence
    "arrays": "arrays",
    "text": "text",
    "labelled-text": "labelled text",
    "images": "images",
    "multiple-choice": "multiple-choice questions",
}
TARGETS = {
    "classes": "classes (whole numbers from 0 up, or names)",
    "masks": "masks (N, H, W) of class numbers",
    "numbers": "numbers",
}
UPLOAD_AS = {
    "arrays": "an .npz with x, and perhaps y",
    "text": "a .txt",
    "labelled-text": "a .csv or .jsonl of text and label",
    "images": "a zip of images",
    "multiple-choice": "a .jsonl of questions with their choices",
}


@dataclass(frozen=True)
class Arrays:
    """x (N, ...) and y: classes (N,) int64, masks (N, H, W) int64 that are -1 where not evaluated, floats, or None."""

    x: Tensor
    y: Tensor | None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def value_range(self) -> tuple[float, float]:
        """The least and the largest number of x, which is never empty."""
        return float(self.x.min()), float(self.x.max())

    def hashes(self) -> Iterator[str]:
        for sample in self.x:
            yield hashlib.sha256(sample.contiguous().numpy().tobytes()).hexdigest()

    def only(self, keep: list[bool]) -> Arrays:
        mask = torch.tensor(keep, dtype=torch.bool)
        return Arrays(self.x[mask], None if self.y is None else self.y[mask])

    def renumbered(self, numbers: Sequence[float]) -> Arrays:
        return self if self.y is None else replace(self, y=torch.tensor(numbers)[self.y])


@dataclass(frozen=True)
class Text:
    """Prose; its samples are paragraphs."""

    text: str

    def hashes(self) -> Iterator[str]:
        for paragraph in self.text.split("\n\n"):
            yield hashlib.sha256(paragraph.strip().encode()).hexdigest()

    def only(self, keep: list[bool]) -> Text:
        paragraphs = self.text.split("\n\n")
        return Text("\n\n".join(p for p, kept in zip(paragraphs, keep, strict=True) if kept))


@dataclass(frozen=True)
class LabelledText:
    texts: list[str]
    labels: list[int] | list[float] | None

    def __len__(self) -> int:
        return len(self.texts)

    def hashes(self) -> Iterator[str]:
        for text in self.texts:
            yield hashlib.sha256(text.strip().encode()).hexdigest()

    def only(self, keep: list[bool]) -> LabelledText:
        labels = self.labels
        return LabelledText(
            [text for text, kept in zip(self.texts, keep, strict=True) if kept],
            None if labels is None else list(compress(labels, keep)),
        )

    def renumbered(self, numbers: Sequence[float]) -> LabelledText:
        return self if self.labels is None else replace(self, labels=[numbers[int(label)] for label in self.labels])


SampleSet = Arrays | Text | LabelledText | Images | Questions


@dataclass(frozen=True)
class OpenedDataset:
    folder: Path
    facts: DatasetFacts
    preprocessing: Preprocessing | None = None  # of images
    numbers: Sequence[float] | None = None  # of the model's classes, or amounts, for each label; None: as they are

    def evaluation(self) -> SampleSet:
        return self._read("evaluation")

    def training(self) -> SampleSet:
        """What techniques may see: no sample of it is in the evaluation split. Raises DatasetUnfit if all evaluates."""
        if self.facts.training is None:
            raise DatasetUnfit("All of this dataset evaluates; name a second one to calibrate and train on.")
        return self._read("training")

    def _read(self, name: str) -> SampleSet:
        samples = self._stored(name)
        if self.numbers is not None and isinstance(samples, Arrays | LabelledText | Images):
            return samples.renumbered(self.numbers)
        return samples

    def _stored(self, split: str) -> SampleSet:
        path = self.folder / f"{split}.{SUFFIX[self.facts.kind]}"
        if self.facts.kind == "arrays":
            tensors = {name: tensor.load() for name, tensor in lazy_tensors(path).items()}
            return Arrays(tensors["x"], tensors.get("y"))
        if self.facts.kind == "text":
            return Text(path.read_text(encoding="utf8"))
        if self.facts.kind == "images":
            return open_images(path, self.preprocessing)
        if self.facts.kind == "multiple-choice":
            return open_questions(path)
        rows = [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]
        labels = [row["label"] for row in rows] if rows and "label" in rows[0] else None
        return LabelledText([row["text"] for row in rows], labels)


def open_dataset(
    folder: Path, facts: DatasetFacts, preprocessing: Preprocessing | None = None, spec: ArchitectureSpec | None = None
) -> OpenedDataset:
    """With `spec`, its labels are the classes of that model, or amounts where its task is regression."""
    return OpenedDataset(folder, facts, preprocessing, class_numbers(spec, facts) if spec else None)


def without(training: SampleSet, evaluation: SampleSet) -> SampleSet:
    """The training split less the samples that the evaluation split holds too, found by their hash."""
    held = set(evaluation.hashes())
    return training.only([sample not in held for sample in training.hashes()])


def fit(spec: ArchitectureSpec, facts: DatasetFacts) -> None:
    """Raises DatasetUnfit, with what does not fit what, unless a model of this spec can be evaluated on the dataset."""
    spec = for_task(spec, resolved(spec, facts))
    wanted = _kinds(spec)
    if facts.kind not in wanted:
        ways = " or ".join(UPLOAD_AS[kind] for kind in wanted)
        raise DatasetUnfit(f"The dataset holds {HELD[facts.kind]}; {spec.title} is evaluated on {ways}.", "dataset_id")
    if facts.kind == "images":
        default_preprocessing(spec)
    elif facts.kind != "arrays" and spec.inputs.get("tokenizer") is False:
        raise DatasetUnfit(
            f"{spec.title} came without a tokenizer, so text cannot be turned into its tokens; "
            "upload its folder with tokenizer.json.",
            "dataset_id",
        )
    shape = spec.inputs.get("shape")
    if facts.kind == "arrays" and shape and facts.sample_shape is not None:
        same = len(shape) == len(facts.sample_shape) and all(
            want in (None, have) for want, have in zip(shape, facts.sample_shape, strict=False)
        )
        if spec.family == "sequential":  # it flattens what it is given
            same = math.prod(facts.sample_shape) == shape[0]
        if not same:
            wants = [("any" if size is None else size) for size in shape]
            guessed = (
                " That shape follows from a guess at its wiring, which the file does not tell: run it without a "
                "dataset, or upload the whole module as .pt2 or ONNX."
            )
            raise DatasetUnfit(
                f"Its samples have shape {list(facts.sample_shape)}; {spec.title} takes {wants}."
                f"{guessed if spec.guess else ''}",
                "dataset_id",
            )
    _fit_targets(spec, facts)


def _kinds(spec: ArchitectureSpec) -> tuple[DatasetKind, ...]:
    """What a model of this spec can be given, the likeliest first."""
    if "vocab" not in spec.inputs:
        return ("arrays", "images")
    if spec.family == "program":  # it came without a tokenizer
        return ("arrays",)
    if spec.task == "causal-lm":
        return ("text", "multiple-choice")
    return ("labelled-text", "text") if spec.task == "text-classification" else ("text", "labelled-text")


def _fit_targets(spec: ArchitectureSpec, facts: DatasetFacts) -> None:
    """Whether its classes, masks or numbers are what the task is evaluated by; inputs alone always fit."""
    task, shape = spec.task, answer_shape(spec)
    if task in (*CLASSIFYING, "segmentation"):
        wanted = "masks" if task == "segmentation" else "classes"
        found = facts.targets or ("classes" if facts.labels is not None else wanted)
        if found != wanted:
            other = TITLES[OF_TARGETS.get(found, "classification")].lower()
            raise DatasetUnfit(
                f"Its y holds {TARGETS[found]}; {spec.title} is used for {TITLES[task].lower()}, which is evaluated on "
                f"{TARGETS[wanted]}. Set the checkpoint's task to {other}, or upload another dataset.",
                "dataset_id",
            )
    elif task == "regression":
        have = tuple(size for size in facts.target_shape if size != 1)
        given = facts.targets is not None or facts.labels is not None
        if given and shape is not None and have != tuple(size for size in shape if size != 1):
            raise DatasetUnfit(
                f"Its y has {list(facts.target_shape) or 'one number'} for each sample; {spec.title} answers with "
                f"{list(shape) if shape not in ((), (1,)) else 'one number'}.",
                "dataset_id",
            )
    known = classes(spec)
    if known is not None and facts.labels is not None and len(facts.labels) > known:
        raise DatasetUnfit(
            f"The dataset has {len(facts.labels)} labels; {spec.title} answers with {known} classes.", "dataset_id"
        )
    class_numbers(spec, facts)


def class_numbers(spec: ArchitectureSpec, facts: DatasetFacts) -> tuple[int, ...] | tuple[float, ...] | None:
    """The model's number of each of the dataset's labels; None where they are numbered alike. Of a regression: amounts.

    Small and capital letters are one, `_` is a space, and of "tench, Tinca tinca" either part will do. Raises
    DatasetUnfit for a label that the model does not have.
    """
    if spec.task == "regression" and facts.labels is not None and facts.targets != "masks":
        return _amounts(facts.labels)
    names = class_names(spec) if spec.task not in ("embedding", "distance") else None
    if names is None or facts.labels is None or all(label.isdigit() for label in facts.labels):
        return None
    known: dict[str, int | None] = {}
    for number, name in enumerate(names):
        for alias in _aliases(name):
            known[alias] = None if known.get(alias, number) != number else number  # two classes share it: nobody's
    known |= {_plain(name): number for number, name in enumerate(names)}
    numbers = [known.get(_plain(label)) for label in facts.labels]
    if missing := [label for label, number in zip(facts.labels, numbers, strict=True) if number is None]:
        raise DatasetUnfit(
            f"The dataset has the {'label' if len(missing) == 1 else 'labels'} {some(missing)}; {spec.title} knows "
            f"{some(names)}. {_way_out(facts)}",
            "dataset_id",
        )
    found = tuple(number for number in numbers if number is not None)
    if len(set(found)) < len(found):
        raise DatasetUnfit(
            f"Several labels of the dataset are the same class of {spec.title}. {_way_out(facts)}", "dataset_id"
        )
    return None if found == tuple(range(len(found))) else found


def _amounts(labels: tuple[str, ...]) -> tuple[float, ...]:
    if no_numbers := [label for label in labels if not is_number(label)]:
        raise DatasetUnfit(
            f"The dataset has the {'label' if len(no_numbers) == 1 else 'labels'} {some(no_numbers)}; a regression "
            "is evaluated on numbers. Set the checkpoint's task to classification, or upload a dataset of numbers.",
            "dataset_id",
        )
    return tuple(float(label) for label in labels)


def _way_out(facts: DatasetFacts) -> str:
    if facts.kind == "images":
        return "Name each folder after its class, or after the number of its class."
    return "Write the model's names into the file, or the numbers of its classes."


def _aliases(name: str) -> Iterator[str]:
    yield _plain(name)
    yield from (_plain(part) for part in name.split(","))


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())

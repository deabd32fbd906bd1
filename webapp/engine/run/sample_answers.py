"""What original and result answered to each sample that evaluates, as a Parquet file: the worst sample first.

It is filled while the result is measured, so no pass over either model is made for it. Every sample has a row, with
what each metric is made of; what would grow without bound is kept of the worst alone: MOST_TOKENS tokens with their
losses, MOST_PICTURES images, and MOST_CONTENT_BYTES of what the samples themselves are.
"""

from __future__ import annotations

import io
import json
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from webapp.engine.architectures import class_names
from webapp.engine.data.batches import Batch, sentences_of
from webapp.engine.data.datasets import LabelledText, Text, open_dataset
from webapp.engine.data.images import Images, decoded
from webapp.engine.data.questions import Questions
from webapp.engine.data.samples import drawn
from webapp.engine.data.targets import scores_of_classes
from webapp.engine.data.tasks import CLASSIFYING
from webapp.engine.facts import BY_NUMBERS, ArchitectureSpec
from webapp.engine.lazy import Tensor, torch

from .measure import broken_answers, choice_likelihoods, token_losses
from .metrics import METRICS, Samples, Scores
from .stages.job import ModelJob

FILE = "samples.parquet"
ABOUT = b"pare"  # the key of the file's metadata under which JSON says what it holds
MOST_TOKENS = 100_000  # of a language model's text, with their losses
MOST_PICTURES = 1_000  # images that are decoded once more to be shown
MOST_CONTENT_BYTES = 32_000_000
MOST_NUMBERS = 4_096  # of a sample
MOST_ANSWERED = 16  # numbers of an answer that is no class
LONGEST_TEXT = 2_000  # characters
LARGEST_SIDE = 192  # of an image
ROWS_AT_ONCE = 128  # of a row group

TO_WRONG, TO_RIGHT, BOTH_WRONG, BOTH_RIGHT = "to_wrong", "to_right", "both_wrong", "both_right"
CHANGED, SAME = "changed", "same"  # where there are no labels
OUTCOMES = (TO_WRONG, BOTH_WRONG, TO_RIGHT, BOTH_RIGHT, CHANGED, SAME)

Content = dict[str, Any]


class Distance(NamedTuple):
    """By what samples are sorted: a column of numbers, higher is worse, and what they are."""

    title: str
    unit: str
    values: list[float]


class ChunkLosses(NamedTuple):
    """Of a chunk of text: `tokens` (T,) and, for all but the first of them, both losses in nats."""

    tokens: Tensor
    original: Tensor
    result: Tensor


class SampleAnswers:
    """What both models answered, batch by batch; to be given to `evaluate` as its `watch`."""

    def __init__(self, spec: ArchitectureSpec) -> None:
        self.spec = spec
        self.columns: dict[str, list[Any]] = {}
        self.chunks: dict[int, ChunkLosses] = {}  # by the sample's number: the worst of them
        self.tokens = 0  # in all chunks that came
        self.n = 0

    def __call__(self, batch: Batch, expected: list[Tensor], every: list[Tensor]) -> None:
        if batch.choices is not None:
            before, after = (choice_likelihoods(side, batch)[None] for side in (expected[0], every[0]))
            self._classes(before, after, torch.tensor([batch.choices.answer]))
        elif self.spec.task == "causal-lm":
            self._losses(batch, expected[0], every[0])
        elif self.spec.task in CLASSIFYING and expected[0].dim() > 1 and expected[0].shape[2:].numel() == 1:
            self._classes(scores_of_classes(expected[0]), scores_of_classes(every[0]), batch.targets)
        elif self.spec.task in BY_NUMBERS:
            self._add("original_answer", _first_numbers(expected[0]))
            self._add("result_answer", _first_numbers(every[0]))
            if batch.targets is not None:
                self._add("target", _first_numbers(batch.targets.reshape(len(batch.targets), -1)))
        self.n += batch.n

    def _add(self, column: str, values: Sequence[Any]) -> None:
        self.columns.setdefault(column, []).extend(values)

    def _classes(self, expected: Tensor, out: Tensor, targets: Tensor | None) -> None:
        """Scores (B, C) of both, and class numbers (B,)."""
        for side, scores in (("original", expected), ("result", out)):
            lost = broken_answers(scores).tolist()
            confidence = torch.softmax(scores.double(), -1).amax(-1)
            picked = zip(scores.argmax(-1).tolist(), lost, strict=True)
            self._add(f"{side}_class", [None if gone else number for number, gone in picked])
            shares = zip(confidence.tolist(), lost, strict=True)
            self._add(f"{side}_confidence", [None if gone else share for share, gone in shares])
        if targets is not None:
            self._add("label", targets.tolist())

    def _losses(self, batch: Batch, expected: Tensor, out: Tensor) -> None:
        tokens = batch.inputs["input_ids"]
        before, after = token_losses(expected, tokens), token_losses(out, tokens)
        for row in range(len(tokens)):
            self.chunks[self.n + row] = ChunkLosses(tokens[row].clone(), before[row].float(), after[row].float())
            self.tokens += tokens.shape[1]
        while len(self.chunks) > 1 and sum(len(each.tokens) for each in self.chunks.values()) > MOST_TOKENS:
            del self.chunks[min(self.chunks, key=lambda number: _gained(self.chunks[number]))]


def _first_numbers(answers: Tensor) -> list[list[float]]:
    return [row[:MOST_ANSWERED].tolist() for row in answers.reshape(len(answers), -1).float()]


def _gained(chunk: ChunkLosses) -> float:
    """Nats per token that the result loses more; what is no number is the worst."""
    gained = float((chunk.result - chunk.original).double().mean())
    return gained if math.isfinite(gained) else math.inf


def write_samples(
    answers: SampleAnswers, job: ModelJob, data: Sequence[Batch], before: Scores, after: Scores, folder: Path
) -> dict[str, Any]:
    """Writes FILE, the samples' worst first, and returns what the receipt tells of it.

    `before` and `after` are the scores of original and result, whose sums and counts are columns of the file: what the
    receipt says can be computed from them to the last digit.
    """
    import pyarrow
    import pyarrow.parquet

    n = answers.n
    columns: dict[str, list[Any]] = {"index": list(range(n)), **answers.columns}
    distance = _distance(answers.spec, before, after)
    columns["distance"] = [value if math.isfinite(value) else None for value in distance.values]
    outcomes = _outcomes(columns, before, after)
    if outcomes is not None:
        columns["outcome"] = outcomes
    columns |= _columns_of_scores(before, after, n)
    order = sorted(range(n), key=lambda row: _severity(outcomes[row] if outcomes else None, distance.values[row]))
    about = {
        "version": 1,
        "kind": _kind(answers, data),
        "n": n,
        "labelled": "label" in columns or "target" in columns,
        "classes": _names(job, answers),
        "distance": {"title": distance.title, "unit": distance.unit},
        "metrics": [name for name in METRICS if name in before or name in after],
        "tokens": answers.tokens,
        "tokens_kept": sum(len(chunk.tokens) for chunk in answers.chunks.values()),
    }
    contents = _Contents(job, data, answers)
    kept = 0
    schema = pyarrow.schema([*(_field(name, columns[name]) for name in columns), *_content_fields()])
    pieces = [order[start : start + ROWS_AT_ONCE] for start in range(0, n, ROWS_AT_ONCE)]
    with pyarrow.parquet.ParquetWriter(folder / FILE, schema, compression="zstd") as writer:
        for piece in pieces:
            shown = [contents.of(row) for row in piece]
            kept += sum(map(bool, shown))
            arrays = [pyarrow.array([columns[name][row] for row in piece], schema.field(name).type) for name in columns]
            for name in schema.names[len(columns) :]:
                arrays.append(pyarrow.array([each.get(name) for each in shown], schema.field(name).type))
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
        about["contents_kept"] = kept
        writer.add_key_value_metadata({ABOUT: json.dumps(about)})
    counts = {name: outcomes.count(name) for name in OUTCOMES if name in outcomes} if outcomes is not None else None
    told = {name: about[name] for name in ("kind", "n", "labelled", "tokens", "tokens_kept", "contents_kept")}
    return {"file": FILE, **told, "outcomes": counts, "sentence": _sentence(counts, n)}


def _sentence(counts: dict[str, int] | None, n: int) -> str | None:
    """ "4 of 540 now wrong, 1 now right"; None where samples are neither right nor wrong, nor of a class."""
    if counts is None:
        return None
    if CHANGED in counts or SAME in counts:
        return f"{counts.get(CHANGED, 0):,} of {n:,} now answered otherwise"
    return f"{counts.get(TO_WRONG, 0):,} of {n:,} now wrong, {counts.get(TO_RIGHT, 0):,} now right"


def _outcomes(columns: dict[str, list[Any]], before: Scores, after: Scores) -> list[str] | None:
    """Of each sample that is of a class; None where samples are not."""
    if "original_class" not in columns:
        return None
    if "label" not in columns or "accuracy" not in before or "accuracy" not in after:
        return [SAME if agrees else CHANGED for agrees in after["agreement"].sums]
    named = {(1, 0): TO_WRONG, (0, 1): TO_RIGHT, (0, 0): BOTH_WRONG, (1, 1): BOTH_RIGHT}
    sides = zip(before["accuracy"].sums, after["accuracy"].sums, strict=True)
    return [named[int(was), int(now)] for was, now in sides]


def _severity(outcome: str | None, distance: float) -> tuple[bool, float]:
    """What is newly wrong first, then by distance; what is no number before what is."""
    return outcome not in (TO_WRONG, CHANGED, None), -(distance if math.isfinite(distance) else math.inf)


def _distance(spec: ArchitectureSpec, before: Scores, after: Scores) -> Distance:
    """How much worse the result answers each sample, or how far from the original, by what there is."""
    if spec.task == "causal-lm" and "perplexity" in after:
        return Distance("Loss gained", "nats per token", _gain(before["perplexity"], after["perplexity"]))
    if "mse" in before and "mse" in after:
        return Distance("Squared error gained", "", _gain(before["mse"], after["mse"]))
    if "cosine" in after:
        return Distance("Cosine distance", "", [1 - each for each in after["cosine"].sums])
    if "relative_error" in after:
        rows = zip(after["relative_error"].sums, after["relative_error"].counts, strict=True)
        return Distance("Relative error", "", [_relative(*row) for row in rows])
    found = after["kl_divergence"]
    each = [above / max(below, 1.0) for above, below in zip(found.sums, found.counts, strict=True)]
    return Distance("KL divergence", "nats", each)


def _gain(before: Samples, after: Samples) -> list[float]:
    rows = zip(before.sums, after.sums, after.counts, strict=True)
    return [(now - was) / max(count, 1.0) for was, now, count in rows]


def _relative(apart: list[float], whole: list[float]) -> float:
    """Over all outputs of a sample."""
    total = sum(whole)
    return math.sqrt(sum(apart) / total) if total > 0 else 0.0 if not sum(apart) else math.inf


def _columns_of_scores(before: Scores, after: Scores, n: int) -> dict[str, list[Any]]:
    """`original_X` and `result_X` of metric X, or `X` where only the result has it; `…_count` where that is not 1."""
    found: dict[str, list[Any]] = {}
    for metric in METRICS:
        for side, scores in (("original_", before), ("result_", after)):
            if metric not in scores or len(scores[metric].sums) != n:
                continue
            name = f"{side}{metric}" if metric in before else metric
            found[name] = list(scores[metric].sums)
            if any(count != 1.0 for count in scores[metric].counts):
                found[f"{name}_count"] = list(scores[metric].counts)
    return found


def scores_in(columns: dict[str, list[Any]]) -> tuple[Scores, Scores]:
    """The scores of original and result, of the columns of a file that is sorted by its `index`."""
    sides: tuple[Scores, Scores] = {}, {}
    for metric in METRICS:
        for name, scores in ((f"original_{metric}", sides[0]), (f"result_{metric}", sides[1]), (metric, sides[1])):
            if name in columns:
                ones = [1.0] * len(columns[name])
                scores[metric] = Samples(columns[name], columns.get(f"{name}_count", ones))
    return sides


def _kind(answers: SampleAnswers, data: Sequence[Batch]) -> str:
    if "original_class" in answers.columns:
        return "choices" if data[0].choices is not None else "classes"
    if answers.chunks:
        return "tokens"
    return "numbers" if "original_answer" in answers.columns else "distances"


def _names(job: ModelJob, answers: SampleAnswers) -> list[str] | None:
    """Of the classes, by the model's numbers."""
    if "original_class" not in answers.columns or job.dataset is None:
        return None
    names = class_names(answers.spec) or job.dataset.facts.labels
    return None if names is None else list(names)


def _field(name: str, values: Sequence[Any]) -> Any:
    """The Parquet field of a column by what it holds."""
    import pyarrow

    if name in ("index", "label", "original_class", "result_class"):
        return pyarrow.field(name, pyarrow.int32())
    if name == "outcome":
        return pyarrow.field(name, pyarrow.string())
    if values and isinstance(values[0], list):
        number = pyarrow.float32() if name in ("original_answer", "result_answer", "target") else pyarrow.float64()
        return pyarrow.field(name, pyarrow.list_(number))
    return pyarrow.field(name, pyarrow.float64())


def _content_fields() -> list[Any]:
    """The fields of what the samples themselves are, and of a text's tokens."""
    import pyarrow as pa

    return [
        pa.field("text", pa.string()),
        pa.field("choices", pa.list_(pa.string())),
        pa.field("numbers", pa.list_(pa.float32())),
        pa.field("picture", pa.binary()),  # PNG or JPEG
        pa.field("tokens", pa.list_(pa.string())),
        pa.field("original_loss", pa.list_(pa.float32())),  # of each token, nats; the first of a chunk has none
        pa.field("result_loss", pa.list_(pa.float32())),
    ]


class _Contents:
    """The samples themselves, one after the other, until what is kept of them is enough."""

    def __init__(self, job: ModelJob, data: Sequence[Batch], answers: SampleAnswers) -> None:
        assert job.dataset is not None
        self.answers, self.data, self.facts = answers, data, job.dataset.facts
        self.left, self.pictures = MOST_CONTENT_BYTES, MOST_PICTURES
        self.tokenizer = job.tokenizer() if answers.chunks else None
        self._read: Callable[[int], Content] = self._array
        if self.facts.kind == "arrays":
            self.ends = list(accumulate(batch.n for batch in data))
        elif not answers.tokens:  # whose tokens are all that is shown
            samples = open_dataset(job.dataset.folder, self.facts, job.preprocessing(), answers.spec).evaluation()
            if isinstance(samples, Images):
                self._read = lambda row: self._image(samples, row)
            elif isinstance(samples, Questions):
                self._read = lambda row: self._question(samples, row)
            elif isinstance(samples, Text | LabelledText):
                texts = sentences_of(samples) if isinstance(samples, Text) else samples.texts
                self._read = lambda row: {"text": _short(texts[row])}

    def of(self, row: int) -> Content:
        """Empty where nothing of it is kept."""
        if self.answers.tokens:
            chunk = self.answers.chunks.get(row)
            return self._tokens(chunk) if chunk else {}
        if self.left <= 0:
            return {}
        found = self._read(row)
        self.left -= sum(map(_bytes_of, found.values()))
        return found

    def _tokens(self, chunk: ChunkLosses) -> Content:
        losses = ([None, *side.tolist()] for side in (chunk.original, chunk.result))
        ids = chunk.tokens.tolist()
        return dict(
            zip(("tokens", "original_loss", "result_loss"), (token_texts(self.tokenizer, ids), *losses), strict=True)
        )

    def _array(self, row: int) -> Content:
        """Its numbers where they are few, drawn where it has one or three channels."""
        number = bisect_right(self.ends, row)
        place = row - (self.ends[number - 1] if number else 0)
        batch = self.data[number]
        x = next((batch.inputs[name] for name in ("x", "pixel_values") if name in batch.inputs), None)
        sample = (next(iter(batch.inputs.values())) if x is None else x)[place]
        found: Content = {}
        if sample.numel() <= MOST_NUMBERS:
            found["numbers"] = sample.reshape(-1).float().tolist()
        if sample.dim() == 3 and sample.shape[0] in (1, 3) and self.facts.value_range:
            found["picture"] = _png(drawn(sample, *self.facts.value_range))
        return found

    def _image(self, samples: Images, row: int) -> Content:
        if self.pictures <= 0:
            return {}
        self.pictures -= 1
        image = decoded(samples.archive.read(samples.names[row]))
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        content = io.BytesIO()
        image.save(content, "JPEG", quality=85)
        return {"picture": content.getvalue()}

    def _question(self, samples: Questions, row: int) -> Content:
        question = samples.questions[row]
        return {"text": _short(question.context), "choices": [_short(choice) for choice in question.choices]}


def _png(image: Any) -> bytes:
    content = io.BytesIO()
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    image.save(content, "PNG")
    return content.getvalue()


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"


def _bytes_of(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    return sum(map(_bytes_of, value)) if isinstance(value, list) else 4


def token_texts(tokenizer: Any | None, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; joined, they are the text. Halves of a character wait for the other half.

    Without a tokenizer they are the tokens' numbers.
    """
    if tokenizer is None:
        return [f" {token}" for token in ids]
    found: list[str] = []
    start = given = 0  # of the tokens that are decoded together, and of those of them that were told
    for end in range(1, len(ids) + 1):
        told = tokenizer.decode(ids[start:given], clean_up_tokenization_spaces=False)
        text = tokenizer.decode(ids[start:end], clean_up_tokenization_spaces=False)
        if len(text) > len(told) and (not text.endswith("\ufffd") or end - given > 4):
            found.append(text[len(told) :])
            start, given = given, end
        else:
            found.append("")
    return found

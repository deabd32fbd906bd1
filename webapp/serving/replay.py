"""The child process that replays a dataset through served models: one sample at a time, to each of them in turns.

It is started, speaks and leaves as the engine's child does. The samples are those that every run on the dataset is
judged on, from the first one on, and the answers are scored by the code that measures runs. A model whose process
prepares images or texts itself is sent the file or the text, as its clients send them; any other the numbers.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from webapp.engine.data.batches import Batch, answers
from webapp.engine.data.datasets import open_dataset
from webapp.engine.data.images import Images
from webapp.engine.errors import DatasetUnfit, PareError
from webapp.engine.exporters.onnx.signature import Signature
from webapp.engine.facts import PER_TOKEN, ArchitectureSpec
from webapp.engine.progress import Report
from webapp.engine.run import latency
from webapp.engine.run.child import DONE, FAILED, Lines, leave_with_the_worker, limit_memory
from webapp.engine.run.latency import RESAMPLES, WARM_UP, words
from webapp.engine.run.measure import Collected
from webapp.engine.run.metrics import Samples, summarise
from webapp.engine.run.sample_answers import SampleAnswers, scores_in
from webapp.engine.run.stages.job import EVALUATE_AT_MOST, ModelJob, StageInput, evaluated_as
from webapp.engine.weights.memory import is_want_of_memory
from webapp.units import byte_text

from .client import ModelConnection
from .open_inference import HEADER, datatype
from .traffic import NO_ANSWER, bin_of

MOST_ANSWER_BYTES = 16_000_000  # of a text's scores, which has the whole vocabulary for each token
LEAST_TOKENS = 8
MOST_PAIRS = 1_000  # of latencies that are compared
BLOCKS = 20  # of pairs that follow each other, which a busy machine has disturbed alike
ENOUGH_PAIRS = 200  # for an interval
EXAMPLES = 12  # samples that are named where answers differ
NEAR = 0.01  # numbers that lie closer, of the largest, are the same answer in another arithmetic
SILENT, SILENT_PAUSE_SECONDS = 25, 0.2  # requests in a row that a process did not answer at all: it is gone

RecordedSide = Literal["original", "result"]


class ReplaySide(StageInput):
    """A model that answers at `socket`; `recorded` is whose answers in the run's samples are its own."""

    name: str
    title: str  # what people call it
    socket: str
    signature: Signature
    recorded: RecordedSide | None = None


class ReplayJob(ModelJob):
    """`sides` are the deployment and maybe what it is compared with; `samples_file` is what the run kept of each."""

    sides: list[ReplaySide]
    samples: int
    seconds: float
    timeout_seconds: float
    samples_file: Path | None = None


class Took(NamedTuple):
    """Milliseconds of a request: until a client has the answer, and in the model's process alone."""

    wire: float
    inside: float


class Unanswered(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def preload(*modules: str) -> None:
    """Everything that is imported above."""


def main(job_file: str) -> int:
    lines = Lines()
    threading.Thread(target=leave_with_the_worker, daemon=True).start()
    job = json.loads(Path(job_file).read_text(encoding="utf8"))
    torch.set_num_threads(job.pop("threads", None) or 1)
    limit_memory(job.pop("memory_limit_bytes", None))
    try:
        with torch.inference_mode():
            lines.send({"done": replayed(ReplayJob.model_validate(job), lines)})
    except PareError as error:
        lines.send({"error": error.as_dict()})
        return FAILED
    except (MemoryError, RuntimeError) as error:
        if not is_want_of_memory(error):
            raise
        lines.send(
            {"error": {"code": "out_of_memory", "message": "The process that sends the samples ran out of memory."}}
        )
        return FAILED
    return DONE


@dataclass(frozen=True)
class ReplayedSample:
    """`batch` is the sample, or a question with its choices; `file` or `text` is what is sent instead, if any."""

    batch: Batch
    file: bytes | None = None
    text: str | None = None


class ServedCall(nn.Module):
    """A served model, called like the one that it is; `took` is how long the last answer was on its way."""

    def __init__(self, side: ReplaySide, spec: ArchitectureSpec, timeout_seconds: float) -> None:
        super().__init__()
        self.side, self.named = side, spec.family == "transformers"
        self.took = Took(0.0, 0.0)
        self.sample: ReplayedSample | None = None
        self._connection = ModelConnection(side.socket, timeout_seconds)

    def forward(self, *given: Tensor, use_cache: bool = False, **named: Tensor) -> Any:
        """Raises Unanswered."""
        names = [each.name for each in self.side.signature.inputs]
        found = self._post(*self._request(named or dict(zip(names, given, strict=False))))
        outputs = [torch.from_numpy(found[each.name].copy()) for each in self.side.signature.outputs]
        if self.named:
            return dict(zip((each.name for each in self.side.signature.outputs), outputs, strict=True))
        return outputs if outputs[1:] else outputs[0]

    def answer(self, sample: ReplayedSample, spec: ArchitectureSpec) -> list[Tensor]:
        """What of its answers is judged. Raises Unanswered."""
        self.sample = sample
        return answers(self, spec, sample.batch)

    def close(self) -> None:
        self._connection.close()

    def _request(self, feed: dict[str, Tensor]) -> tuple[str, dict[str, str], bytes]:
        assert self.sample is not None
        name = self.side.name
        if self.sample.file is not None:
            body = {"instances": [{"b64": base64.b64encode(self.sample.file).decode()}]}
            return f"/v1/models/{name}:predict", {}, json.dumps(body).encode()
        asked: dict[str, Any] = {"parameters": {"binary_data_output": True}}
        if self.sample.text is not None:
            asked["inputs"] = [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [self.sample.text]}]
            return f"/v2/models/{name}/infer", {}, json.dumps(asked).encode()
        arrays = {
            each.name: np.ascontiguousarray(feed[each.name].numpy(), each.dtype)
            for each in self.side.signature.inputs
            if each.name in feed
        }
        asked["inputs"] = [
            {
                "name": own,
                "datatype": datatype(str(array.dtype)),
                "shape": list(array.shape),
                "parameters": {"binary_data_size": array.nbytes},
            }
            for own, array in arrays.items()
        ]
        head = json.dumps(asked).encode()
        body_bytes = head + b"".join(array.tobytes() for array in arrays.values())
        return f"/v2/models/{name}/infer", {"Inference-Header-Content-Length": str(len(head))}, body_bytes

    def _post(self, path: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
        """The arrays of the answer by name. Raises Unanswered."""
        start = time.perf_counter()
        try:
            self._connection.request("POST", path, body, headers)
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise Unanswered(NO_ANSWER, "The model's process did not answer.") from error
        wire = 1000 * (time.perf_counter() - start)
        timing = re.search(r"dur=([\d.]+)", answer.headers.get("Server-Timing", ""))
        self.took = Took(wire, float(timing[1]) if timing else wire)
        if answer.status != 200:
            raise Unanswered(answer.status, _told(content))
        if path.startswith("/v1"):
            return self._predicted(json.loads(content)["predictions"])
        size = int(answer.headers.get(HEADER) or len(content))
        found, place = {}, size
        for each in json.loads(content[:size])["outputs"]:
            dtype = next(own.dtype for own in self.side.signature.outputs if own.name == each["name"])
            count = each["parameters"]["binary_data_size"]
            found[each["name"]] = np.frombuffer(content[place : place + count], dtype).reshape(each["shape"])
            place += count
        return found

    def _predicted(self, rows: list[Any]) -> dict[str, Any]:
        outputs = self.side.signature.outputs
        if len(outputs) == 1:
            return {outputs[0].name: np.array(rows, outputs[0].dtype)}
        return {each.name: np.array([row[each.name] for row in rows], each.dtype) for each in outputs}


def _told(content: bytes) -> str:
    try:
        told = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError):
        return "It answered with an error."
    return str(told["message"] if isinstance(told, dict) else told)[:300]


@dataclass
class SideScores:
    """What one model answered: its scores and answers, of the samples in `scored`, in their order."""

    spec: ArchitectureSpec
    collected: Collected = field(init=False)
    answers: SampleAnswers = field(init=False)
    scored: list[int] = field(default_factory=list)
    answered: int = 0
    took: dict[int, Took] = field(default_factory=dict)
    errors: dict[int, int] = field(default_factory=dict)
    error: str | None = None  # the first

    def __post_init__(self) -> None:
        self.collected, self.answers = Collected(self.spec), SampleAnswers(self.spec)

    def add(self, number: int, every: list[Tensor], batch: Batch) -> None:
        self.collected.against_targets(every[0], batch)
        self.answers(batch, every, every)
        self.scored.append(number)

    def fail(self, error: Unanswered) -> None:
        self.errors[error.status] = self.errors.get(error.status, 0) + 1
        self.error = self.error or str(error)


def replayed(job: ReplayJob, report: Report) -> dict[str, Any]:
    """What was answered, how fast, and how that compares. Raises DatasetUnfit."""
    spec = job.spec
    assert spec is not None
    assert job.dataset is not None
    most = EVALUATE_AT_MOST[evaluated_as(job.dataset.facts, spec)]
    job.run.evaluate_at_most = min(job.samples, most)
    report.progress(0.0, "Reading the dataset")
    data = job.evaluation()
    with ExitStack() as held:
        models = [held.enter_context(closing(ServedCall(side, spec, job.timeout_seconds))) for side in job.sides]
        return _sent(job, spec, data, models, report)


def _sent(
    job: ReplayJob, spec: ArchitectureSpec, data: Sequence[Batch], models: list[ServedCall], report: Report
) -> dict[str, Any]:
    total = sum(batch.n for batch in data)
    sides = [SideScores(spec) for _ in models]
    between, pairs = Collected(spec), 0
    begun, told_at, number, tokens = time.monotonic(), 0.0, 0, None
    silent: list[int] = [0] * len(models)  # how often each did not answer at all, the last times in a row
    for sample in samples_of(job, spec, data):
        if number == 0:
            _warm_up(models, spec, sample)
            begun = time.monotonic()
        elif time.monotonic() - begun > job.seconds:
            break
        found: dict[int, list[Tensor]] = {}
        for place in _turns(len(models), number):
            try:
                found[place] = models[place].answer(sample, spec)
            except Unanswered as error:
                sides[place].fail(error)
                silent[place] = silent[place] + 1 if error.status == NO_ANSWER else 0
                continue
            silent[place] = 0
            sides[place].answered += 1
            sides[place].took[number] = models[place].took
        if len(found) == len(models):  # what one alone answered would make figures of different samples
            for place, every in found.items():
                sides[place].add(number, every, sample.batch)
            if len(found) == 2:
                between.against_original(found[1], found[0], sample.batch)
            pairs += 1
        tokens = sample.batch.inputs["input_ids"].shape[1] if spec.task in ("causal-lm", *PER_TOKEN) else None
        number += 1
        if max(silent) >= SILENT:
            break
        if any(silent):
            time.sleep(SILENT_PAUSE_SECONDS)  # it is started again, if it only died
        if time.monotonic() - told_at > 0.2:
            told_at = time.monotonic()
            share = max(number / total, (told_at - begun) / job.seconds)
            report.progress(min(share, 1.0), f"{number:,} of {total:,} samples")
    seconds = time.monotonic() - begun
    if len(models) == 2 and pairs == number == total:
        _time_again(job, spec, data, models, sides, begun)
    recorded = _Recorded.read(job.samples_file) if job.samples_file else None
    return {
        "sent_as": _sent_as(job, spec),
        "tokens": tokens,
        "total": total,
        "replayed": number,
        "seconds": seconds,
        "sides": [
            _told_of(side, given, recorded, job.run.seed, tokens) for side, given in zip(job.sides, sides, strict=True)
        ],
        "speed": _speed(*sides) if len(sides) == 2 else None,
        "between": summarise(between.summed(), job.run.seed) if pairs and len(sides) == 2 else None,
        "load": os.getloadavg()[0] / (os.cpu_count() or 1),
        "gone": [side.title for side, times in zip(job.sides, silent, strict=True) if times >= SILENT],
        "paired": pairs,
    }


def _turns(count: int, number: int) -> range:
    """The models' places in the order in which they are asked: neither always follows the other."""
    return range(count)[:: -1 if number % 2 else 1]


def _time_again(
    job: ReplayJob,
    spec: ArchitectureSpec,
    data: Sequence[Batch],
    models: list[ServedCall],
    sides: list[SideScores],
    begun: float,
) -> None:
    """Sends the samples again, for their time alone: ENOUGH_PAIRS, and as long as disturbances may last."""
    number = len(sides[0].took)
    while True:
        for sample in samples_of(job, spec, data):
            passed = time.monotonic() - begun
            if passed > job.seconds or (number >= ENOUGH_PAIRS and passed > latency.SECONDS):
                return
            try:
                for place in _turns(len(models), number):
                    models[place].answer(sample, spec)
                    sides[place].took[number] = models[place].took
            except Unanswered:
                return
            number += 1


def samples_of(job: ReplayJob, spec: ArchitectureSpec, data: Sequence[Batch]) -> Iterator[ReplayedSample]:
    """One by one, with what is sent of each. Raises DatasetUnfit where an answer would be too large to send."""
    kind, number = _sent_as(job, spec), 0
    files = texts = None
    if kind in ("images", "texts"):
        assert job.dataset is not None
        found = open_dataset(job.dataset.folder, job.dataset.facts, job.preprocessing(), spec).evaluation()
        files, texts = (found if isinstance(found, Images) else None), getattr(found, "texts", None)
    for batch in data:
        if batch.choices is not None:
            size = 4 * batch.inputs["input_ids"].numel() * int(spec.inputs["vocab"])
            if size > 4 * MOST_ANSWER_BYTES:
                raise DatasetUnfit(
                    f"The answer to one question would take {byte_text(size)}: a score for each token of the "
                    "vocabulary at each place of its choices. Replay plain text instead."
                )
            yield ReplayedSample(batch)
            continue
        for place in range(batch.n):
            one = batch.part(place, place + 1)
            if spec.task in ("causal-lm", *PER_TOKEN):
                one = _cut(one, spec)
            file = files.archive.read(files.names[number]) if files is not None else None
            yield ReplayedSample(one, file, texts[number] if texts is not None else None)
            number += 1


def _cut(one: Batch, spec: ArchitectureSpec) -> Batch:
    """As many of a text's first tokens as one answer has room for, with the targets."""
    tokens = max(LEAST_TOKENS, MOST_ANSWER_BYTES // (4 * int(spec.inputs["vocab"])))
    cut = one.beginning(tokens)
    return Batch(cut.inputs, one.targets, one.n)


def _sent_as(job: ReplayJob, spec: ArchitectureSpec) -> Literal["images", "texts", "tokens", "numbers"]:
    assert job.dataset is not None
    if job.dataset.facts.kind == "images" and all(side.signature.preprocessing for side in job.sides):
        return "images"
    labelled = job.dataset.facts.kind == "labelled-text" and spec.task == "text-classification"
    if labelled and all(side.signature.text for side in job.sides):
        return "texts"
    return "tokens" if "vocab" in spec.inputs else "numbers"


def _warm_up(models: list[ServedCall], spec: ArchitectureSpec, sample: ReplayedSample) -> None:
    for model in models * WARM_UP:
        try:
            model.answer(sample, spec)
        except Unanswered:
            return  # the first that counts tells it


def _speed(own: SideScores, other: SideScores) -> dict[str, Any] | None:
    """How many times as fast the deployment answers as what it is compared with, in their processes; None of too few.

    The interval is of a bootstrap over blocks: neighbours in time are disturbed alike, and are no samples of their own.
    """
    both = sorted(own.took.keys() & other.took.keys())
    both = both[:: -(-len(both) // MOST_PAIRS) | 1]  # an odd step: who is asked first stays in turns
    size = len(both) // BLOCKS
    if not size:
        return None
    both = both[: size * BLOCKS]
    pairs = np.array([[side.took[n].inside for n in both] for side in (other, own)])
    drawn = np.random.default_rng(0).integers(0, BLOCKS, (RESAMPLES, BLOCKS))
    medians = np.median(pairs.reshape(2, BLOCKS, size)[:, drawn].reshape(2, RESAMPLES, -1), axis=-1)
    low, high = (float(x) for x in np.percentile(medians[0] / medians[1], [2.5, 97.5]))
    before, after = np.median(pairs, axis=-1)
    ratio = float(before / after)
    return {"ratio": ratio, "ci95": [low, high], "turns": len(both), "words": words(ratio, (low, high))}


def _told_of(
    side: ReplaySide, given: SideScores, recorded: _Recorded | None, seed: int, tokens: int | None
) -> dict[str, Any]:
    times = [took.inside for took in given.took.values()]
    bins: dict[str, int] = {}
    for each in times:
        bins[str(bin_of(each))] = bins.get(str(bin_of(each)), 0) + 1
    scores = given.collected.summed() if given.scored else {}
    known = recorded.beside(side.recorded, given, scores, seed, tokens) if recorded and side.recorded else None
    return {
        "name": side.name,
        "title": side.title,
        "answered": given.answered,
        "errors": {str(status): count for status, count in given.errors.items()},
        "error": given.error,
        "latency_ms": _percentiles(times),
        "client_latency_ms": _percentiles([took.wire for took in given.took.values()]),
        "latencies": bins,
        "metrics": summarise(scores, seed),
        "recorded": known,
    }


def _percentiles(milliseconds: list[float]) -> dict[str, float] | None:
    if not milliseconds:
        return None
    p50, p95 = np.percentile(milliseconds, [50, 95])
    return {"p50": float(p50), "p95": float(p95)}


@dataclass
class _Recorded:
    """What the run kept of its samples, by their place in the dataset."""

    columns: dict[str, list[Any]]

    @classmethod
    def read(cls, path: Path) -> _Recorded:
        import pyarrow.parquet

        file = pyarrow.parquet.ParquetFile(path)
        contents = ("text", "choices", "numbers", "picture", "tokens")
        names = [name for name in file.schema_arrow.names if name not in contents]
        return cls(file.read(columns=names, use_threads=False).sort_by("index").to_pydict())

    def beside(
        self, side: RecordedSide, given: SideScores, scores: dict[str, Samples], seed: int, tokens: int | None
    ) -> dict[str, Any] | None:
        """Its metrics when the run was measured, over the samples answered now, and which it answers otherwise."""
        n = len(self.columns["index"])
        kept = [place for place, number in enumerate(given.scored) if number < n]
        same = [given.scored[place] for place in kept]
        if tokens is not None:
            return self._texts(side, given, scores, seed)
        before = scores_in(self.columns)[0 if side == "original" else 1]
        then = {
            name: Samples([one.sums[number] for number in same], [one.counts[number] for number in same])
            for name, one in before.items()
            if name in scores and len(one.sums) == n and name != "not_finite"
        }
        different = self._different(side, given, kept)
        if not same or (not then and different is None):
            return None
        return {"side": side, "metrics": summarise(then, seed), "compared": len(same), **_examples(different)}

    def _different(self, side: RecordedSide, given: SideScores, kept: list[int]) -> list[int] | None:
        """The samples whose answer is another one than the run kept; None where it kept none to compare."""
        for kind in ("class", "answer"):
            was, now = self.columns.get(f"{side}_{kind}"), given.answers.columns.get(f"result_{kind}")
            if was is not None and now is not None:
                rows = [(given.scored[place], was[given.scored[place]], now[place]) for place in kept]
                return [number for number, one, other in rows if not _alike(one, other)]
        return None

    def _texts(
        self, side: RecordedSide, given: SideScores, scores: dict[str, Samples], seed: int
    ) -> dict[str, Any] | None:
        """Of a language model: the losses of the same first tokens, of the texts whose tokens were kept."""
        losses, now = self.columns.get(f"{side}_loss"), scores.get("perplexity")
        if losses is None or now is None:
            return None
        then, different = Samples([], []), []
        for place, number in enumerate(given.scored):
            if number >= len(losses) or not losses[number]:
                continue
            count = int(now.counts[place])
            nats = sum(losses[number][1 : count + 1])
            then.sums.append(nats)
            then.counts.append(float(count))
            if not abs(nats - now.sums[place]) <= NEAR * nats:
                different.append(number)
        if not then.sums:
            return None
        found = summarise({"perplexity": then}, seed)
        return {"side": side, "metrics": found, "compared": len(then.sums), **_examples(different)}


def _examples(different: list[int] | None) -> dict[str, Any]:
    return {"different": None if different is None else len(different), "examples": (different or [])[:EXAMPLES]}


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        size = max([abs(value) for value in one], default=0.0)
        return len(one) == len(other) and all(
            abs(a - b) <= NEAR * max(size, 1e-6) for a, b in zip(one, other, strict=True)
        )
    return bool(one == other)

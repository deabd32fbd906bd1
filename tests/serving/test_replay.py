"""A dataset replayed through serving processes: scored as runs are, timed in turns, errors counted."""

import json
import zipfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from tests.serving.small_models import WEIGHT, WORDS, architecture
from webapp.engine.data.inspect import inspect_dataset
from webapp.engine.progress import Silent
from webapp.serving import replay
from webapp.serving.replay import ReplayJob, replayed

PROSE = " ".join(["one two three four"] * 40)


@pytest.fixture
def job(tmp_path):
    """Makes a job of the dataset in a file and the models at these sockets."""

    def make(path, spec, *sides, samples=10_000, seconds=60.0, kept=None):
        out = tmp_path / "dataset"
        out.mkdir()
        facts = inspect_dataset(path, path.name, "all", out, Silent())
        checkpoint = {"format": "safetensors", "tensors": [], "layers": [], "weights_bytes": 8, "architecture": spec}
        uploaded = {"name": "x", "digest": "0" * 64}
        return ReplayJob.model_validate(
            {
                "run": {"task": spec["task"]},
                "checkpoint": {
                    **uploaded,
                    "filename": "x",
                    "size_bytes": 8,
                    "facts": checkpoint,
                    "folder": tmp_path / "checkpoint",
                },
                "dataset": {**uploaded, "facts": facts, "folder": out},
                "output": tmp_path / "output",
                "sides": [
                    {
                        "name": name,
                        "title": name,
                        "socket": str(serving.address),
                        "signature": signature(serving),
                        "recorded": side,
                    }
                    for name, serving, side in sides
                ],
                "samples": samples,
                "seconds": seconds,
                "timeout_seconds": 30.0,
                "samples_file": kept,
            }
        )

    return make


def signature(serving):
    return serving.get("/-/state")[1]["signature"]


@pytest.fixture
def rows(tmp_path):
    """40 rows of which the model is right on 30, its answers, and the file."""
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    answers = (x @ WEIGHT).argmax(1)
    np.savez(tmp_path / "rows.npz", x=x, y=np.where(np.arange(40) < 30, answers, 1 - answers))
    return tmp_path / "rows.npz", answers


def recorded(folder, **columns):
    """A run's samples, the last first."""
    order = np.arange(len(next(iter(columns.values()))))[::-1]
    table = pyarrow.table({"index": order} | {name: [column[n] for n in order] for name, column in columns.items()})
    table = table.replace_schema_metadata({b"pare": json.dumps({"version": 1}).encode()})
    pyarrow.parquet.write_table(table, folder / "samples.parquet")
    return folder / "samples.parquet"


ROWS = architecture("classification", shape=[3]) | {"config": {"classes": 2}}
IMAGES = architecture("classification", shape=[3, 2, 2]) | {"config": {"classes": 3}}


def test_a_dataset_is_scored_and_timed_as_served(job, rows, classifier):
    found = replayed(job(rows[0], ROWS, ("rows", classifier, None)), Silent())
    (side,) = found["sides"]
    assert (found["replayed"], found["total"], found["sent_as"]) == (40, 40, "numbers")
    assert side["metrics"]["accuracy"]["value"] == pytest.approx(0.75)
    assert side["metrics"]["accuracy"]["n"] == side["answered"] == 40
    assert 0 < side["latency_ms"]["p50"] <= side["latency_ms"]["p95"]
    assert sum(side["latencies"].values()) == 40
    assert (side["errors"], side["recorded"], found["speed"], found["between"]) == ({}, None, None, None)


def test_it_is_compared_with_what_the_run_kept_of_the_same_samples(job, rows, classifier, tmp_path):
    path, answers = rows
    then = answers.copy()
    then[[3, 7]] = 1 - then[[3, 7]]  # on two of them the run's file had answered otherwise
    right = [float(n < 30 and n not in (3, 7)) for n in range(40)]
    kept = recorded(tmp_path, result_class=then.tolist(), result_accuracy=right, original_accuracy=[1.0] * 40)
    (side,) = replayed(job(path, ROWS, ("rows", classifier, "result"), samples=20, kept=kept), Silent())["sides"]
    assert side["metrics"]["accuracy"]["value"] == 1.0
    assert side["recorded"]["metrics"]["accuracy"]["value"] == pytest.approx(18 / 20)
    assert (side["recorded"]["compared"], side["recorded"]["different"]) == (20, 2)
    assert side["recorded"]["examples"] == [3, 7]


def test_two_models_get_the_same_requests_in_turns(job, rows, classifier):
    sides = ("rows", classifier, None), ("rows", classifier, None)
    found = replayed(job(rows[0], ROWS, *sides), Silent())
    assert found["paired"] == 40
    assert found["between"]["agreement"]["value"] == 1.0
    assert found["between"]["kl_divergence"]["value"] == pytest.approx(0.0, abs=1e-9)
    low, high = found["speed"]["ci95"]
    assert low <= found["speed"]["ratio"] <= high
    assert found["sides"][0]["answered"] == 40
    assert found["speed"]["turns"] >= 200  # they are sent again for their time


def test_who_is_asked_first_makes_no_difference_however_many_there_are(job, rows, classifier):
    spec = job(rows[0], ROWS, ("rows", classifier, None)).spec
    for count in (200, 1500, 2500, 4500):
        own, other = (replay.SideScores(spec) for _ in range(2))
        for number in range(count):
            first = number % 2 == 0  # whoever comes second takes three times as long
            own.took[number] = replay.Took(1.0, 1.0 if first else 3.0)
            other.took[number] = replay.Took(1.0, 3.0 if first else 1.0)
        speed = replay._speed(own, other)
        assert speed["ci95"][0] <= 1.0 <= speed["ci95"][1]
        assert speed["turns"] <= 1000


def test_what_is_refused_or_not_answered_is_an_error_and_no_sample(job, rows, classifier, tmp_path):
    given = job(rows[0], ROWS, ("nobody", classifier, None), ("rows", classifier, None), samples=12)
    given.sides[1].socket = str(tmp_path / "nowhere")
    found = replayed(given, Silent())
    unknown, gone = found["sides"]
    assert unknown["errors"] == {"404": 12}
    assert "There is no such model" in unknown["error"]
    assert gone["errors"] == {"0": 12}
    assert found["gone"] == []
    assert (unknown["metrics"], unknown["latency_ms"], found["between"], found["speed"]) == ({}, None, None, None)


def test_a_model_that_is_gone_ends_it_and_nothing_is_scored_on_samples_of_its_own(job, rows, classifier, monkeypatch):
    monkeypatch.setattr(replay, "SILENT_PAUSE_SECONDS", 0.0)
    given = job(rows[0], ROWS, ("rows", classifier, None), ("rows", classifier, None))
    real, asked = replay.ServedCall.forward, []

    def answer(self, *tensors, **more):
        asked.append(self.side.title)
        if self.side is given.sides[1] and asked.count("other") > 10:
            raise replay.Unanswered(replay.NO_ANSWER, "The model's process did not answer.")
        return real(self, *tensors, **more)

    given.sides[1].title = "other"
    monkeypatch.setattr(replay.ServedCall, "forward", answer)
    found = replayed(given, Silent())
    one, other = found["sides"]
    both = 10 - replay.WARM_UP
    assert (found["gone"], found["replayed"], found["paired"]) == (["other"], both + replay.SILENT, both)
    assert (one["answered"], other["answered"]) == (both + replay.SILENT, both)
    assert one["metrics"]["accuracy"]["n"] == other["metrics"]["accuracy"]["n"] == both


def test_it_ends_when_its_time_is_over(job, rows, classifier):
    found = replayed(job(rows[0], ROWS, ("rows", classifier, None), seconds=1e-9), Silent())
    assert found["replayed"] == 1
    assert found["total"] == 40


def test_a_language_model_reads_text_and_its_losses_are_compared(job, writer, tmp_path):
    (tmp_path / "prose.txt").write_text(PROSE)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/tokenizer.json").write_bytes((writer.folder / "tokenizer.json").read_bytes())
    (tmp_path / "checkpoint/tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    spec = architecture("causal-lm", tokens=8, vocab=len(WORDS))
    given = job(tmp_path / "prose.txt", spec, ("writer", writer, "result"))
    found = replayed(given, Silent())
    (side,) = found["sides"]
    assert (found["sent_as"], found["tokens"]) == ("tokens", 8)
    assert found["replayed"] == 20  # 160 tokens
    # of 7 next tokens in a text 5 or 6 follow as the model foretells; after "four" it foretells the end
    assert 1e3 < side["metrics"]["perplexity"]["value"] < 1e6
    nats = np.log(side["metrics"]["perplexity"]["value"])
    losses = [[None, *[float(nats)] * 7]] * 20
    given.samples_file = recorded(tmp_path, result_loss=losses)
    known = replayed(given, Silent())["sides"][0]["recorded"]
    assert known["compared"] == 20
    assert known["metrics"]["perplexity"]["value"] == pytest.approx(side["metrics"]["perplexity"]["value"], rel=1e-5)


def test_images_are_sent_as_their_files(job, averager, tmp_path):
    folder = tmp_path / "pictures.zip"
    with zipfile.ZipFile(folder, "w") as archive:
        for label, colour in enumerate(((255, 0, 0), (0, 255, 0), (0, 0, 255))):
            for size in (3, 5):
                path = tmp_path / f"{label}-{size}.png"
                Image.new("RGB", (size, size), colour).save(path)
                archive.write(path, f"{label}/{size}.png")
    given = job(folder, IMAGES, ("images", averager, None))
    given.run.preprocessing = signature(averager)["preprocessing"]
    found = replayed(given, Silent())
    assert found["sent_as"] == "images"
    assert found["sides"][0]["metrics"]["accuracy"]["value"] == 1.0

"""Each kind of dataset through every stage of a run: what is measured, calibrated and trained, and what is shared."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from tests.engine.drawn import tone
from tests.engine.run.test_stages import Bench
from webapp.engine.errors import DatasetUnfit, PreprocessingInvalid
from webapp.engine.recipe import Recipe
from webapp.engine.run.receipt_text import render_text
from webapp.engine.run.stages import RunGiven, plan_stages
from webapp.engine.run.stages.base import SourceDigests

PRUNE = ("magnitude_pruning", {"sparsity": 0.5})


def small_cnn(channels=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 16, 2)
    )


@pytest.fixture
def cnn(inspected):
    checkpoint = inspected(small_cnn(), "cnn")
    assert checkpoint[1].architecture.inputs["shape"] == [3, 8, 8]
    return checkpoint


def pets(count=20):
    return {f"pets/{kind}/{n}.png": tone(v, seed=n) for kind, v in (("cat", 200), ("dog", 50)) for n in range(count)}


@pytest.fixture
def images(bench):
    facts = bench.dataset(bench.zip("pets.zip", pets()))
    return bench.out, facts


def test_images_are_measured_calibrated_and_trained_on(tmp_path, cnn, images):
    asked = {"mean": 0.5, "std": 0.25}
    bench = Bench(tmp_path, cnn, images, options={"preprocessing": asked})
    concluded = bench.run(("fine_tune", {"epochs": 15, "learning_rate": 0.01}), ("static_quantization", {}))
    metric = concluded["result"]["metrics"]["accuracy"]
    assert metric["n"] == 12
    assert metric["value"] == 1.0  # light or dark: it was learned
    told = concluded["receipt"]["provenance"]["preprocessing"]
    assert (told["height"], told["resize"], told["mean"]) == (8, "stretch", [0.5])
    assert "images: channels rgb, resize stretch" in render_text(concluded["receipt"])


def test_the_preprocessing_that_was_asked_is_what_is_judged(tmp_path, cnn, images):
    """Values turned around (minus one times) give what the network answers to such numbers."""
    accuracies = []
    for number, asked in enumerate(({}, {"mean": [0.5], "std": [-0.5]})):
        (tmp_path / str(number)).mkdir()
        bench = Bench(tmp_path / str(number), cnn, images, options={"preprocessing": asked})
        concluded = bench.run(PRUNE)
        accuracies.append(json.loads((bench.folders["baseline"] / "scores.json").read_text())["accuracy"]["sums"])
        assert concluded["receipt"]["provenance"]["preprocessing"]["mean"] == asked.get("mean", [0.0])
    assert accuracies[0] != accuracies[1]


def test_another_size_than_the_model_takes_is_refused(tmp_path, cnn, images):
    with pytest.raises(PreprocessingInvalid, match="takes 3 × 8 × 8"):
        Bench(tmp_path, cnn, images, options={"preprocessing": {"height": 9}}).run(PRUNE)


def test_images_do_not_fit_what_takes_rows(tmp_path, mlp, images):
    with pytest.raises(DatasetUnfit, match="does not take images"):
        Bench(tmp_path, mlp, images).run(PRUNE)


def test_the_preprocessing_is_part_of_what_stages_depend_on():
    recipe = Recipe.read({"steps": [{"technique": "magnitude_pruning"}, {"technique": "wanda"}]})

    def key(name, **options):
        return plan_stages(RunGiven(recipe=recipe, **options))[name].key(SourceDigests("c", "d"))

    asked = {"height": 8}
    assert key("baseline") != key("baseline", preprocessing=asked)
    assert key("step-1") == key("step-1", preprocessing=asked)
    assert key("step-2") != key("step-2", preprocessing=asked)


def test_parquet_of_numbers_judges_as_the_same_npz_does(tmp_path, bench, mlp):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 64)).astype(np.float32), rng.integers(0, 10, 60)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    pq.write_table(pa.table({"x": list(x), "label": y}), tmp_path / "d.parquet")
    values = []
    for name in ("d.npz", "d.parquet"):
        facts = bench.dataset(tmp_path / name)
        (tmp_path / f"run-{name}").mkdir()
        values.append(Bench(tmp_path / f"run-{name}", mlp, (bench.out, facts)).run(PRUNE)["result"]["metrics"])
    assert values[0] == values[1]


@pytest.fixture
def llama(bench, tiny, tmp_path, save_tokenizer):
    folder = tmp_path / "llama"
    tiny("LlamaForCausalLM", "llama", bos_token_id=2, eos_token_id=3, pad_token_id=0).save_pretrained(folder)
    save_tokenizer(folder)
    facts = bench.checkpoint(bench.zip_folder(folder))
    return bench.out, facts


@pytest.fixture
def asked(bench):
    words = ["the cat", "a dog", "the mat", "a cat on the mat"]
    rows = [
        {
            "question": f"{words[n % 4]} {'good ' * n}",
            "choices": ["sat on the mat", "ran", "bad ."],
            "answer": "ABC"[n % 3],
        }
        for n in range(30)
    ]
    facts = bench.dataset(bench.file("q.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
    return bench.out, facts


def test_questions_are_judged_before_and_after_and_calibrate(tmp_path, llama, asked):
    concluded = Bench(tmp_path, llama, asked).run(("wanda", {"sparsity": 0.5}), ("weight_quantization", {"bits": 8}))
    for metric in ("accuracy", "accuracy_norm"):
        before, after = (concluded[which]["metrics"][metric] for which in ("baseline", "result"))
        assert before["n"] == after["n"] == 9
        row = next(row for row in concluded["receipt"]["quality"] if row["metric"] == metric)
        assert row["verdict"] in ("worse", "better", "no difference shown")
    assert concluded["receipt"]["verdict"]["metric"] == "accuracy"


def test_questions_do_not_fit_a_classifier(tmp_path, mlp, asked):
    with pytest.raises(DatasetUnfit, match="The dataset holds multiple-choice questions"):
        Bench(tmp_path, mlp, asked).run(PRUNE)

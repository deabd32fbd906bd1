"""What a model is for decides how it is evaluated: by its owner, its architecture, or the targets of the dataset."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.engine.run.test_stages import Bench as Run
from webapp.engine.data.tasks import TITLES, answer_shape, named, possible, resolved, with_task
from webapp.engine.errors import DatasetUnfit, TaskUnfit
from webapp.engine.facts import ArchitectureSpec, CheckpointFacts, DatasetFacts, SplitFacts
from webapp.engine.recipe import Recipe
from webapp.engine.run.checks import NamedDataset, without_data
from webapp.engine.run.receipt import _verdict

LM = ArchitectureSpec(
    family="transformers", title="GPT2LMHeadModel", task="causal-lm", config={}, inputs={"tokens": 64, "vocab": 40}
)
RNG = np.random.default_rng(0)


class UNet(nn.Module):
    def __init__(self, classes=3) -> None:
        super().__init__()
        self.down, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, classes, 1)

    def forward(self, x):
        return self.out(functional.relu(self.down(x)))


def program(classes=None, shape=(8,), hidden=16, scale=1.0):
    """A module of two layers and its one sample's shape."""
    torch.manual_seed(0)
    if len(shape) > 1:
        return UNet(classes).eval()
    module = nn.Sequential(nn.Linear(*shape, hidden), nn.SiLU(), nn.Linear(hidden, classes or 1)).eval()
    module[2].weight.data *= scale
    return module


def exported(bench, module, shape):
    batch = {0: torch.export.Dim("batch")}
    path = bench.root / "m.pt2"
    torch.export.save(torch.export.export(module, (torch.randn(2, *shape),), dynamic_shapes=(batch,)), path)
    return bench.checkpoint(path), bench.out


def run(bench, module, shape, steps=(("weight_quantization", {"bits": 8}),), task=None, **arrays):
    """The concluded run of an exported module on these arrays, and what inspection said of both."""
    facts, folder = exported(bench, module, shape)
    facts = with_task(facts, task) if task else facts
    np.savez(bench.root / "d.npz", **arrays)
    data = bench.dataset(bench.root / "d.npz")
    place = bench.root / "run"
    place.mkdir()
    made = Run(place, (folder, facts), (bench.out, data))
    concluded = made.run(*steps)
    json.dumps(concluded, allow_nan=False)
    return concluded, facts, data


def metrics(concluded, side="result"):
    return {name: metric["value"] for name, metric in concluded[side]["metrics"].items()}


@pytest.mark.parametrize(
    ("outputs", "y", "expected"),
    [
        (1, lambda x: x[:, 0] * 2 - x[:, 1], {"mse", "mae", "r2", "relative_error"}),
        (1, lambda x: (x[:, :1] * 2).astype("f8"), {"mse", "mae", "r2", "relative_error"}),
        (3, lambda x: x[:, :3] + 0.5, {"mse", "mae", "r2", "relative_error"}),
        (1, lambda x: np.arange(len(x)) * 1000 - 5, {"mse", "mae", "r2", "relative_error"}),  # counts
        (3, lambda x: np.arange(len(x)) % 3, {"accuracy", "kl_divergence", "agreement"}),
        (3, lambda x: None, {"relative_error"}),
    ],
)
def test_the_targets_decide_where_nobody_said(bench, outputs, y, expected):
    x = RNG.normal(size=(40, 8)).astype("f4")
    arrays = {"x": x} | ({} if y(x) is None else {"y": y(x)})
    concluded, facts, _ = run(bench, program(outputs), (8,), **arrays)
    assert facts.architecture.task is None
    assert set(concluded["result"]["metrics"]) == expected
    assert all(metric["n"] >= 0 for metric in concluded["result"]["metrics"].values())


def test_regression_is_what_numpy_says(bench):
    module, x = program(2), RNG.normal(size=(30, 8)).astype("f4")
    y = np.stack([x[:, 0] * 3, x[:, 1] * 1e9 + 1e9], 1)  # of very different sizes
    concluded, _, data = run(bench, module, (8,), x=x, y=y)
    out = module(torch.from_numpy(x[21:])).detach().double().numpy()
    apart, spread = (out - y[21:]) ** 2, (y[21:] - y[21:].mean(0)) ** 2
    found = metrics(concluded, "baseline")
    assert found["mse"] == pytest.approx(apart.mean())
    assert found["mae"] == pytest.approx(np.abs(out - y[21:]).mean())
    assert found["r2"] == pytest.approx(np.mean(1 - apart.sum(0) / spread.sum(0)))
    assert (data.targets, data.target_shape) == ("numbers", (2,))
    assert concluded["receipt"]["verdict"]["metric"] == "mse"
    assert concluded["receipt"]["quality"][0]["higher_is_better"] is False


def test_inputs_alone_calibrate_and_distil(bench):
    x = RNG.normal(size=(24, 3, 16, 16)).astype("f4")
    steps = (("wanda", {"sparsity": 0.3}), ("gptq", {"bits": 4}), ("distillation", {"epochs": 2}))
    concluded, _, data = run(bench, program(2, (3, 16, 16)), (3, 16, 16), steps, x=x)
    assert (data.targets, data.labels) == (None, None)
    assert 0 < metrics(concluded)["relative_error"] < 0.5
    assert "Relative error to the original: 0." in concluded["receipt"]["verdict"]["sentence"]
    assert all("relative_error" in step["metrics"] for step in concluded["receipt"]["steps"])


def test_regression_trains_by_the_squared_error(bench):
    x = RNG.normal(size=(200, 8)).astype("f4")
    y = (x[:, 0] * 2 - x[:, 1]).astype("f4")
    steps = (("fine_tune", {"epochs": 20, "learning_rate": 0.01}),)
    concluded, _, _ = run(bench, program(), (8,), steps, x=x, y=y)
    before, after = metrics(concluded, "baseline"), metrics(concluded)
    assert after["mse"] < 0.5 * before["mse"]
    assert after["r2"] > before["r2"]
    assert concluded["receipt"]["verdict"]["verdict"] == "better"


@pytest.mark.parametrize("classes", [1, 3])
def test_masks_are_evaluated_by_mean_iou(bench, classes):
    module, x = program(classes, (3, 12, 12)), RNG.normal(size=(20, 3, 12, 12)).astype("f4")
    with torch.no_grad():
        out = module(torch.from_numpy(x))
    truth = (out[:, 0] > 0).long().numpy() if classes == 1 else out.argmax(1).numpy()
    y = truth.copy()
    y[:, :, :6] = (y[:, :, :6] + 1) % max(classes, 2)  # split of it is wrong
    y[:, 0] = 255  # nothing is known of the first row
    steps = (("fine_tune", {"epochs": 1}), ("distillation", {"epochs": 1}))
    concluded, _, data = run(bench, module, (3, 12, 12), steps, x=x, y=y[:, None].astype(np.uint8))
    assert (data.targets, data.target_shape, len(data.labels)) == ("masks", (12, 12), max(classes, 2))
    wanted, said = y[14:], truth[14:]
    known = wanted != 255
    ious = [
        ((said == c) & (wanted == c) & known).sum() / (((said == c) | (wanted == c)) & known).sum()
        for c in range(max(classes, 2))
    ]
    assert metrics(concluded, "baseline")["mean_iou"] == pytest.approx(np.mean(ious))
    assert {"mean_iou", "kl_divergence", "agreement"} <= set(metrics(concluded))
    assert "mean IoU" in concluded["receipt"]["verdict"]["sentence"]


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("embedding", {"cosine", "spearman"}),
        ("distance only", {"relative_error"}),
        ("classification", {"accuracy", "kl_divergence", "agreement"}),
        ("regression", {"mse", "mae", "r2", "relative_error"}),
    ],
)
def test_the_owner_decides_before_the_targets(bench, task, expected):
    x, y = RNG.normal(size=(40, 8)).astype("f4"), np.arange(40) % 4
    y = np.stack([y, y * 2, y, -y], 1) if task == "regression" else y
    concluded, facts, _ = run(bench, program(4), (8,), task=task, x=x, y=y)
    assert set(concluded["result"]["metrics"]) == expected
    assert facts.architecture.set_by_owner
    assert concluded["receipt"]["provenance"]["task"] in (None, facts.architecture.task)


def facts_of(kind="arrays", **more):
    return DatasetFacts(kind=kind, split="all", evaluation=SplitFacts(n=9, digest="0"), **more)


def spec_of(*shape, vocab=None, task=None):
    inputs = {"shape": [8], "names": ["x"]} if vocab is None else {"tokens": 8, "vocab": vocab}
    return ArchitectureSpec(family="program", title="Net", task=task, config={}, inputs=inputs, outputs=(shape,))


@pytest.mark.parametrize(
    ("spec", "task", "sentence"),
    [
        (spec_of(1), "classification", "answers with one number for each sample"),
        (spec_of(5), "language model", r"every token of its vocabulary at each place, and it answers with \[5\]"),
        (spec_of(5), "segmentation", "scores the classes at each place"),
        (spec_of(3, 8, 8), "embedding", "an embedding is one vector"),
        (spec_of(8, 40, vocab=40), "causal-lm", "does not foretell the next token"),
        (LM, "segmentation", "its architecture has no such head"),
        (LM, "classification", "its architecture has no such head"),
        (spec_of(5), "fortune telling", "There is no task 'fortune telling'; there are classification"),
        (None, "regression", "weights only"),
    ],
)
def test_a_task_that_cannot_be_is_refused_with_the_reason(spec, task, sentence):
    facts = CheckpointFacts(format="a", tensors=(), layers=(), architecture=spec, weights_bytes=1)
    with pytest.raises(TaskUnfit, match=sentence):
        with_task(facts, task)


def test_a_task_is_set_again_and_taken_back():
    facts = CheckpointFacts(format="a", tensors=(), layers=(), architecture=LM, weights_bytes=1)
    distance = with_task(facts, "Distance only")
    assert distance.architecture.task == "distance"
    again = with_task(distance, "language model")
    assert (again.architecture.task, again.architecture.told_task) == ("causal-lm", "causal-lm")
    assert with_task(distance, None).architecture == LM
    assert {task for task, _, reason in possible(distance.architecture) if reason is None} == {"causal-lm", "distance"}
    assert named("classification", LM) == "text-classification"
    assert {task for task, _, _ in possible(LM)} <= set(TITLES)


@pytest.mark.parametrize(
    ("spec", "facts", "task"),
    [
        (spec_of(5), facts_of(labels=("a", "b")), "classification"),
        (spec_of(1), facts_of(labels=("0", "1")), "regression"),
        (spec_of(1), facts_of(labels=("cat", "dog")), "distance"),
        (spec_of(3, 8, 8), facts_of(labels=("0", "1")), "distance"),
        (spec_of(3, 8, 8), facts_of(targets="masks", target_shape=(8, 8), labels=("0",)), "segmentation"),
        (spec_of(3, 8, 8), facts_of(targets="masks", target_shape=(3, 8, 8), labels=("0",)), "regression"),
        (spec_of(1), facts_of(targets="numbers"), "regression"),
        (spec_of(4), facts_of("images"), "distance"),
        (LM, facts_of("text"), "causal-lm"),
    ],
)
def test_what_a_run_is_measured_by(spec, facts, task):
    assert resolved(spec, facts) == task
    assert resolved(spec) == spec.task


@pytest.mark.parametrize(
    ("spec", "facts", "sentence"),
    [
        (spec_of(4, task="classification"), facts_of(targets="numbers"), "Set the checkpoint's task to regression"),
        (spec_of(4, task="classification"), facts_of(targets="masks", labels=("0",)), "task to segmentation"),
        (spec_of(3, 8, 8, task="segmentation"), facts_of(labels=("0", "1"), targets="classes"), "to classification"),
        (spec_of(4, task="regression"), facts_of(targets="numbers", target_shape=(3,)), r"Its y has \[3\] for each"),
        (spec_of(1, task="regression"), facts_of(labels=("cat", "dog")), "the labels cat, dog; a regression"),
        (
            spec_of(2, 8, 8),
            facts_of(targets="masks", target_shape=(8, 8), labels=tuple("012")),
            "3 labels; Net answers",
        ),
    ],
)
def test_targets_that_a_task_cannot_use_are_refused_with_what_to_do(spec, facts, sentence):
    from webapp.engine.data.datasets import fit

    with pytest.raises(DatasetUnfit, match=sentence):
        fit(spec, facts.model_copy(update={"sample_shape": (8,)}))


def test_what_learns_from_labels_is_refused_without_them_before_the_run():
    def told(spec, data, technique):
        facts = CheckpointFacts(format="onnx", tensors=(), layers=(), weights_bytes=0, architecture=spec)
        data = data.model_copy(update={"training": SplitFacts(n=5, digest="")})
        recipe = Recipe.read({"steps": [{"technique": technique}]})
        return list(without_data(facts, recipe, NamedDataset("rows", data), None))

    ((place, sentence),) = told(spec_of(4), facts_of(), "fine_tune")
    assert place == 0
    assert "Fine-tuning learns from labels, and rows has none; use distillation" in sentence
    assert told(spec_of(4), facts_of(), "distillation") == []
    assert "none count where" in told(spec_of(4, task="distance"), facts_of(labels=("0", "1")), "fine_tune")[0][1]
    assert told(spec_of(4), facts_of(targets="numbers"), "fine_tune") == []
    assert told(spec_of(4), facts_of(labels=("0", "1")), "fine_tune") == []
    assert told(LM, facts_of("text"), "fine_tune") == []


@pytest.mark.parametrize(("num_labels", "task"), [(1, "regression"), (3, "text-classification")])
def test_a_head_with_one_number_is_for_regression_on_text(bench, tiny, num_labels, task):
    tiny("BertForSequenceClassification", "bert", num_labels=num_labels).save_pretrained(bench.root / "bert")
    facts = bench.checkpoint(bench.zip_folder(bench.root / "bert"))
    assert (facts.architecture.task, answer_shape(facts.architecture)) == (task, (num_labels,))


class Log(nn.Module):
    """Answers with NaN wherever its first layer is below zero."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x):
        return self.b(torch.log(self.a(x)))


@pytest.mark.parametrize(
    "technique",
    [
        ("gptq", {"bits": 4}),
        ("low_rank", {"ratio": 0.5, "method": "whitened"}),
        ("static_quantization", {}),
    ],
)
def test_an_original_that_answers_with_nan_has_a_receipt_without_a_verdict(bench, technique):
    x = RNG.normal(size=(30, 8)).astype("f4")
    concluded, _, _ = run(bench, Log().eval(), (8,), (technique,), x=x, y=np.arange(30) % 3)
    verdict = concluded["receipt"]["verdict"]
    assert verdict["verdict"] is None
    assert "The original answers 100.0\N{NO-BREAK SPACE}% of 9 samples with NaN or infinity." in verdict["sentence"]
    assert metrics(concluded)["accuracy"] == 0
    assert concluded["receipt"]["proof"][0]["not_finite"] == 1
    assert "nan%" not in str(concluded["receipt"]["requested"])


def test_channels_are_cut_where_what_reads_them_is_given_nan(bench):
    x = RNG.normal(size=(30, 8)).astype("f4")
    step = ("structured_pruning", {"ratio": 0.5, "importance": "reconstruction"})
    concluded, _, _ = run(bench, Log().eval(), (8,), (step,), x=x, y=np.arange(30) % 3)
    assert "8 of 16 neurons stay" in concluded["receipt"]["requested"][0]["done"]


def test_a_result_that_answers_with_nan_is_worse():
    fine = {"value": 0.9, "n": 9, "title": "Accuracy", "higher_is_better": True, "ci95": [0.8, 1.0]}
    broken = {"accuracy": fine | {"value": None}, "not_finite": fine | {"value": 1 / 3}}
    found = {"accuracy": {"difference": None, "ci95": None, "verdict": "worse"}}
    sides = [{"size_bytes": 10, "metrics": {"accuracy": fine}}, {"size_bytes": 5, "metrics": broken}]
    told = _verdict(*sides, found, {})
    assert told["verdict"] == "worse"
    sentence = told["sentence"].replace("\N{NO-BREAK SPACE}", " ")
    assert "90.00 % → not a finite number: worse (n = 9). The result answers 33.3 % of 9 samples" in sentence
    unlabelled = _verdict(*(side | {"metrics_unavailable": None} for side in sides), {}, {})
    assert unlabelled["verdict"] == "worse"

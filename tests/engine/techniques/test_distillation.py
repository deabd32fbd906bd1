"""Distillation wins back what pruning lost, and a run is done anew when another teaches."""

import pytest
import torch

from tests.engine.techniques.training.lessons import after, trained, values
from webapp.engine.architectures.build import build
from webapp.engine.data.batches import batches
from webapp.engine.data.datasets import open_dataset
from webapp.engine.data.inspect import inspect_dataset
from webapp.engine.importers.inspect import inspect_checkpoint
from webapp.engine.progress import Silent
from webapp.engine.recipe import Recipe
from webapp.engine.run.measure import evaluate
from webapp.engine.run.metrics import summarise
from webapp.engine.run.stages import RunGiven, plan_stages
from webapp.engine.run.stages.base import SourceDigests
from webapp.engine.weights import Quantized
from webapp.samples import CHECKPOINT, DATASET


def codes_of(encoded):
    return encoded.codes.numpy().tobytes() if isinstance(encoded, Quantized) else None


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """(folder, facts, training split, a way to tell the accuracy) of the sample."""
    folder, data = tmp_path_factory.mktemp("checkpoint"), tmp_path_factory.mktemp("dataset")
    facts = inspect_checkpoint(CHECKPOINT, CHECKPOINT.name, folder, Silent())
    dataset = open_dataset(data, inspect_dataset(DATASET, DATASET.name, "auto", data, Silent()))

    def accuracy(model):
        data = list(batches(dataset.evaluation(), model.architecture, None))
        scores, _ = evaluate(build(model), model.architecture, data, Silent())
        return summarise(scores)["accuracy"]["value"]

    return folder, facts, dataset.training(), accuracy


def test_a_network_pruned_to_a_tenth_comes_back(digits):
    folder, facts, half, accuracy = digits
    model = after(folder, facts, ("magnitude_pruning", {"sparsity": 0.9}))
    assert accuracy(model) < 0.5
    nonzero = sum(encoded.plan.nonzero for encoded in model.weights.values())
    outcome = trained("distillation", model, facts, half, teacher=after(folder, facts), epochs=4, batch_size=32)
    assert outcome.ok
    assert accuracy(model) > 0.9
    assert sum(encoded.plan.nonzero for encoded in model.weights.values()) <= nonzero


def test_integers_of_two_bits_learn_on_their_grid(digits):
    folder, facts, half, accuracy = digits
    model = after(folder, facts, ("weight_quantization", {"bits": 2}))
    before = accuracy(model)
    assert trained("distillation", model, facts, half, teacher=after(folder, facts), epochs=2, batch_size=32).ok
    assert accuracy(model) > max(before, 0.9)
    assert sum(isinstance(encoded, Quantized) for encoded in model.weights.values()) == 4


def test_scales_alone_heal_two_bits_and_leave_every_code(digits):
    folder, facts, half, accuracy = digits
    model = after(
        folder,
        facts,
        ("magnitude_pruning", {"sparsity": 0.5}),
        ("weight_quantization", {"bits": 2, "symmetric": False}),
    )
    before, codes = accuracy(model), {name: codes_of(encoded) for name, encoded in model.weights.items()}
    old = values(model)
    outcome = trained("distillation", model, facts, half, teacher=after(folder, facts), epochs=1, trains="scales")
    assert outcome.ok
    assert accuracy(model) > before + 0.05
    for name, encoded in model.weights.items():
        assert codes_of(encoded) == codes[name]
        assert not torch.equal(encoded.decode(), old[name]), f"{name} was not trained"
        assert torch.equal(encoded.decode() == 0, old[name] == 0) or codes[name] is None
    assert sum(isinstance(encoded, Quantized) for encoded in model.weights.values()) == 4


def test_scales_alone_leave_matrices_of_floats(digits):
    folder, facts, half, _ = digits
    model = after(folder, facts, ("magnitude_pruning", {"sparsity": 0.8}))
    old = values(model)
    assert trained("distillation", model, facts, half, teacher=after(folder, facts), epochs=1, trains="scales").ok
    moved = {name for name, new in values(model).items() if not torch.equal(old[name], new)}
    assert moved == {name for name, value in old.items() if value.dim() == 1}


def test_another_teacher_is_another_stage_from_the_step_that_it_teaches_on():
    recipe = Recipe.read(
        {"steps": [{"technique": "magnitude_pruning"}, {"technique": "distillation"}, {"technique": "cast"}]}
    )

    def key(stage, teacher):
        return plan_stages(RunGiven(recipe=recipe))[stage].key(SourceDigests("checkpoint", "data", None, teacher))

    for stage in ("baseline", "step-1", "score-1"):
        assert key(stage, None) == key(stage, "other")
    for stage in ("step-2", "score-2", "step-3", "export-safetensors", "verify-safetensors"):
        assert key(stage, None) != key(stage, "other")

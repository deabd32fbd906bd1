"""What the loop promises: it learns, it ends when it should, it keeps the best, and it does the same every time."""

import math

import pytest
import torch
from torch import nn

from tests.engine.techniques.training.lessons import Told, after, blobs, same, trained, values
from webapp.engine.architectures.build import build
from webapp.engine.data.datasets import Arrays, LabelledText, Text
from webapp.engine.errors import DatasetUnfit, RecipeInvalid
from webapp.engine.facts import ArchitectureSpec
from webapp.engine.techniques.calibration import TechniqueData
from webapp.engine.techniques.training import TrainingSamples


def accuracy(model, half) -> float:
    with torch.no_grad():
        return (build(model)(half.x).argmax(-1) == half.y).float().mean().item()


def test_it_learns_what_the_labels_say_and_tells_how_it_went(mlp):
    model, told = after(*mlp), Told()
    outcome = trained("fine_tune", model, mlp[1], blobs(), report=told, epochs=10)
    assert accuracy(model, blobs(seed=5)) > 0.95
    assert outcome.ok
    assert outcome.asked == "10 epochs"
    assert outcome.layer == "2 linear layers, 2 others"
    assert "120 steps of 16 samples, 10 epochs; validation loss" in outcome.done
    series = {name for name, _, _ in told.points}
    assert series == {"Training", "Validation"}
    losses = [next(iter(found.values())) for name, _, found in told.points if name == "Validation"]
    assert losses[-1] < 0.5 * losses[0]
    assert len(losses) >= 10
    assert [x for name, x, _ in told.points if name == "Training"][-1] == 120
    assert "step 120 of 120" in told.messages[-2]


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(mlp):
    found = []
    for seed in (0, 0, 1):
        found.append(after(*mlp))
        trained("fine_tune", found[-1], mlp[1], blobs(), seed=seed, epochs=2)
    first, again, other = map(values, found)
    assert same(first, again)
    assert not same(first, other)


def test_only_the_chosen_layers_are_trained(mlp):
    model = after(*mlp)
    before = values(model)
    trained("fine_tune", model, mlp[1], blobs(), only="2", epochs=1, learning_rate=0.01)
    changed = {name for name, value in values(model).items() if not torch.equal(before[name], value)}
    assert changed == {"2.weight", "2.bias"}


def test_two_batches_of_half_the_size_are_one_of_the_whole(mlp):
    found = []
    for batch, parts in ((16, 1), (8, 2)):
        found.append(after(*mlp))
        trained("fine_tune", found[-1], mlp[1], blobs(), epochs=1, batch_size=batch, accumulate=parts)
    one, two = map(values, found)
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)


def test_it_stops_when_validation_does_not_improve_and_keeps_the_best(mlp):
    """Labels that follow no rule can be learned by heart only, which the held back samples show."""
    noise = Arrays(torch.randn(120, 64), torch.randint(0, 10, (120,)))
    model, told = after(*mlp), Told()
    outcome = trained(
        "fine_tune", model, mlp[1], noise, report=told, epochs=200, learning_rate=0.01, validation=0.3, patience=3
    )
    losses = {x: next(iter(found.values())) for name, x, found in told.points if name == "Validation"}
    assert "ended early" in outcome.done
    best = min(losses, key=losses.get)
    assert len([x for x in losses if x > best]) == 3
    assert f"→ {losses[best]:.4g}" in outcome.done


def test_without_validation_the_last_weights_are_kept(mlp):
    model, told = after(*mlp), Told()
    outcome = trained("fine_tune", model, mlp[1], blobs(), report=told, epochs=1, validation=0.0)
    assert outcome.ok
    assert "validation" not in outcome.done
    assert {name for name, _, _ in told.points} == {"Training"}


def test_the_time_limit_ends_it(mlp):
    limits = {"epochs": 9999, "minutes": 0.005, "patience": 0}  # it never stops early, however quick the machine is
    outcome = trained("fine_tune", after(*mlp), mlp[1], blobs(), **limits, learning_rate=0.01)
    assert outcome.asked == "9999 epochs or 0.005 minutes"
    assert "ended by the time limit" in outcome.done


@pytest.mark.parametrize("validation", [0.0, 0.2])
def test_a_training_that_runs_away_leaves_numbers_and_says_so(mlp, validation):
    model = after(*mlp)
    before = values(model)
    outcome = trained(
        "fine_tune",
        model,
        mlp[1],
        blobs(),
        epochs=40,
        optimizer="sgd",
        learning_rate=10,
        clip=0,
        validation=validation,
        patience=0,
    )
    assert not outcome.ok
    assert outcome.note
    assert all(bool(torch.isfinite(value).all()) for value in values(model).values())
    assert same(before, values(model)) or validation


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_every_optimizer_and_schedule_learns(mlp, optimizer, schedule):
    outcome = trained("fine_tune", after(*mlp), mlp[1], blobs(), epochs=2, optimizer=optimizer, schedule=schedule)
    assert outcome.ok


def test_batch_norm_statistics_follow_the_data_unless_told_otherwise(inspected):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10))
    for follow in (True, False):
        folder, facts = inspected(net)
        model = after(folder, facts)
        trained("fine_tune", model, facts, blobs(), epochs=1, batch_norm=follow)
        assert bool((model.weights["1.running_mean"].decode() != 0).any()) is follow


def test_there_must_be_something_to_train_and_to_train_on(mlp):
    with pytest.raises(DatasetUnfit, match="no samples"):
        trained("fine_tune", after(*mlp), mlp[1], blobs(0))
    with pytest.raises(DatasetUnfit, match="upload a dataset with labels"):
        trained("fine_tune", after(*mlp), mlp[1], Arrays(blobs().x, None))
    with pytest.raises(RecipeInvalid, match="finds nothing to train"):
        trained("fine_tune", after(*mlp), mlp[1], blobs(), only="bias", lora_rank=2)


# The samples

SPEC = ArchitectureSpec(family="sequential", title="a network", task="classification", config={"classes": 10})


def samples_of(half, share=0.1, spec=SPEC, seed=0):
    return TrainingSamples.of(TechniqueData(half, spec, None), share, seed)


def test_no_sample_validates_and_trains_and_every_epoch_sees_all_in_another_order():
    samples = samples_of(blobs(33))
    training, validation = set(samples.training.tolist()), set(samples.validation.tolist())
    assert training | validation == set(range(33))
    assert not training & validation
    assert len(validation) == 3
    each = samples.steps_per_epoch(8)
    epochs = [torch.cat(list(samples.steps(8, each * n, each * (n + 1)))).tolist() for n in range(2)]
    assert set(epochs[0]) == set(epochs[1]) == training
    assert epochs[0] != epochs[1]


def test_going_on_in_the_middle_of_an_epoch_gives_what_was_left():
    samples = samples_of(blobs(50))
    every = [numbers.tolist() for numbers in samples.steps(8, 0, 17)]
    assert [numbers.tolist() for numbers in samples.steps(8, 7, 17)] == every[7:]


def test_no_step_has_a_single_sample_unless_there_is_only_one():
    for n in range(1, 30):
        sizes = {len(numbers) for numbers in samples_of(blobs(n), 0.0).steps(4, 0, 20)}
        assert sizes == {1} if n == 1 else min(sizes) > 1
        assert max(sizes) <= 5


def test_texts_are_cut_into_sentences_for_an_encoder():
    spec = ArchitectureSpec(family="transformers", title="an encoder", task="embedding", config={})
    samples = samples_of(Text("One two three four. Five. Six seven eight nine! Ten eleven twelve?"), 0.0, spec)
    assert samples.source.samples == LabelledText(
        ["One two three four.", "Six seven eight nine!", "Ten eleven twelve?"], None
    )
    assert math.isfinite(len(samples.source))

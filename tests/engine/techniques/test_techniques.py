"""What each technique promises, on real layers: what it removes is gone from the file, what it says it did it did."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from webapp.engine.architectures.build import build
from webapp.engine.facts import CheckpointFacts
from webapp.engine.math import masks
from webapp.engine.progress import Silent
from webapp.engine.recipe import Recipe
from webapp.engine.run.predict import predict, prepare
from webapp.engine.techniques import Context
from webapp.engine.weights.artifact import predicted_size, read_model, write_model
from webapp.engine.weights.model import Model


def applied(folder, facts: CheckpointFacts, *steps) -> tuple[Model, list]:
    """The model after the steps, and the outcomes of the last."""
    model, outcomes = Model.of_checkpoint(folder, facts), []
    recipe = Recipe.read({"steps": [{"technique": name, "settings": values} for name, values in steps]})
    for step in prepare(facts, recipe):
        outcomes = step.technique.apply(model, step.settings, Context(step.layers, 0, Silent()))
    return model, outcomes


def predicted(facts: CheckpointFacts, *steps):
    return predict(facts, Recipe.read({"steps": [{"technique": name, "settings": values} for name, values in steps]}))


def zeros(model: Model, name: str) -> int:
    return int((model.weights[name].decode() == 0).sum())


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.99])
def test_magnitude_pruning_removes_exactly_what_was_asked(mlp, scope, sparsity):
    model, outcomes = applied(*mlp, ("magnitude_pruning", {"sparsity": sparsity, "scope": scope}))
    gone = {name: zeros(model, name) for name in ("0.weight", "2.weight")}
    assert sum(gone.values()) == pytest.approx(sparsity * (64 * 48 + 480), abs=1)
    if scope == "layer":
        assert gone["0.weight"] == round(sparsity * 64 * 48)
    assert all(outcome.ok for outcome in outcomes)


def test_magnitude_pruning_keeps_the_largest(mlp):
    folder, facts = mlp
    before = Model.of_checkpoint(folder, facts).weights["0.weight"].decode()
    model, _ = applied(folder, facts, ("magnitude_pruning", {"sparsity": 0.7}))
    after = model.weights["0.weight"].decode()
    assert before[after == 0].abs().max() <= before[after != 0].abs().min()
    assert torch.equal(after[after != 0], before[after != 0])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 60), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.booleans())
def test_threshold_is_that_of_a_full_sort(seed, size, share, ties):
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(size, generator=generator), torch.randn(3, size, generator=generator)]
    if ties:
        weights = [(w * 2).round() for w in weights]
    count = round(share * 4 * size)
    threshold, left = masks.smallest_threshold(lambda: iter(weights), count)
    removed = []
    for w in weights:
        keep, used = masks.keep_mask(w, threshold, left)
        left -= used
        removed += w[~keep].abs().tolist()
    everything = sorted(torch.cat([w.reshape(-1) for w in weights]).abs().tolist())
    assert sorted(removed) == everything[:count]


@pytest.mark.parametrize("bits", [8, 4])
def test_quantization_is_as_small_as_its_bits(mlp, tmp_path, bits):
    model, _ = applied(*mlp, ("weight_quantization", {"bits": bits}))
    values = 64 * 48 + 480
    stored = sum(encoded.plan.bytes for encoded in model.weights.values())
    assert stored <= math.ceil(values * bits / 8) + 2 * 58 + 4 * 58


def test_finer_groups_lose_less(mlp):
    folder, facts = mlp
    matrix = Model.of_checkpoint(folder, facts).weights["0.weight"].decode()

    def error(**values) -> float:
        model, _ = applied(folder, facts, ("weight_quantization", {"bits": 4, **values}))
        return (model.weights["0.weight"].decode() - matrix).square().sum().item()

    assert error(granularity="group", group_size=8) < error(granularity="group", group_size=32) < error()


def test_cast_leaves_a_layer_that_would_overflow_and_says_so(inspected):
    folder, facts = inspected({"0.weight": torch.full((4, 4), 1e6), "0.bias": torch.zeros(4)})
    model, outcomes = applied(folder, facts, ("cast", {"dtype": "float16"}))
    assert model.weights["0.weight"].dtype == torch.float32
    assert [o.note for o in outcomes if not o.ok] == [
        "16 of its values are beyond the range of torch.float16; use bfloat16"
    ]


ORDERS = [
    [("magnitude_pruning", {"sparsity": 0.6}), ("weight_quantization", {"bits": 8})],
    [("low_rank", {"ratio": 0.5}), ("magnitude_pruning", {"sparsity": 0.5}), ("weight_quantization", {"bits": 4})],
    [("cast", {"dtype": "bfloat16"}), ("magnitude_pruning", {"sparsity": 0.3})],
    [("weight_quantization", {"bits": 4, "granularity": "group", "symmetric": False}), ("cast", {})],
    [("low_rank", {"by": "rank", "rank": 5}), ("cast", {"dtype": "float16"})],
]


@pytest.mark.parametrize("steps", ORDERS)
def test_a_composed_model_is_as_large_as_predicted_and_answers_from_its_file_as_in_memory(mlp, tmp_path, steps):
    told = predicted(mlp[1], *steps)
    model, _ = applied(*mlp, *steps)
    size = write_model(model, tmp_path / "model.safetensors")
    again = read_model(tmp_path / "model.safetensors")
    x = torch.randn(5, 64)
    assert torch.equal(build(again)(x), build(model)(x))
    assert {n: e.plan for n, e in again.weights.items()} == {n: e.plan for n, e in model.weights.items()}
    if told.exact:
        assert told.after.size_bytes == size
    else:  # values that round to zero can only save more; a digit of the header may come or go
        assert 0.85 * told.after.size_bytes <= size <= told.after.size_bytes + 64


@pytest.mark.parametrize("steps", [s for s in ORDERS if "magnitude_pruning" in dict(s)])
def test_pruned_values_stay_zero_through_every_later_step(mlp, steps):
    names = [name for name, _ in steps]
    upto = names.index("magnitude_pruning") + 1
    pruned, _ = applied(*mlp, *steps[:upto])
    final, _ = applied(*mlp, *steps)
    for layer in ("0.weight", "2.weight"):
        assert final.weights[layer].plan.nonzero <= pruned.weights[layer].plan.nonzero


def test_prediction_of_an_untouched_model_is_its_own_file(mlp, tmp_path):
    folder, facts = mlp
    plans = {name: encoded.plan for name, encoded in Model.of_checkpoint(folder, facts).weights.items()}
    size = write_model(Model.of_checkpoint(folder, facts), tmp_path / "again.safetensors")
    assert predicted_size(plans, facts.tied, facts.architecture)[1] == size


def test_transposed_layers_are_quantized_by_output(inspected):
    """GPT-2's Conv1D holds (in, out): a scale belongs to a column there."""
    from webapp.engine.facts import Layout
    from webapp.engine.math.grids import QuantizationScheme
    from webapp.engine.weights import Quantized

    weight = torch.randn(6, 4) * torch.tensor([1.0, 10.0, 100.0, 1000.0])
    encoded = Quantized.nearest(weight, QuantizationScheme(8), Layout(transposed=True))
    assert encoded.plan.rows == 4
    assert ((encoded.decode() - weight).abs() <= weight.abs().amax(0) / 127 * 0.6).all()


def test_a_tied_head_stays_tied_and_is_stored_once(inspected, tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(20, 8)
            self.head = nn.Linear(8, 20, bias=False)
            self.head.weight = self.embed.weight

    folder, facts = inspected(Tied())
    assert facts.tied
    model, outcomes = applied(folder, facts, ("weight_quantization", {"bits": 8}))
    assert len(outcomes) == 1
    write_model(model, tmp_path / "m.safetensors")
    again = read_model(tmp_path / "m.safetensors")
    assert again.tied == facts.tied
    assert len(again.weights) == 1

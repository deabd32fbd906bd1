"""GPTQ on real layers: nearer in its outputs than rounding, whatever kind of layer it is and whatever came before."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from webapp.engine.architectures.build import build
from webapp.engine.data.batches import outputs
from webapp.engine.errors import RecipeInvalid
from webapp.engine.facts import LayerFacts, Layout
from webapp.engine.math.grids import QuantizationScheme
from webapp.engine.recipe import Recipe
from webapp.engine.run.predict import predict
from webapp.engine.techniques import technique
from webapp.engine.techniques.calibration import WeightMatrix
from webapp.engine.weights import Dense, Quantized
from webapp.engine.weights.artifact import read_model, write_model
from webapp.engine.weights.model import Model

GROUPS = {"bits": 3, "granularity": "group", "group_size": 16}


def answers(model, data):
    module = build(model)
    with torch.no_grad():
        return torch.cat([outputs(module, model.architecture, batch).flatten() for batch in data.batches])


def errors(checkpoint, apply_steps, data, *before, **values):
    """Squared errors of the answers after rounding and after GPTQ of the same layers with the same settings."""
    layers = {"include": [layer.name for layer in checkpoint[1].layers if layer.kind != "embedding"]}
    start, _ = apply_steps(checkpoint, *before, data=data)
    expected, found = answers(start, data), []
    for name in ("weight_quantization", "gptq"):
        model, outcomes = apply_steps(checkpoint, *before, (name, {**GROUPS, **values}, layers), data=data)
        assert all(outcome.ok for outcome in outcomes)
        found.append(float((answers(model, data) - expected).square().sum()))
    return found


@pytest.fixture
def data(mlp, given_batches):
    made = given_batches(mlp[1].architecture, 64)
    mix = torch.randn(64, 64, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.05, 1, 64)
    for batch in made.batches:
        (name,) = batch.inputs
        batch.inputs[name] = batch.inputs[name] @ mix
    return made


@pytest.mark.parametrize("values", [{}, {"symmetric": False}, {"numbers": "fitted"}, {"granularity": "channel"}])
def test_answers_are_nearer_than_roundings(mlp, apply_steps, data, values):
    rounding, gptq = errors(mlp, apply_steps, data, **values)
    assert gptq < 0.8 * rounding


def test_low_rank_puts_back_some_of_the_error_of_the_answers(mlp, apply_steps, data):
    for name in ("gptq", "awq"):
        expected, found = answers(apply_steps(mlp, data=data)[0], data), []
        for rank in (0, 4):
            model, _ = apply_steps(mlp, (name, {**GROUPS, "compensation_rank": rank}), data=data)
            assert {model.weights[layer.weight].plan.params > layer.size for layer in mlp[1].layers} == {rank > 0}
            found.append(float((answers(model, data) - expected).square().sum()))
        assert found[1] < 0.9 * found[0]


@pytest.mark.parametrize("before", [("magnitude_pruning", {"sparsity": 0.5}), ("low_rank", {"ratio": 0.6})])
def test_what_came_before_is_kept(mlp, apply_steps, data, before):
    rounding, gptq = errors(mlp, apply_steps, data, before, bits=4)
    assert gptq < rounding
    earlier, _ = apply_steps(mlp, before)
    later, _ = apply_steps(mlp, before, ("gptq", GROUPS), data=data)
    for old, new in zip(earlier.weights["0.weight"].leaves, later.weights["0.weight"].leaves, strict=True):
        if old.plan.pruned:
            assert bool((new.decode()[old.decode() == 0] == 0).all())
            assert new.plan.pruned


@pytest.mark.parametrize(("name", "family"), [("LlamaForCausalLM", "llama"), ("GPT2LMHeadModel", "gpt2")])
def test_transformers_are_rounded_block_by_block(bench, tiny, tmp_path, apply_steps, given_batches, name, family):
    tiny(name, family).save_pretrained(tmp_path / "model")
    facts = bench.checkpoint(bench.zip_folder(tmp_path / "model"))
    data = given_batches(facts.architecture, 8)
    model, outcomes = apply_steps((bench.out, facts), ("gptq", GROUPS), data=data)
    assert all(outcome.ok for outcome in outcomes)
    write_model(model, tmp_path / "m.safetensors")
    assert torch.equal(answers(read_model(tmp_path / "m.safetensors"), data), answers(model, data))
    rounding, gptq = errors((bench.out, facts), apply_steps, data)
    assert gptq < rounding


def test_convolutions_are_rounded_by_their_patches(inspected, apply_steps, given_batches):
    torch.manual_seed(0)
    convolutions = nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()
    checkpoint = inspected(nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(128, 10)))
    rounding, gptq = errors(checkpoint, apply_steps, given_batches(checkpoint[1].architecture, 8))
    assert gptq < rounding


def compressed(weight, rows, groups=1, **values):
    """One matrix through the technique, with these rows (n, groups, columns) for its inputs."""
    statistic = technique("gptq").statistic(groups, rows.shape[2])
    statistic.add(rows)
    kind = "linear" if weight.dim() == 2 else "conv"
    layer = LayerFacts(name="a", weight="a.weight", kind=kind, shape=tuple(weight.shape))
    chosen = technique("gptq").Settings.model_validate({**GROUPS, "group_size": 8, **values})
    matrix = WeightMatrix(layer, "a", "", Layout(groups=groups), Model({"a.weight": Dense(weight)}))
    return technique("gptq").compress_matrix(matrix, statistic, chosen, None)


@pytest.mark.parametrize("values", [{}, {"symmetric": False}])
def test_groups_of_a_convolution_have_inputs_of_their_own(values):
    generator = torch.Generator().manual_seed(0)
    weight, rows = torch.randn(6, 2, 3, 3, generator=generator), torch.randn(40, 2, 18, generator=generator)
    rows[:, 0, :9] *= 30
    together, _ = compressed(weight, rows, groups=2, **values)
    plain = Quantized.nearest(weight, QuantizationScheme(3, 8, values.get("symmetric", True), search=True))
    for half, part in enumerate((slice(0, 3), slice(3, 6))):
        ours, theirs = (
            (rows[:, half] @ (encoded.decode() - weight).flatten(1)[part].t()).square().sum()
            for encoded in (together, plain)
        )
        assert ours < theirs


def test_a_layer_with_a_covariance_beyond_numbers_is_rounded_and_says_so(mlp, apply_steps, given_batches):
    data = given_batches(mlp[1].architecture)
    for batch in data.batches:
        (name,) = batch.inputs
        batch.inputs[name] = torch.full_like(batch.inputs[name], 1e30)
    model, outcomes = apply_steps(mlp, ("gptq", GROUPS), data=data)
    assert not outcomes[0].ok
    assert "could not be inverted" in outcomes[0].note
    assert bool(torch.isfinite(model.weights["0.weight"].decode()).all())


def test_integers_are_refused(mlp):
    steps = [{"technique": "weight_quantization"}, {"technique": "gptq"}]
    with pytest.raises(RecipeInvalid, match="integers already"):
        predict(mlp[1], Recipe.read({"steps": steps}))


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 9),
    columns=st.sampled_from([1, 3, 17, 130]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    numbers=st.sampled_from(["int", "fitted"]),
    kind=st.sampled_from(["plain", "dead column", "all zeros", "silent inputs"]),
)
def test_any_shape_and_dtype_is_rounded_finitely(rows, columns, dtype, numbers, kind):
    generator = torch.Generator().manual_seed(rows * columns)
    weight = torch.randn(rows, columns, generator=generator).to(dtype) * (0 if kind == "all zeros" else 1)
    inputs = torch.randn(12, 1, columns, generator=generator) * (0 if kind == "silent inputs" else 1)
    inputs[..., 0] *= 0 if kind == "dead column" else 1
    encoded, outcome = compressed(weight, inputs, numbers=numbers)
    assert outcome.ok
    assert (encoded.shape, encoded.dtype) == ((rows, columns), dtype)
    assert bool(torch.isfinite(encoded.decode().float()).all())

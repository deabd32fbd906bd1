"""Rounding without data: as small as its bits, as near as its scales allow, and by layer as it was asked."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.engine.architectures.build import build
from webapp.engine.facts import LayerFacts
from webapp.engine.progress import Silent
from webapp.engine.recipe import StepSettings
from webapp.engine.techniques import Context, technique
from webapp.engine.weights import Dense
from webapp.engine.weights.artifact import read_model, write_model
from webapp.engine.weights.model import Model

GROUPS = {"granularity": "group", "group_size": 16}


def rounded(**values):
    return "weight_quantization", values


def weight(checkpoint, name="0.weight"):
    return Model.of_checkpoint(*checkpoint).weights[name].decode().float()


def error(checkpoint, apply_steps, **values) -> float:
    model, _ = apply_steps(checkpoint, rounded(**values))
    return float((model.weights["0.weight"].decode() - weight(checkpoint)).square().sum())


@pytest.mark.parametrize("bits", [8, 6, 5, 4, 3, 2])
@pytest.mark.parametrize("more", [{}, {"symmetric": False}, {"numbers": "normal"}, {"numbers": "fitted"}])
def test_the_file_is_as_small_as_its_bits(mlp, apply_steps, tmp_path, bits, more):
    model, outcomes = apply_steps(mlp, rounded(bits=bits, **GROUPS, **more))
    assert all(outcome.ok for outcome in outcomes)
    for name, values, groups in (("0.weight", 64 * 48, 4 * 48), ("2.weight", 480, 30)):
        extra = groups * bits / 8 if more.get("symmetric") is False else 4 * 2**bits if more else 0
        assert model.weights[name].plan.bytes <= math.ceil(values * bits / 8) + 2 * groups + math.ceil(extra)
    path = tmp_path / "model.safetensors"
    assert write_model(model, path) == path.stat().st_size
    x = torch.randn(3, 64)
    assert torch.equal(build(read_model(path))(x), build(model)(x))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_what_costs_more_time_loses_less(mlp, apply_steps, bits):
    by_range = error(mlp, apply_steps, bits=bits, scale="range", **GROUPS)
    by_search = error(mlp, apply_steps, bits=bits, **GROUPS)
    assert by_search < by_range
    normal, fitted = (error(mlp, apply_steps, bits=bits, numbers=n, **GROUPS) for n in ("normal", "fitted"))
    assert fitted < normal


def test_8_bits_are_the_same_however_the_scale_is_found(mlp, apply_steps):
    assert error(mlp, apply_steps, bits=8) == error(mlp, apply_steps, bits=8, scale="range")


@pytest.mark.parametrize("more", [{}, {"symmetric": False}, {"numbers": "normal"}, {"numbers": "fitted"}])
def test_pruned_weights_stay_zero(mlp, apply_steps, more):
    prune = ("magnitude_pruning", {"sparsity": 0.6})
    before, _ = apply_steps(mlp, prune)
    after, _ = apply_steps(mlp, prune, rounded(bits=3, **more))
    zeros = before.weights["0.weight"].decode() == 0
    assert bool((after.weights["0.weight"].decode()[zeros] == 0).all())
    assert after.weights["0.weight"].plan.pruned


@pytest.mark.parametrize("before", [(), (("magnitude_pruning", {"sparsity": 0.6}),)])
def test_low_rank_puts_back_some_of_the_error_in_the_bytes_that_were_planned(mlp, apply_steps, before):
    chosen = technique("weight_quantization").Settings(bits=3, compensation_rank=2, **GROUPS)
    found = [apply_steps(mlp, *before, rounded(bits=3, compensation_rank=rank, **GROUPS)) for rank in (0, 2)]
    (plain, _), (model, outcomes) = found
    earlier, _ = apply_steps(mlp, *before)
    for layer, outcome in zip(mlp[1].layers, outcomes, strict=True):
        weight, was = model.weights[layer.weight], earlier.weights[layer.weight]
        errors = [(each.decode() - was.decode()).square().sum() for each in (plain.weights[layer.weight], weight)]
        assert errors[1] < 0.95 * errors[0]
        assert (outcome.ok, outcome.done) == (True, weight.plan.label)
        assert weight.plan.rank == 2
        planned = technique("weight_quantization").plan(layer, was.plan, chosen)
        for part, each in zip(weight.plan.each, planned.each, strict=True):
            assert part.sparse or part.bytes == each.bytes
        base = weight.factors["base"].decode()
        assert not before or bool((base[was.decode() == 0] == 0).all())


def test_what_can_take_no_factors_is_rounded_without_and_says_so(mlp, apply_steps):
    more = {"bits": 3, "compensation_rank": 4}
    for steps in ([rounded(**more | {"compensation_rank": 40})], [("low_rank", {"ratio": 0.5}), rounded(**more)]):
        model, outcomes = apply_steps(mlp, *steps)
        assert not any(outcome.ok for outcome in outcomes)
        assert all("no low-rank factors were added" in outcome.note for outcome in outcomes)
        assert all(each.plan.kind != "compensated" for each in model.weights.values())


def test_factors_are_rounded_each_for_itself(mlp, apply_steps):
    model, _ = apply_steps(mlp, ("low_rank", {"ratio": 0.5, "form": "factors"}), rounded(bits=4))
    assert {type(leaf).__name__ for leaf in model.weights["0.weight"].leaves} == {"Quantized"}


shapes = st.sampled_from([(1, 1), (1, 40), (40, 1), (7, 13), (3, 2, 3, 3)])
values = st.fixed_dictionaries(
    {
        "bits": st.sampled_from([8, 5, 3, 2]),
        "symmetric": st.booleans(),
        "numbers": st.sampled_from(["int", "normal", "fitted"]),
        "granularity": st.sampled_from(["channel", "group"]),
        "group_size": st.just(8),
    }
)


@settings(deadline=None, max_examples=40)
@given(shapes, values, st.sampled_from([torch.float32, torch.float16, torch.bfloat16]), st.integers(0, 3))
def test_any_shape_and_dtype_is_rounded_finitely(shape, values, dtype, kind):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(kind)).to(dtype)
    matrix = matrix * (0 if kind == 1 else 1)
    if kind == 2:
        matrix[..., 0] = 0
    layer = LayerFacts(name="a", weight="a.weight", kind="conv" if len(shape) == 4 else "linear", shape=shape)
    model, found = Model({"a.weight": Dense(matrix)}), technique("weight_quantization")
    chosen = found.Settings.model_validate(values)
    (outcome,) = found.apply(model, StepSettings(chosen), Context([layer], 0, Silent()))
    after = model.weights["a.weight"]
    assert outcome.ok
    assert (after.shape, after.dtype) == (shape, dtype)
    assert bool(torch.isfinite(after.decode().float()).all())
    assert bool((after.decode()[matrix == 0] == 0).all())

"""What Wanda and SparseGPT both promise: the zeros that were asked for, in every layer and whatever came before."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from webapp.engine.architectures.build import build
from webapp.engine.data.batches import outputs
from webapp.engine.errors import DatasetUnfit, RecipeInvalid
from webapp.engine.facts import LayerFacts, Layout
from webapp.engine.recipe import Recipe
from webapp.engine.run.predict import predict
from webapp.engine.techniques import technique
from webapp.engine.techniques.calibration import WeightMatrix
from webapp.engine.weights import Dense
from webapp.engine.weights.model import Model

BOTH = pytest.mark.parametrize("name", ["wanda", "sparsegpt"])


def answers(model, data):
    module = build(model)
    with torch.no_grad():
        return torch.cat([outputs(module, model.architecture, batch).flatten() for batch in data.batches])


@BOTH
@pytest.mark.parametrize(("class_name", "family"), [("LlamaForCausalLM", "llama"), ("GPT2LMHeadModel", "gpt2")])
def test_transformers(bench, tiny, tmp_path, apply_steps, given_batches, name, class_name, family):
    tiny(class_name, family).save_pretrained(tmp_path / "model")
    facts = bench.checkpoint(bench.zip_folder(tmp_path / "model"))
    model, outcomes = apply_steps((bench.out, facts), (name, {}), data=given_batches(facts.architecture))
    linear = [layer for layer in facts.layers if layer.kind == "linear"]
    assert [outcome.layer for outcome in outcomes] == [layer.name for layer in linear]
    for layer, outcome in zip(linear, outcomes, strict=True):
        zeros = model.weights[layer.weight].decode() == 0
        assert (outcome.ok, int(zeros.sum())) == (True, layer.size // 2)
        if name == "wanda" and layer.transposed:
            assert zeros.sum(0).unique().tolist() == [layer.shape[0] // 2]


@BOTH
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_convolutions(inspected, apply_steps, given_batches, name, pattern):
    torch.manual_seed(0)
    convolutions = nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()
    checkpoint = inspected(nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(128, 10)))
    data = given_batches(checkpoint[1].architecture)
    model, outcomes = apply_steps(checkpoint, (name, {"pattern": pattern}), data=data)
    first, second, _ = (model.weights[layer.weight].decode() for layer in checkpoint[1].layers)
    if pattern == "unstructured":
        assert (int((first == 0).sum()), int((second == 0).sum())) == (36, 288)
    else:
        assert (second != 0).view(8, 2, 4, 9).sum(2).unique().tolist() == [2]
    assert [outcome.ok for outcome in outcomes] == [pattern == "unstructured", True, True]


@BOTH
@pytest.mark.parametrize("values", [{"sparsity": 0.35}, {"pattern": "4:8"}])
def test_groups_of_a_convolution_have_inputs_of_their_own(name, values):
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(6, 8, 3, 3, generator=generator), torch.randn(400, 3, 72, generator=generator)
    x[:, 1, :36] *= 100
    encoded, _ = compressed(name, weight, x, 3, values)
    gone = encoded.decode().flatten(1) == 0
    assert int(gone.sum()) == round(6 * 72 * (0.35 if "sparsity" in values else 0.5))
    if "sparsity" in values:
        assert int(gone[2:4, :36].sum()) < 5 < int(gone[:2, :36].sum())


@BOTH
def test_both_factors_of_a_factored_layer(mlp, apply_steps, given_batches, name):
    steps = ("low_rank", {"ratio": 0.5}), (name, {"sparsity": 0.4})
    model, outcomes = apply_steps(mlp, *steps, data=given_batches(mlp[1].architecture))
    for leaf in model.weights["0.weight"].leaves:
        assert leaf.plan.pruned
        assert leaf.plan.zeros == round(0.4 * leaf.plan.size)
    assert outcomes[0].done == "40.0\N{NO-BREAK SPACE}%"


@BOTH
def test_zeros_of_before_count_and_later_steps_keep_them(mlp, apply_steps, given_batches, name):
    data, before = given_batches(mlp[1].architecture), ("magnitude_pruning", {"sparsity": 0.3})
    earlier = apply_steps(mlp, before)[0].weights["0.weight"].decode() == 0
    steps = before, (name, {"sparsity": 0.5}), ("weight_quantization", {"bits": 8})
    pruned = apply_steps(mlp, *steps[:2], data=data)[0].weights["0.weight"].decode() == 0
    last = apply_steps(mlp, *steps, data=data)[0].weights["0.weight"].decode() == 0
    assert bool(pruned[earlier].all())
    assert int(pruned.sum()) == 48 * 32
    assert bool(last[pruned].all())


@BOTH
def test_integers_and_runs_without_data_are_refused(mlp, apply_steps, name):
    steps = [{"technique": "weight_quantization"}, {"technique": name}]
    with pytest.raises(RecipeInvalid, match=f"put {name} before the quantization"):
        predict(mlp[1], Recipe.read({"steps": steps}))
    with pytest.raises(DatasetUnfit, match="calibrates on data"):
        apply_steps(mlp, (name, {}))


def setting_of(name, values):
    return technique(name).Settings.model_validate(values)


def compressed(name, weight, x, groups, values):
    """One matrix through the technique, with these rows (n, groups, columns) for its inputs."""
    statistic = technique(name).statistic(groups, x.shape[2])
    statistic.add(x)
    kind = "linear" if weight.dim() == 2 else "conv"
    layer = LayerFacts(name="a", weight="a.weight", kind=kind, shape=tuple(weight.shape))
    matrix = WeightMatrix(layer, "a", "", Layout(groups=groups), Model({"a.weight": Dense(weight)}))
    return technique(name).compress_matrix(matrix, statistic, setting_of(name, values), None)


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(["wanda", "sparsegpt"]),
    rows=st.integers(1, 9),
    columns=st.sampled_from([1, 3, 8, 17, 130]),
    samples=st.sampled_from([1, 200]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    values=st.sampled_from([{"sparsity": 0.0}, {"sparsity": 0.5}, {"sparsity": 0.99}, {"pattern": "2:4"}]),
    broken=st.sampled_from(["", "dead column", "zeros", "inputs of zero", "inputs beyond numbers"]),
)
def test_any_matrix(name, rows, columns, samples, dtype, values, broken):
    generator = torch.Generator().manual_seed(rows * columns)
    weight = torch.randn(rows, columns, generator=generator).to(dtype)
    x = torch.randn(samples, 1, columns, generator=generator)
    if broken == "dead column":
        x[..., 0] = 0
    if broken == "zeros":
        weight.zero_()
    if broken.startswith("inputs"):
        x.fill_(0 if broken == "inputs of zero" else 1e30)
    encoded, outcome = compressed(name, weight, x, 1, values)
    result = encoded.decode()
    assert (result.dtype, result.shape) == (dtype, weight.shape)
    assert bool(torch.isfinite(result).all())
    layer, chosen = LayerFacts(name="a", weight="a", kind="linear", shape=(rows, columns)), setting_of(name, values)
    assert encoded.plan == technique(name).plan(layer, Dense(weight).plan, chosen)
    assert not broken.startswith("inputs") or "magnitude alone decided" in outcome.note
    alone = weight.numel() == 1 and values == {"sparsity": 0.5} and outcome.skipped  # half of one weight is none
    assert outcome.ok or "groups of 4" in outcome.note or alone

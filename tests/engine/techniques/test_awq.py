"""AWQ on real layers: scales are folded where the block allows, verified, and the file says the same as the model."""

import pytest
import torch
from torch import nn

from webapp.engine.architectures.build import build
from webapp.engine.data.batches import outputs
from webapp.engine.progress import Silent
from webapp.engine.techniques.awq import UNSCALED
from webapp.engine.techniques.calibration import calibration_blocks
from webapp.engine.techniques.calibration.folding import fold, producers
from webapp.engine.weights import Dense
from webapp.engine.weights.artifact import read_model, write_model
from webapp.engine.weights.model import Model

GROUPS = {"bits": 3, "granularity": "group", "group_size": 8}


@pytest.fixture
def transformer(bench, tiny, tmp_path):
    """A checkpoint of that class; a few inputs of every layer are made loud."""

    def make(name, family, dtype=torch.float32, **changes):
        module = tiny(name, family, **changes)
        with torch.no_grad():
            for path, part in module.named_modules():
                if path.endswith("norm") or "layernorm" in path or ".ln_" in path:
                    part.weight[::5] *= 12
        module.to(dtype).save_pretrained(tmp_path / "model")
        facts = bench.checkpoint(bench.zip_folder(tmp_path / "model"))
        return bench.out, facts

    return make


def answers(model, data):
    module = build(model)
    with torch.no_grad():
        return torch.cat([outputs(module, model.architecture, batch).flatten() for batch in data.batches])


def linear(facts):
    return [layer for layer in facts.layers if layer.kind == "linear"]


def folded(checkpoint, data):
    """The model after folding random scales wherever that holds, and the layers that took them."""
    model, took = Model.of_checkpoint(*checkpoint), []
    for block in calibration_blocks(model, linear(checkpoint[1]), data.batches, Silent()):
        for matrices, candidates in producers(block):
            scales = torch.rand(matrices[0].floats().shape[1], generator=torch.Generator().manual_seed(1)) + 0.5
            if any(fold(block, producer, matrices, scales) for producer in candidates):
                took += [matrix.path.split(".", 3)[-1] for matrix in matrices]
    return model, set(took)


SCALED = [
    ("llama", "LlamaForCausalLM", {}, {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"}),
    ("llama", "LlamaForCausalLM", {"num_key_value_heads": 2}, {"q_proj", "o_proj", "gate_proj", "down_proj"}),
    ("gpt2", "GPT2LMHeadModel", {}, {"c_attn", "c_fc"}),
    ("bert", "BertModel", {}, {"dense"}),
]


@pytest.mark.parametrize(("family", "name", "changes", "expected"), SCALED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folding_leaves_the_answers_as_they_were(transformer, given_batches, family, name, changes, expected, dtype):
    checkpoint = transformer(name, family, dtype, **changes)
    data = given_batches(checkpoint[1].architecture)
    before = answers(Model.of_checkpoint(*checkpoint), data)
    model, took = folded(checkpoint, data)
    assert {path.rpartition(".")[2] for path in took} >= expected
    change = (answers(model, data) - before).norm() / before.norm()
    assert change < (1e-4 if dtype == torch.float32 else 0.05)
    assert all(encoded.dtype == dtype for name, encoded in model.weights.items())


def test_what_cannot_be_folded_is_put_back(transformer, given_batches):
    """BERT adds a normalisation's output to the residual as well, so its scales cannot move there."""
    checkpoint = transformer("BertModel", "bert")
    data = given_batches(checkpoint[1].architecture)
    model, took = folded(checkpoint, data)
    assert not any("query" in path or "intermediate" in path for path in took)
    untouched = Model.of_checkpoint(*checkpoint)
    for name in model.weights:
        if "LayerNorm" in name or "query" in name:
            assert torch.equal(model.weights[name].decode(), untouched.weights[name].decode())


@pytest.mark.parametrize(("family", "name"), [("llama", "LlamaForCausalLM"), ("gpt2", "GPT2LMHeadModel")])
def test_answers_are_nearer_than_roundings(transformer, apply_steps, given_batches, tmp_path, family, name):
    checkpoint = transformer(name, family)
    data = given_batches(checkpoint[1].architecture, 8)
    layers = {"include": [layer.name for layer in linear(checkpoint[1])]}
    expected, errors = answers(Model.of_checkpoint(*checkpoint), data), []
    for technique in ("weight_quantization", "awq"):
        model, outcomes = apply_steps(checkpoint, (technique, GROUPS, layers), data=data)
        assert not any(outcome.skipped for outcome in outcomes)
        errors.append(float((answers(model, data) - expected).square().sum()))
    assert errors[1] < errors[0]
    write_model(model, tmp_path / "m.safetensors")
    assert torch.equal(answers(read_model(tmp_path / "m.safetensors"), data), answers(model, data))


def test_relu_lets_scales_through_and_the_first_layer_has_nothing_before_it(mlp, apply_steps, given_batches):
    data = given_batches(mlp[1].architecture, 16)
    for batch in data.batches:
        (name,) = batch.inputs
        batch.inputs[name] = batch.inputs[name] * torch.linspace(0.1, 9, 64)
    model, (first, second) = apply_steps(mlp, ("awq", GROUPS), data=data)
    assert first.note == UNSCALED
    assert second.note == ""
    assert (first.ok, first.skipped) == (False, False)
    assert not torch.equal(model.weights["0.bias"].decode(), Model.of_checkpoint(*mlp).weights["0.bias"].decode())


def test_pruned_and_factored_layers_keep_their_form(mlp, apply_steps, given_batches):
    data = given_batches(mlp[1].architecture, 8)
    prune, factor = ("magnitude_pruning", {"sparsity": 0.5}), ("low_rank", {"ratio": 0.6, "form": "factors"})
    before, _ = apply_steps(mlp, prune)
    after, _ = apply_steps(mlp, prune, ("awq", GROUPS), data=data)
    for name in ("0.weight", "2.weight"):
        assert bool((after.weights[name].decode()[before.weights[name].decode() == 0] == 0).all())
    thin, _ = apply_steps(mlp, factor, ("awq", GROUPS), data=data)
    assert {type(leaf).__name__ for leaf in thin.weights["0.weight"].leaves} == {"Quantized"}


@pytest.mark.parametrize("kind", ["all zeros", "a dead column"])
def test_degenerate_layers_are_rounded(inspected, apply_steps, given_batches, kind):
    module = nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        module[2].weight[:, 0 if kind == "a dead column" else slice(None)] = 0
        module[0].weight[0 if kind == "a dead column" else slice(None)] = 0
    checkpoint = inspected(module)
    model, outcomes = apply_steps(checkpoint, ("awq", GROUPS), data=given_batches(checkpoint[1].architecture))
    assert not any(outcome.skipped for outcome in outcomes)
    assert all(bool(torch.isfinite(encoded.decode()).all()) for encoded in model.weights.values())
    assert not any(isinstance(model.weights[name], Dense) for name in ("0.weight", "2.weight"))

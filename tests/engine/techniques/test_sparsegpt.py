"""SparseGPT: nearer in its answers than Wanda, nearer still after its rounds, and told where data say little."""

import pytest
import torch

from webapp.engine.architectures.build import build
from webapp.engine.data.batches import outputs
from webapp.engine.weights.artifact import read_model, write_model


def answers(model, data):
    module = build(model)
    with torch.no_grad():
        return torch.cat([outputs(module, model.architecture, batch).flatten() for batch in data.batches])


@pytest.fixture
def data(mlp, given_batches):
    """Inputs that go together, as those of trained networks do."""
    made = given_batches(mlp[1].architecture, 64)
    mix = torch.randn(64, 64, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.05, 1, 64)
    for batch in made.batches:
        (name,) = batch.inputs
        batch.inputs[name] = batch.inputs[name] @ mix
    return made


def errors(checkpoint, apply_steps, data, *choices):
    """Squared errors of the answers after each (technique, settings)."""
    expected = answers(apply_steps(checkpoint)[0], data)
    models = (apply_steps(checkpoint, choice, data=data)[0] for choice in choices)
    return [float((answers(model, data) - expected).square().sum()) for model in models]


@pytest.mark.parametrize("values", [{"sparsity": 0.5}, {"sparsity": 0.8}, {"pattern": "2:4"}, {"pattern": "4:8"}])
def test_answers_are_nearer_than_wandas_and_with_rounds_nearer_still(mlp, apply_steps, data, values):
    choices = ("wanda", values), ("sparsegpt", {**values, "rounds": 0}), ("sparsegpt", values)
    wanda, once, rounds = errors(mlp, apply_steps, data, *choices)
    assert rounds < once < 0.9 * wanda


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "BertModel"])
def test_transformers_answer_from_their_file(bench, tiny, tmp_path, apply_steps, given_batches, name):
    tiny(name, "llama" if name.startswith("Llama") else "bert").save_pretrained(tmp_path / "model")
    facts = bench.checkpoint(bench.zip_folder(tmp_path / "model"))
    data = given_batches(facts.architecture, 8)
    wanda, sparsegpt = errors((bench.out, facts), apply_steps, data, ("wanda", {}), ("sparsegpt", {}))
    assert sparsegpt < wanda
    model, _ = apply_steps((bench.out, facts), ("sparsegpt", {}), data=data)
    write_model(model, tmp_path / "m.safetensors")
    assert torch.equal(answers(read_model(tmp_path / "m.safetensors"), data), answers(model, data))


def test_a_covariance_that_needs_more_damping_is_told(mlp, apply_steps, given_batches):
    data = given_batches(mlp[1].architecture, 1)
    _, outcomes = apply_steps(mlp, ("sparsegpt", {"damping": 0.0}), data=data)
    assert outcomes[0].ok
    assert "damping was raised to 0.0001" in outcomes[0].note


def test_ratios_by_sensitivity_keep_the_total_and_are_told(mlp, apply_steps, data):
    model, outcomes = apply_steps(mlp, ("sparsegpt", {"sparsity": 0.6, "allocation": "sensitivity"}), data=data)
    done = [float(outcome.done.rstrip("%")) / 100 for outcome in outcomes]
    sizes = [48 * 64, 480]
    assert [outcome.asked for outcome in outcomes] == ["60.0\N{NO-BREAK SPACE}% over all layers of this sparsity"] * 2
    assert all(outcome.ok for outcome in outcomes)
    assert done[0] != done[1]
    zeros = [model.weights[name].plan.zeros for name in ("0.weight", "2.weight")]
    assert sum(zeros) == pytest.approx(0.6 * sum(sizes), rel=0.002)
    assert done == pytest.approx([zero / size for zero, size in zip(zeros, sizes, strict=True)], abs=6e-4)

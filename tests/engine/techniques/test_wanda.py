"""Wanda: the paper's score, row by row, and a better choice than magnitude's where inputs differ in size."""

import pytest
import torch

from webapp.engine.architectures.build import build
from webapp.engine.data.batches import outputs


def answers(model, data):
    module = build(model)
    with torch.no_grad():
        return torch.cat([outputs(module, model.architecture, batch).flatten() for batch in data.batches])


@pytest.fixture
def data(mlp, given_batches):
    """Inputs of very different sizes, neighbours too."""
    scale = torch.linspace(0.01, 2, 64)[torch.randperm(64, generator=torch.Generator().manual_seed(1))]
    made = given_batches(mlp[1].architecture, 64)
    for batch in made.batches:
        (name,) = batch.inputs
        batch.inputs[name] = batch.inputs[name] * scale
    return made


def test_scores_are_the_papers(mlp, apply_steps, data):
    """|W_ij| ||x_j||, and of every row the smallest half goes."""
    before, _ = apply_steps(mlp)
    model, _ = apply_steps(mlp, ("wanda", {"sparsity": 0.5}), data=data)
    weight, was = (each.weights["0.weight"].decode() for each in (model, before))
    norms = torch.cat([batch.inputs["x"] for batch in data.batches]).norm(dim=0)
    for row, earlier in zip(weight, was, strict=True):
        gone = (earlier.abs() * norms).argsort()[:32]
        assert sorted((row == 0).nonzero().flatten().tolist()) == sorted(gone.tolist())
    assert torch.equal(weight[weight != 0], was[weight != 0])


def test_later_layers_see_what_pruned_ones_put_out(mlp, apply_steps, data):
    model, _ = apply_steps(mlp, ("wanda", {"sparsity": 0.9}), data=data)
    first, bias = (model.weights[name].decode() for name in ("0.weight", "0.bias"))
    was = apply_steps(mlp)[0].weights["2.weight"].decode()
    x = torch.relu(torch.cat([batch.inputs["x"] for batch in data.batches]) @ first.t() + bias)
    scores = was.abs() * x.norm(dim=0)
    kept = model.weights["2.weight"].decode() != 0
    for row, stays in zip(scores, kept, strict=True):
        assert row[stays].min() >= row[~stays].max()


@pytest.mark.parametrize("values", [{"sparsity": 0.5}, {"pattern": "2:4"}, {"pattern": "4:8"}])
def test_answers_change_less_than_by_magnitude(mlp, apply_steps, data, values):
    expected = answers(apply_steps(mlp)[0], data)
    ours, theirs = (
        (answers(apply_steps(mlp, (name, values), data=data)[0], data) - expected).square().sum()
        for name in ("wanda", "magnitude_pruning")
    )
    assert ours < 0.9 * theirs

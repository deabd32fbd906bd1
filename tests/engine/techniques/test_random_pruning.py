"""Random pruning: as many as asked, the same ones for the same seed, others for another."""

import pytest
import torch


def gone(model, name="0.weight"):
    return model.weights[name].decode() == 0


@pytest.mark.parametrize("sparsity", [0.0, 0.37, 0.99])
def test_as_many_go_as_asked(mlp, apply_steps, sparsity):
    model, outcomes = apply_steps(mlp, ("random_pruning", {"sparsity": sparsity}))
    assert int(gone(model).sum()) == round(sparsity * 48 * 64)
    assert all(outcome.ok for outcome in outcomes)


def test_the_seed_decides(mlp, apply_steps):
    one, again, other = (gone(apply_steps(mlp, ("random_pruning", {}), seed=seed)[0]) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_zeros_of_before_count(mlp, apply_steps):
    earlier, _ = apply_steps(mlp, ("magnitude_pruning", {"sparsity": 0.4}))
    later, _ = apply_steps(mlp, ("magnitude_pruning", {"sparsity": 0.4}), ("random_pruning", {"sparsity": 0.5}))
    assert bool(gone(later)[gone(earlier)].all())
    assert int(gone(later).sum()) == round(0.5 * 48 * 64)

"""The covariance of the gradients at a matrix's outputs is that of the whole model's."""

import pytest
import torch

from tests import zoo
from webapp.engine.architectures.build import build
from webapp.engine.data.batches import answers, synthetic
from webapp.engine.data.tasks import for_task
from webapp.engine.progress import Silent
from webapp.engine.techniques.calibration import gradients
from webapp.engine.techniques.calibration.drawn_loss import DrawnLoss
from webapp.engine.techniques.calibration.gradients import learned
from webapp.engine.weights.model import Model


def given(family, task=None):
    folder, facts = zoo.checkpoint(family)
    model = Model.of_checkpoint(folder, facts)
    if task is not None:
        model.architecture = for_task(model.architecture, task)
    return model, facts.layers, [synthetic(model.architecture, seed) for seed in range(3)]


def both(found):
    return {"gradients": found.gradients, "inputs": found.inputs.mean}


def by_hand(model, layers, data, seed):
    """G of each linear layer, by its name, from the whole model's weights' gradients sample by sample."""
    module, loss, sums = build(model), DrawnLoss(model.architecture, data, seed), {}

    def watch(name):
        def add(gradient):
            rows = gradient.reshape(-1, gradient.shape[-1])
            sums[name] = sums.get(name, 0) + rows.t() @ rows

        return lambda _, __, output: output.register_hook(add) and None

    for layer in layers:
        part = dict(module.named_modules()).get(layer.name)
        if isinstance(part, torch.nn.Linear) and layer.kind == "linear":
            part.register_forward_hook(watch(layer.name))
    module.requires_grad_(True)
    for index, batch in enumerate(data):
        loss.of(index, answers(module, model.architecture, batch)).backward()
    return {name: total / loss.count for name, total in sums.items()}


def test_they_are_drawn_towards_the_identity_as_far_as_batches_differ():
    """Closer to what all samples would give than the sum is, and left alone where all batches agree."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(24, 24, generator=generator) * torch.linspace(0.2, 2, 24)
    batches, alike = gradients._Batches(), gradients._Batches()
    for _ in range(8):
        rows = torch.randn(6, 24, generator=generator) @ root.t()
        batches.add((rows.t() @ rows)[None])
        alike.add((root @ root.t())[None])
    true = 48 * root @ root.t()
    assert (batches.shrunk()[0] - true).norm() < 0.9 * (batches.total[0] - true).norm()
    torch.testing.assert_close(batches.shrunk()[0].trace(), batches.total[0].trace())
    torch.testing.assert_close(alike.shrunk()[0], 8 * root @ root.t())


@pytest.mark.parametrize(("family", "task"), [("llama", None), ("bert", "embedding"), ("mlp", "classification")])
def test_they_are_those_of_the_whole_model(family, task, tmp_path, monkeypatch):
    monkeypatch.setattr(gradients._Batches, "shrunk", lambda self: self.total)
    model, layers, data = given(family, task)
    found = learned(model, layers, data, 0, tmp_path, Silent(), both)
    expected = by_hand(model, layers, data, 0)
    assert expected
    for name, total in expected.items():
        if total.abs().max() > 0:
            torch.testing.assert_close(found.of(name)["gradients"][0], total, rtol=1e-3, atol=1e-6 * float(total.max()))


def test_filters_share_a_pass_as_far_as_their_covariances_fit(tmp_path, monkeypatch):
    model, layers, data = given("cnn", "classification")
    together = learned(model, layers, data, 0, tmp_path / "a", Silent(), both)
    monkeypatch.setattr(gradients, "AT_ONCE", 1)
    apart = learned(model, layers, data, 0, tmp_path / "b", Silent(), both)
    filters = [layer.name for layer in layers if layer.kind == "conv"]
    assert filters
    for name in filters:
        torch.testing.assert_close(together.of(name), apart.of(name))


def test_a_killed_process_goes_on(tmp_path):
    model, layers, data = given("llama")
    expected = learned(model, layers, data, 0, tmp_path / "whole", Silent(), both)
    calls = []

    def killed(found):
        calls.append(found.matrix.path)
        if len(calls) == 9:  # within the second of the blocks
            raise KeyboardInterrupt
        return both(found)

    with pytest.raises(KeyboardInterrupt):
        learned(model, layers, data, 0, tmp_path / "killed", Silent(), killed)
    again = []
    found = learned(
        model, layers, data, 0, tmp_path / "killed", Silent(), lambda one: again.append(one.matrix.path) or both(one)
    )
    assert not set(again) & set(calls[:7])
    for path in {*calls, *again}:
        torch.testing.assert_close(found.of(path), expected.of(path))
    assert learned(model, layers, data, 0, tmp_path / "killed", Silent(), killed).of(again[0])  # nothing is done anew


def test_where_nothing_goes_back_there_are_none(tmp_path, monkeypatch):
    model, layers, data = given("mlp", "classification")
    monkeypatch.setattr(DrawnLoss, "of", lambda self, index, found: found[0].detach().sum())
    assert learned(model, layers, data, 0, tmp_path, Silent(), both) is None

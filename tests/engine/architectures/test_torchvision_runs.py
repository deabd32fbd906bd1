"""What comes in by torchvision's names goes through the techniques and out again: cut, quantized, factored, as ONNX."""

import numpy as np
import onnxruntime
import pytest
import torch

from tests.engine.architectures import torchvision_shapes as shapes
from webapp.engine.architectures.build import build
from webapp.engine.data.batches import synthetic
from webapp.engine.exporters import exporters
from webapp.engine.techniques.surgery import look_at
from webapp.engine.techniques.surgery.surgery import cut
from webapp.engine.weights import Dense
from webapp.engine.weights.model import Model

GIVEN = {
    "vgg": lambda: shapes.vgg(11, True, thinner=8, classes=5, hidden=32),
    "mobilenet_v2": lambda: shapes.mobilenet_v2(0.1, classes=5),
    "efficientnet": lambda: shapes.efficientnet("thin", classes=5),
}


@pytest.fixture(params=list(GIVEN))
def network(request, inspected):
    found = inspected(shapes.state(GIVEN[request.param]()), request.param)
    assert found[1].architecture.family == request.param
    return found


def answer(model, x):
    with torch.inference_mode():
        return build(model)(x)


@pytest.mark.parametrize(
    "network",
    ["vgg", *(pytest.param(name, marks=pytest.mark.slow) for name in ("efficientnet", "mobilenet_v2"))],
    indirect=True,
)
def test_weights_are_pruned_quantized_and_factored_and_the_onnx_file_answers_alike(network, apply_steps, tmp_path):
    steps = ("magnitude_pruning", {"sparsity": 0.3}), ("low_rank", {"ratio": 0.7}), ("weight_quantization", {"bits": 8})
    model, outcomes = apply_steps(network, *steps)
    assert outcomes
    exporters()["onnx"].write(model, tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for size in ((2, 3, 64, 64), (1, 3, 96, 40)):
        x = torch.randn(size)
        expected, found = answer(model, x), torch.from_numpy(session.run(None, {"x": x.numpy()})[0])
        assert torch.allclose(found, expected, atol=2e-4 * max(1.0, float(expected.abs().max())))


def test_channels_leave_the_shapes_and_what_stays_comes_in_again(network, apply_steps, inspected):
    facts = network[1]
    settings = {"ratio": 0.5, "round_to": 1, "importance": "l2"}
    model, outcomes = apply_steps(network, ("structured_pruning", settings))
    assert len(outcomes) == len(facts.layers)
    assert len(look_at(facts).groups) >= 8
    assert not any(outcome.skipped for outcome in outcomes)
    state = {name: encoded.decode() for name, encoded in model.weights.items()}
    assert sum(value.numel() for value in state.values()) < 0.5 * facts.params_total
    x = synthetic(facts.architecture, 3).inputs["x"]
    expected = answer(model, x)
    assert expected.shape == (len(x), 5)
    folder, again = inspected(state, "cut")
    assert again.architecture.family == facts.architecture.family
    assert torch.allclose(answer(Model.of_checkpoint(folder, again), x), expected, atol=1e-5)


def test_a_cut_of_nothing_but_idle_channels_changes_no_answer(network, apply_steps):
    """Every second channel of each group is switched off first: those are what leaves."""
    folder, facts = network
    model = Model.of_checkpoint(folder, facts)
    x = synthetic(facts.architecture, 1).inputs["x"]
    for group in look_at(facts).groups[:6]:
        idle = torch.arange(0, group.width, 2)
        for member in group.members:
            if member.role == "scales" or member.role == "makes":
                value = model.weights[member.tensor].decode().clone()
                value.index_fill_(member.dim, member.places(idle), 0.0)
                model.weights[member.tensor] = Dense(value)
        before = answer(model, x)
        cut(model, group, torch.from_numpy(np.setdiff1d(np.arange(group.width), idle)))
        after = answer(model, x)
        assert torch.allclose(before, after, atol=1e-4 * float(before.abs().max()))

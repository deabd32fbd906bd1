"""Chains of linear layers and plain CNNs: what is recognised answers as the network that was saved."""

import json

import pytest
import torch
from torch import nn

from webapp.engine.architectures import architecture, classes, recognise
from webapp.engine.data.tasks import answer_shape
from webapp.engine.errors import CheckpointRefused
from webapp.engine.facts import TensorFacts


def facts_of(state):
    kinds = {name: str(value.dtype).removeprefix("torch.") for name, value in state.items()}
    return {name: TensorFacts(name=name, shape=tuple(t.shape), dtype=kinds[name]) for name, t in state.items()}


def rebuilt(network, config=None):
    """(the spec, the module that Pare builds, with the network's weights)"""
    state = network.state_dict()
    spec = recognise(facts_of(state), config)
    assert spec is not None
    module = architecture(spec).skeleton(spec)
    assert all(value.is_meta for value in module.state_dict().values())
    module.load_state_dict(state, assign=True)
    return spec, module


def trained_norms(network):
    for part in network.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return network.eval()


class Named(nn.Module):
    """Layers under names that tell nothing of their order but for how they are saved."""

    def __init__(self):
        super().__init__()
        self.input, self.hidden, self.answer = nn.Linear(12, 7), nn.Linear(7, 5), nn.Linear(5, 3, bias=False)

    def forward(self, x):
        return self.answer(self.hidden(self.input(x).relu()).relu())


@pytest.mark.parametrize(
    ("network", "title"),
    [
        (nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 3)), "MLP 12-7-3 (ReLU assumed)"),
        (nn.Sequential(nn.Linear(12, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3)), "MLP 12-7-3 (ReLU assumed)"),
        (nn.Sequential(nn.Linear(12, 3)), "MLP 12-3"),
        (Named(), "MLP 12-7-5-3 (ReLU assumed)"),
    ],
)
def test_a_chain_of_linear_layers_answers_as_it_did(network, title):
    spec, module = rebuilt(trained_norms(network))
    assert (spec.family, spec.title, spec.task, answer_shape(spec)) == ("sequential", title, None, (3,))
    x = torch.randn(4, 3, 4)
    assert torch.equal(module(x), network(x.flatten(1)))
    assert ("ReLU is assumed" in (spec.config["assumed"] or "")) == ("assumed" in title)


def test_the_order_of_the_names_may_be_that_of_a_sorted_file():
    layers = {f"fc{n}": nn.Linear(9 - n % 2, 9 - (n + 1) % 2) for n in range(1, 12)}
    network = nn.ModuleDict(layers)
    shuffled = dict(sorted(network.state_dict().items()))
    spec = recognise(facts_of(shuffled), None)
    assert [step["name"] for step in spec.config["steps"] if step["op"] == "linear"] == list(layers)


def test_shapes_tell_the_order_where_names_do_not():
    network = Named()
    spec = recognise(facts_of(dict(sorted(network.state_dict().items()))), None)
    module = architecture(spec).skeleton(spec)
    module.load_state_dict(network.state_dict(), assign=True)
    x = torch.randn(4, 12)
    assert torch.equal(module(x), network(x))


def test_two_possible_orders_are_not_guessed_between():
    network = nn.ModuleDict({"b": nn.Linear(4, 8), "c": nn.Linear(4, 8), "d": nn.Linear(8, 4)})  # b-d-c or c-d-b
    assert recognise(facts_of(network.state_dict()), None) is None


class Cnn(nn.Module):
    def __init__(self, pooled):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 5, padding=2)
        self.fc1, self.fc2 = nn.Linear(8 if pooled else 8 * 9, 10), nn.Linear(10, 4)
        self.pooled = pooled

    def forward(self, x):
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        return self.fc2(self.fc1(x.mean((2, 3)) if self.pooled else x.flatten(1)).relu())


@pytest.mark.parametrize(("pooled", "shape"), [(False, [2, 12, 12]), (True, [2, None, None])])
def test_a_plain_cnn_answers_as_it_did_where_the_assumptions_hold(pooled, shape):
    network = trained_norms(Cnn(pooled))
    spec, module = rebuilt(network)
    assert (spec.family, spec.inputs, classes(spec)) == ("cnn", {"shape": shape}, 4)
    assert "assumed" in spec.title
    assert "2 × 2 max pool" in spec.config["assumed"]
    x = torch.randn(3, 2, 12, 12)
    assert torch.allclose(module(x), network(x), atol=1e-6)


@pytest.mark.parametrize("pooled", [False, True])
def test_a_cnn_is_recognised_from_a_sorted_file(pooled):
    network = trained_norms(Cnn(pooled))  # sorted: bn1, conv1, conv2, fc1, fc2
    spec = recognise(facts_of(dict(sorted(network.state_dict().items()))), None)
    names = [step["name"] for step in spec.config["steps"] if "name" in step]
    assert names == ["conv1", "bn1", "conv2", "fc1", "fc2"]


def test_numbered_norms_find_their_layer_in_a_sorted_file():
    block = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
    more = [nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
    head = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    network = nn.Sequential()
    network.add_module("features", nn.Sequential(*block, *more))
    network.add_module("classifier", head)  # sorted before features
    trained_norms(network)
    spec = recognise(facts_of(dict(sorted(network.state_dict().items()))), None)
    module = architecture(spec).skeleton(spec)
    module.load_state_dict(network.state_dict(), assign=True)
    x = torch.randn(2, 1, 8, 8)
    assert torch.allclose(module(x), network(x), atol=1e-6)


TOLD = {
    "family": "cnn",
    "input": [1, 10, 10],
    "steps": [
        {"op": "conv2d", "name": "0", "stride": 2},
        {"op": "tanh"},
        {"op": "avg_pool2d", "size": 2},
        {"op": "flatten"},
        {"op": "linear", "name": "4"},
    ],
}


def unusual():
    return nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 5))


def test_an_architecture_in_the_metadata_is_exact():
    network = unusual()
    spec, module = rebuilt(network, {"pare_architecture": TOLD})
    assert spec.config["assumed"] is None
    assert "assumed" not in spec.title
    x = torch.randn(3, 1, 10, 10)
    assert torch.equal(module(x), network(x))
    json.dumps(spec.model_dump(mode="json"))


def test_an_mlp_in_the_metadata_is_exact():
    network = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2))
    steps = [{"op": "linear", "name": "0"}, {"op": "gelu"}, {"op": "linear", "name": "2"}]
    spec, module = rebuilt(network, {"pare_architecture": {"family": "sequential", "steps": steps}})
    assert spec.title == "MLP 4-6-2"
    x = torch.randn(3, 4)
    assert torch.equal(module(x), network(x))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"steps": None}, 'no "steps"'),
        ({"steps": [{"op": "explode"}]}, "names the step .explode."),
        ({"steps": [{"op": "max_pool2d"}]}, "without a size"),
        ({"steps": [{"op": "max_pool2d", "size": "2"}]}, "has size .2."),
        ({"steps": [{"op": "linear", "name": "9"}]}, r"names 9, but there is no 9\.weight"),
        ({"steps": [{"op": "conv2d", "name": "4"}]}, r"4\.weight has shape \[5, 12\]; a conv2d has 4 axes"),
        ({"steps": TOLD["steps"][:1]}, r"the file holds 4\.bias, 4\.weight, which pare_architecture does not name"),
        ({"input": [3, 10, 10]}, r"input \[3, 10, 10\]; the first convolution expects \[1, height, width\]"),
        ({"input": [1, 90, 90]}, r"an input of \[1, 90, 90\] does not pass through"),
        ({"input": [1, -1, "a"]}, r"the first convolution expects"),
    ],
)
def test_an_architecture_that_does_not_fit_is_refused(change, sentence):
    with pytest.raises(CheckpointRefused, match=sentence):
        recognise(facts_of(unusual().state_dict()), {"pare_architecture": {**TOLD, **change}})


def test_a_bias_of_another_size_is_refused():
    state = unusual().state_dict() | {"4.bias": torch.zeros(6)}
    with pytest.raises(CheckpointRefused, match=r"4\.bias has shape \[6\]; 4 of 5 outputs expects \[5\]"):
        recognise(facts_of(state), {"pare_architecture": TOLD})


@pytest.mark.parametrize(
    "network",
    [
        nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Linear(5, 6)}),  # not a chain
        nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)),  # something else between
        nn.Sequential(nn.Conv2d(1, 2, 3)),  # no head
        nn.Sequential(nn.Conv2d(1, 2, 2), nn.Linear(8, 2)),  # an even kernel cannot keep the size
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(10, 2)),  # 5 is no square
        nn.ModuleDict({"embedding": nn.Embedding(5, 3)}),
    ],
)
def test_what_is_neither_is_left_alone(network):
    assert recognise(facts_of(network.state_dict()), None) is None


def test_names_that_modules_keep_for_themselves_are_refused_with_a_sentence():
    state = {"forward.weight": torch.zeros(2, 3), "forward.bias": torch.zeros(2)}
    with pytest.raises(CheckpointRefused, match="a layer is called forward"):
        recognise(facts_of(state), None)

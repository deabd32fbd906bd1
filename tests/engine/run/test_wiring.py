"""No guessing at wiring: what depends on it runs only where it is certain, or where labels confirm the guess."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from tests.engine.run.test_stages import Bench as Run
from tests.engine.techniques.test_structured_pruning import RESNET
from webapp.engine.architectures.build import build
from webapp.engine.architectures.resnet import ResNetModule
from webapp.engine.data.batches import batches
from webapp.engine.data.datasets import open_dataset
from webapp.engine.errors import RecipeInvalid
from webapp.engine.progress import Silent
from webapp.engine.recipe import Recipe
from webapp.engine.run.measure import evaluate
from webapp.engine.run.receipt_text import render_text
from webapp.engine.run.wiring import dependent, judged, unconfirmable
from webapp.engine.techniques import techniques
from webapp.engine.weights.model import Model


class Residual(nn.Module):
    """A CNN whose trunk adds to what it is given: its state dict looks like a chain's."""

    def __init__(self) -> None:
        super().__init__()
        self.entrance, self.bn_in = nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16)
        self.alpha, self.norm_a = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.verdict = nn.Linear(16 * 9, 10)

    def forward(self, x):
        x = functional.relu(self.bn_in(self.entrance(x)))
        x = functional.relu(x + self.norm_a(self.alpha(x)))
        return self.verdict(functional.max_pool2d(x, 2).flatten(1))


class ResidualMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(n, m) for n, m in ((20, 32), (32, 32), (32, 32), (32, 6)))

    def forward(self, x):
        x = self.a(x)
        for layer in (self.b, self.c):
            x = x + functional.relu(layer(functional.layer_norm(x, (32,))))
        return self.d(x)


class Chain(nn.Module):
    """A row of layers under names that do not tell how it runs them."""

    def __init__(self, activation, pool=None) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(20, 48), nn.Linear(48, 32), nn.Linear(32, 6)
        self.activation, self.pool = activation, pool
        if pool:
            self.fc1, self.fc2 = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
            self.fc3 = nn.Linear(12 * 9, 6)

    def forward(self, x):
        for layer in (self.fc1, self.fc2):
            x = self.activation(layer(x))
            x = self.pool(x, 2) if self.pool else x
        return self.fc3(x.flatten(1))


IMAGES = (1, 12, 12)
GUESSES = {  # module, shape of its inputs, whether its own labels confirm the guess
    "mlp": (lambda: Chain(torch.relu), (20,), True),
    "cnn": (lambda: Chain(torch.relu, functional.max_pool2d), IMAGES, True),
    "tanh": (lambda: Chain(torch.tanh), (20,), False),
    "sigmoid": (lambda: Chain(torch.sigmoid), (20,), False),
    "average pool": (lambda: Chain(torch.relu, functional.avg_pool2d), IMAGES, False),
    "residual cnn": (Residual, IMAGES, False),
    "residual mlp": (ResidualMLP, (20,), False),
}


@pytest.fixture
def run(bench, tmp_path):
    """A run of the state dict of a module, on samples that the module itself has labelled."""

    def go(make, shape, *steps):
        torch.manual_seed(0)
        module = make()
        with torch.no_grad():
            for part in module.modules():
                if isinstance(part, nn.Linear | nn.Conv2d):
                    part.weight.mul_(3)
        module.eval()
        x = torch.randn(600, *shape)
        y = (module(x) - module(x).mean(0)).argmax(-1)
        with torch.no_grad():
            last = [part for part in module.modules() if isinstance(part, nn.Linear)][-1]
            last.bias -= module(x).mean(0)
        np.savez(tmp_path / "d.npz", x=x.numpy(), y=y.numpy())
        data = bench.dataset(tmp_path / "d.npz")
        folder = bench.out
        facts = bench.checkpoint(bench.save("m.pt", module.state_dict()))
        (tmp_path / "run").mkdir()
        made = Run(tmp_path / "run", (bench.out, facts), (folder, data))
        return made, lambda: made.run(*steps)

    return go


@pytest.mark.parametrize("name", GUESSES)
def test_a_guess_is_confirmed_only_where_it_is_right(run, name):
    make, shape, right = GUESSES[name]
    made, go = run(make, shape, ("magnitude_pruning", {}), ("structured_pruning", {"ratio": 0.5}))
    if right:
        receipt = go()["receipt"]
        assert receipt["wiring"]["confirmed"]
        assert receipt["quality"][0]["title"] == "Accuracy"
        return
    with pytest.raises(RecipeInvalid, match=r"depends on how the layers are wired.*Exported program .* or ONNX"):
        go()
    assert not made.facts.keys() & {"step-1", "step-2"}, "it is refused before anything runs"


def test_weights_alone_are_compressed_and_every_figure_says_that_it_is_of_a_guess(run):
    _, go = run(Residual, IMAGES, ("magnitude_pruning", {}), ("weight_quantization", {"bits": 8}))
    concluded = go()
    assert all("wiring assumed" in row["title"] for row in concluded["receipt"]["quality"])
    assert all("wiring assumed" in metric["title"] for metric in concluded["result"]["metrics"].values())
    assert not concluded["receipt"]["wiring"]["confirmed"]
    assert concluded["receipt"]["wiring"]["sentence"] in render_text(concluded["receipt"])


def test_another_activation_that_is_right_more_often_is_named(run):
    _, go = run(lambda: Chain(torch.tanh), (20,), ("gptq", {}))
    with pytest.raises(RecipeInvalid, match=r"with tanh in the place of relu (9\d.\d|100.0)\s% are right, not"):
        go()


def test_without_labels_it_is_refused_before_the_run(inspected):
    _, facts = inspected(Chain(torch.relu))
    for name, technique in techniques().items():
        recipe = Recipe.read({"steps": [{"technique": "cast"}, {"technique": name}]})
        found = list(unconfirmable(facts, recipe, labelled=False))
        assert [index for index, _ in found] == ([1] if list(dependent(recipe)) else [])
        assert bool(found) == ("architecture" in technique.needs_for(technique.Settings()))
        assert all("ReLU is assumed" in message for _, message in found)
        assert not list(unconfirmable(facts, recipe, labelled=True))


@pytest.mark.parametrize("kind", ["one layer", "pare_architecture", "torchvision"])
def test_what_is_certain_needs_no_labels(bench, inspected, tmp_path, kind):
    torch.manual_seed(0)
    if kind == "pare_architecture":
        steps = [{"op": "linear", "name": "0"}, {"op": "tanh"}, {"op": "linear", "name": "2"}]
        told = {"pare_architecture": json.dumps({"family": "sequential", "steps": steps})}
        save_file({f"{n}.weight": torch.randn(4, 4) for n in (0, 2)}, tmp_path / "m.safetensors", told)
        facts = bench.checkpoint(tmp_path / "m.safetensors")
    else:
        given = nn.Linear(5, 3) if kind == "one layer" else ResNetModule(RESNET)
        facts = inspected(given)[1]
    assert facts.architecture.guess is None
    assert not list(unconfirmable(facts, Recipe.read({"steps": [{"technique": "structured_pruning"}]}), False))


def numbered(activation):
    return nn.Sequential(nn.Linear(20, 48), activation(), nn.Linear(48, 6))


def test_of_numbered_layers_the_order_is_certain(run, inspected):
    """nn.Sequential runs them so: cutting needs no data, and an untrained student can be taught."""
    _, facts = inspected(numbered(nn.ReLU))
    allowed = Recipe.read({"steps": [{"technique": "structured_pruning"}, {"technique": "smaller_student"}]})
    assert not list(unconfirmable(facts, allowed, False))
    assert list(unconfirmable(facts, Recipe.read({"steps": [{"technique": "fine_tune"}]}), False))
    _, go = run(lambda: numbered(nn.Tanh), (20,), ("structured_pruning", {"ratio": 0.5}))
    with pytest.raises(RecipeInvalid, match="contradicts: with tanh"):
        go()


@pytest.mark.parametrize("seed", range(4))
def test_an_untrained_student_is_not_contradicted_by_luck(bench, tmp_path, seed):
    """Far from the truth, other activations are right more often now and then; that says nothing."""
    torch.manual_seed(seed)
    x, teacher, student = torch.randn(500, 10), numbered_of(64), numbered_of(16)
    np.savez(tmp_path / "d.npz", x=x.numpy(), y=teacher(x).argmax(1).numpy())
    data = bench.dataset(tmp_path / "d.npz")
    folder, facts = bench.out, bench.checkpoint(bench.save("s.pt", student.state_dict()))
    batches_ = list(batches(open_dataset(folder, data).evaluation(), facts.architecture, None))
    model = Model.of_checkpoint(bench.out, facts)
    scores, _ = evaluate(build(model), facts.architecture, batches_, Silent())
    found = judged(model, scores["accuracy"], batches_, data)
    assert (found["confirmed"], found["contradicted"]) == (False, False)


def numbered_of(width):
    return nn.Sequential(nn.Linear(10, width), nn.ReLU(), nn.Linear(width, 5))

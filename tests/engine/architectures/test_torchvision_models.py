"""With torchvision installed, what it has comes in. Here a package that offers one model stands in for it."""

import sys
import textwrap

import pytest
import torch

from webapp.engine.architectures import recognise, torchvision_models
from webapp.engine.architectures.build import build
from webapp.engine.architectures.torchvision_models import Torchvision
from webapp.engine.weights.model import Model

MODELS = '''
    import types
    import torch
    from torch import nn

    class TwoHeaded(nn.Module):
        """No chain: its features are read twice."""

        def __init__(self, num_classes=1000, **more):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
            self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
            self.register_buffer("weight_of_right", torch.tensor(0.5), persistent=False)
            self.head = nn.Linear(8, num_classes)

        def forward(self, x):
            x = self.stem(x)
            x = self.left(x) + self.weight_of_right * self.right(x).sigmoid()
            return self.head(x.mean((2, 3)))

    def list_models(module=None):
        return ["two_headed"]

    def get_model(name, weights=None, **config):
        assert name == "two_headed" and weights is None
        return TwoHeaded(**config)

    def get_model_weights(name):
        preset = types.SimpleNamespace(transforms=lambda: types.SimpleNamespace(crop_size=[40]))
        return types.SimpleNamespace(DEFAULT=preset)
'''


@pytest.fixture
def installed(tmp_path, monkeypatch):
    package = tmp_path / "site" / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "models.py").write_text(textwrap.dedent(MODELS))
    monkeypatch.syspath_prepend(package.parent)
    yield lambda: __import__("torchvision.models").models
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    for cached in (torchvision_models._names, torchvision_models._signature):
        cached.cache_clear()


def test_a_model_of_torchvision_comes_in_with_its_own_code(installed, inspected):
    torch.manual_seed(0)
    module = installed().TwoHeaded(num_classes=7).eval()
    folder, facts = inspected(module)
    spec = facts.architecture
    assert (spec.title, spec.task, spec.config["classes"]) == ("torchvision's two_headed", "classification", 7)
    assert spec.inputs == {"shape": [3, 40, 40]}
    assert [layer.kind for layer in facts.layers] == ["conv", "conv", "conv", "linear"]
    x = torch.randn(2, 3, 40, 40)
    with torch.inference_mode():
        assert torch.equal(build(Model.of_checkpoint(folder, facts))(x), module(x))


def test_other_shapes_under_the_same_names_are_not_taken_for_it(installed, inspected):
    state = installed().TwoHeaded(num_classes=7).state_dict()
    state["left.weight"] = torch.randn(8, 8, 3, 3)
    _, facts = inspected(state)
    assert facts.architecture.family != "torchvision"


@pytest.mark.skipif(torchvision_models.importlib.util.find_spec("torchvision") is not None, reason="it is installed")
def test_without_torchvision_nothing_is_claimed():
    assert Torchvision.recognise({}, None) is None
    assert recognise({}, None) is None

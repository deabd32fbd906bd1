"""An operator's own architecture is found by its entry point; one that is broken, or a name taken twice, is loud."""

import re
import sys
from pathlib import Path

import pytest
import torch

from webapp.engine.architectures import architectures
from webapp.engine.architectures.build import build
from webapp.engine.weights.model import Model

PAGE = Path(__file__).parents[3] / "docs" / "adding-an-architecture.md"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A package of this source and these entry points, as pip leaves it."""
    site = tmp_path / "site"

    def put(source: str, entry_points: str, module="two_towers"):
        about = site / f"{module}-1.0.dist-info"
        about.mkdir(parents=True)
        (site / f"{module}.py").write_text(source)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[pare.architectures]\n{entry_points}\n")
        monkeypatch.syspath_prepend(site)
        monkeypatch.delitem(sys.modules, module, raising=False)
        architectures.cache_clear()

    yield put
    sys.modules.pop("two_towers", None)
    architectures.cache_clear()


def documented() -> tuple[str, str]:
    """The example of the page: its source and its entry point."""
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL))
    return blocks["python"], re.search(r"^two_towers = \"(.+)\"$", blocks["toml"], re.MULTILINE)[1]


def test_the_example_of_the_page_works_as_it_stands(install, inspected, apply_steps):
    source, target = documented()
    install(source, f"two_towers = {target}")
    from two_towers import Module

    torch.manual_seed(0)
    module = Module(24, 16, 5).eval()
    folder, facts = inspected(module)
    assert (facts.architecture.family, facts.architecture.title) == ("two_towers", "Two towers 24-16-5")
    x = torch.randn(3, 24)
    with torch.inference_mode():
        assert torch.equal(build(Model.of_checkpoint(folder, facts))(x), module(x))
    settings = {"ratio": 0.5, "round_to": 1}
    model, outcomes = apply_steps((folder, facts), ("structured_pruning", settings), ("weight_quantization", {}))
    assert model.weights["left.weight"].shape == (8, 24)
    assert outcomes
    with torch.inference_mode():
        assert build(model)(x).shape == (3, 5)


def test_without_it_the_same_tensors_are_not_claimed_by_it(inspected):
    _, facts = inspected({"left.weight": torch.randn(4, 3), "right.weight": torch.randn(4, 3)})
    assert facts.architecture is None


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("import surely_not_there", "two_towers:A", r"'mine'.*two_towers 1.0.*cannot be imported: ModuleNotFoundError"),
        ("1 / 0", "two_towers:A", "'mine'.*cannot be imported: ZeroDivisionError"),
        ("A = 5", "two_towers:A", "'mine'.*names 5, which is no subclass of Architecture"),
        (
            "from webapp.engine.architectures import Architecture\nclass A(Architecture): family = 'a'",
            "two_towers:A",
            "'mine'.*names A, which lacks recognise, skeleton",
        ),
        (
            "from webapp.engine.architectures.resnet import ResNet\nclass A(ResNet): pass",
            "two_towers:A",
            "Two architectures are called 'resnet'",
        ),
    ],
)
def test_a_broken_one_stops_the_program_and_is_named(install, source, target, said):
    install(source, f"mine = {target}")
    with pytest.raises(RuntimeError, match=said.replace("two_towers 1.0", "two-towers 1.0")):
        architectures()

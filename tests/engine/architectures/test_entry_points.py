"""An operator's own architecture is found by its entry point."""

import torch

from tests.plug_ins import documented
from webapp.engine.architectures.build import build
from webapp.engine.weights.model import Model


def test_the_example_of_the_page_works_as_it_stands(plug_ins, inspected, apply_steps):
    source = documented("adding-an-architecture.md")
    plug_ins.package(source, "two_towers", {"architectures": "two_towers = two_towers:TwoTowers"})
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

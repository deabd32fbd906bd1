"""Back block by block is the same as back through the whole, with one block in memory."""

import pytest
import torch

from tests import zoo
from webapp.engine.architectures.build import build
from webapp.engine.data.batches import answers, synthetic
from webapp.engine.progress import Silent
from webapp.engine.techniques.calibration.backward import backward_parts
from webapp.engine.weights.model import Model


class Sum:
    looks = False

    def look(self, found): ...

    def of(self, index, found):
        return (index + 1) * found[0].square().sum()


@pytest.mark.parametrize("family", ["gpt2", "bert", "vit"])
def test_gradients_are_those_of_the_whole_model(family, tmp_path):
    folder, facts = zoo.checkpoint(family)
    model = Model.of_checkpoint(folder, facts)
    data = [synthetic(model.architecture, seed) for seed in range(2)]
    whole, found, held = build(model), {}, []
    whole.requires_grad_(True)
    for index, batch in enumerate(data):
        Sum().of(index, answers(whole, model.architecture, batch)).backward()
    for part in backward_parts(model, facts.layers, data, Sum(), tmp_path, Silent()):
        held.append({name for name, parameter in part.module.named_parameters() if not parameter.is_meta})
        for go in part.passes:
            go()
        for name, parameter in part.module.named_parameters():
            if parameter.grad is not None:
                found[part.prefix + name] = found.get(part.prefix + name, 0) + parameter.grad
    for name, parameter in whole.named_parameters():
        if parameter.grad is not None and parameter.grad.abs().max() > 0:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-5)
    blocks = held[1:-1]
    assert len(held) == 4
    assert all(len(names) == len(blocks[0]) < len(list(whole.named_parameters())) / 2 for names in blocks)

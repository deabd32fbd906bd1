"""How far two runtimes may be apart: a ten-thousandth, unless the last bits of a model's own layers move it further."""

import pytest
import torch
from torch import nn

from webapp.engine.exporters import exporters
from webapp.engine.run.proof import RELATIVE, compare_probe, write_proof
from webapp.engine.weights.model import Model


@pytest.fixture
def proof(inspected, tmp_path):
    def of(module):
        model = Model.of_checkpoint(*inspected(module))
        write_proof(model, tmp_path, seed=0)
        out = tmp_path / "out"
        out.mkdir()
        exporters()["safetensors"].write(model, out)
        return compare_probe(exporters()["safetensors"].load(out, model.architecture), model.architecture, tmp_path)

    return of


def test_a_ten_thousandth_of_the_largest_answer(proof):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    found = proof(module)
    assert found["agreed"]
    assert found["tolerance"] < 10 * RELATIVE


def test_as_far_as_the_last_bits_move_what_all_but_cancels_out(proof):
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    module[0].weight.data = torch.tensor([[1e6, 1.0], [1e6, 2.0]])
    module[1].weight.data = torch.tensor([[1.0, -1.0], [2.0, -2.0]])  # their difference: x of 1e6 x
    found = proof(module)
    assert found["agreed"]
    assert 0.1 < found["tolerance"] < 10

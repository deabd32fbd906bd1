"""Factors that run one after the other answer as the layer that they stand for, with its stride, padding and bias."""

import pytest
import torch
from torch import nn

from webapp.engine.architectures.factored_layers import FactoredModule
from webapp.engine.weights import Dense, FactoredConv, Pivoted

GEOMETRIES = [
    {"stride": 2, "padding": 1},
    {"padding": (2, 1), "dilation": (2, 1)},
    {"stride": (1, 2), "padding": 1, "padding_mode": "reflect"},
    {"padding": "same", "padding_mode": "circular"},
    {"bias": False},
]


def dense(*shape):
    return Dense(torch.randn(shape) / 4)


CHAINS = {
    "tucker": lambda: FactoredConv(dense(2, 4, 1, 1), dense(3, 2, 3, 3), dense(6, 3, 1, 1)),
    "spatial": lambda: FactoredConv(dense(2, 4, 3, 1), dense(6, 2, 1, 3)),
    "pivoted": lambda: Pivoted(dense(2, 4, 3, 3), dense(4, 2, 1, 1), torch.tensor([0, 1, 0, 0, 1, 0]).bool()),
}


def filled(part, encoded, bias):
    part = part.to_empty(device="cpu")
    leaves = part.leaves(encoded).items()
    state = {name: leaf.decode().t() if transposed else leaf.decode() for name, (leaf, transposed) in leaves}
    part.load_state_dict(state | ({part.bias_name: bias} if bias is not None else {}))
    return part


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_chain_of_convolutions_answers_as_its_kernel(chain, geometry):
    torch.manual_seed(0)
    encoded, whole = CHAINS[chain](), nn.Conv2d(4, 6, 3, **geometry)
    assert encoded.shape == whole.weight.shape
    whole.weight.data = encoded.decode()
    part = filled(FactoredModule(whole, encoded), encoded, whole.bias)
    x = torch.randn(2, 4, 9, 8)
    assert torch.allclose(part(x), whole(x), atol=1e-5)


def test_of_one_dimension_too():
    encoded = FactoredConv(dense(2, 4, 1), dense(3, 2, 5), dense(6, 3, 1))
    whole = nn.Conv1d(4, 6, 5, stride=2, padding=2)
    whole.weight.data = encoded.decode()
    part = filled(FactoredModule(whole, encoded), encoded, whole.bias)
    x = torch.randn(2, 4, 17)
    assert torch.allclose(part(x), whole(x), atol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_pivots_are_put_back_in_their_places(transposed):
    pivots = torch.tensor([0, 1, 1, 0, 0]).bool()
    basis, mix = (dense(7, 2), dense(2, 3)) if transposed else (dense(2, 7), dense(3, 2))
    encoded = Pivoted(basis, mix, pivots, transposed)
    weight = encoded.decode().t() if transposed else encoded.decode()
    assert weight.shape == (5, 7)
    assert torch.equal(weight[pivots], basis.decode().t() if transposed else basis.decode())
    from transformers.pytorch_utils import Conv1D

    whole = Conv1D(5, 7) if transposed else nn.Linear(7, 5)
    part = filled(FactoredModule(whole, encoded), encoded, torch.ones(5))
    x = torch.randn(3, 7)
    assert torch.allclose(part(x), x @ weight.t() + 1, atol=1e-5)

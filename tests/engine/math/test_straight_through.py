"""What is trained on a grid is what the grid holds, and the gradients are those of the two papers."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.engine.math import grids, quantizers
from webapp.engine.math.decoding import FixedCodes
from webapp.engine.math.grids import QuantizationScheme

SCHEMES = [
    QuantizationScheme(8),
    QuantizationScheme(4, 5),
    QuantizationScheme(3, 4, symmetric=False),
    QuantizationScheme(2),
    QuantizationScheme(4, 8, numbers="normal"),
]


def matrix(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(SCHEMES), st.integers(1, 9), st.integers(1, 17), st.integers(0, 99), st.booleans())
def test_it_is_what_the_stored_codes_decode_to(scheme, rows, columns, seed, dead):
    weight = matrix(rows, columns, seed) * (0 if dead else 1)
    grid = grids.fit_grid(weight, scheme)
    beyond = 1.7 * weight  # some of it leaves the grid
    found = quantizers.fake_quantize(beyond, grid, grid.scale.float())
    assert torch.equal(found, quantizers.dequantize(quantizers.quantize(beyond, grid), grid))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_gradients_pass_within_the_grid_and_not_beyond(scheme):
    weight = matrix(6, 8)
    grid = grids.fit_grid(weight, scheme)
    far = torch.zeros_like(weight, dtype=torch.bool)
    far[2, 3] = far[5, 0] = True
    values = torch.where(far, 100 * weight, weight).requires_grad_()
    quantizers.fake_quantize(values, grid, grid.scale.float()).sum().backward()
    assert torch.equal(values.grad, (~far).float())


def test_the_gradient_of_the_scale_is_the_learned_step_sizes():
    """Equation 3: round(w / s) - w / s within the grid, the end's code beyond it."""
    weight = torch.tensor([[0.26, -0.9, 0.5, 9.0]])
    grid = replace(
        grids.fit_grid(torch.tensor([[1.0, -1.0, 0.5, 0.2]]), QuantizationScheme(4)), scale=torch.tensor([[0.125]])
    )
    scale = grid.scale.clone().requires_grad_()
    out = quantizers.fake_quantize(weight, grid, scale)
    gradients = [torch.autograd.grad(value, scale, retain_graph=True)[0].item() for value in out[0]]
    steps = weight[0] / 0.125
    expected = [(step.round() - step).item() for step in steps[:3]]
    assert gradients[:3] == pytest.approx(expected, abs=1e-5)
    assert gradients[3] == pytest.approx(7.0, abs=0.51)  # 4 bits end at 7 steps; half a step counts as within


def test_a_zero_stays_a_zero_under_any_scale():
    weight = matrix(3, 8)
    weight[:, ::2] = 0
    grid = grids.fit_grid(weight, QuantizationScheme(3, 4, symmetric=False))
    found = quantizers.fake_quantize(weight, grid, 3 * grid.scale.float())
    assert not found[:, ::2].any()


def test_as_stored_is_rounded_and_its_gradient_is_not():
    values = torch.tensor([1.0001, 70.03]).requires_grad_()
    found = quantizers.as_stored(values, torch.float16)
    assert torch.equal(found, values.half().float())
    found.sum().backward()
    assert torch.equal(values.grad, torch.ones(2))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_with_codes_that_stay_the_gradient_is_that_of_their_decoding(scheme):
    """value = scale * unit, written out: autograd gives the scale the sum of its group's gradients times units."""
    weight, outer = matrix(6, 8), matrix(6, 8, seed=1)
    grid = grids.fit_grid(weight, scheme)
    codes = quantizers.quantize(weight, grid)
    plain, ours = (grid.scale.float().clone().requires_grad_() for _ in range(2))
    units = quantizers.dequantize(codes, replace(grid, scale=torch.ones_like(plain)))
    expected = units * grid.across(plain, 8)
    expected.backward(outer)
    found = FixedCodes.apply(ours, codes, grid, torch.empty(6, 8))
    found.backward(outer)
    assert torch.equal(found, expected)
    assert torch.allclose(ours.grad, plain.grad, atol=1e-5)

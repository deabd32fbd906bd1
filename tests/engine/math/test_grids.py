"""Grids against brute force, and codebooks against the constants that everybody uses."""

import pytest
import torch

from webapp.engine.math.grids import QuantizationScheme, fit_grid, normal_levels
from webapp.engine.math.quantizers import dequantize, quantize

# bitsandbytes' NF4, functional.py
NF4 = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
]


def error(matrix, scheme, weights=None) -> float:
    grid = fit_grid(matrix, scheme, weights)
    counts = torch.ones(matrix.shape[1]) if weights is None else weights
    return float(((dequantize(quantize(matrix, grid), grid) - matrix).square() * counts).sum())


@pytest.fixture
def matrix():
    return torch.randn(64, 96, generator=torch.Generator().manual_seed(0))


def test_four_bits_of_normal_float_are_the_published_ones():
    assert normal_levels(4).tolist() == pytest.approx(NF4, abs=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_levels_ascend_and_one_is_zero(bits):
    levels = normal_levels(bits)
    assert len(levels) == 2**bits
    assert bool((levels.diff() > 0).all())
    assert int((levels == 0).sum()) == 1


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_range_reaches_every_value(matrix, bits, symmetric):
    grid = fit_grid(matrix, QuantizationScheme(bits, 32, symmetric))
    off = (dequantize(quantize(matrix, grid), grid) - matrix).abs()
    # an integer zero point moves the range by up to half a step; scales are rounded to float16
    assert float((off / grid.scale.float().abs().repeat_interleave(32, 1)).max()) <= (0.51 if symmetric else 1.01)


@pytest.mark.parametrize("numbers", ["int", "normal", "fitted"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_search_never_loses_to_the_range(matrix, bits, numbers):
    scheme = QuantizationScheme(bits, 32, numbers=numbers)
    assert error(matrix, QuantizationScheme(bits, 32, numbers=numbers, search=True)) < error(matrix, scheme)


def test_a_search_is_near_the_best_of_many_scales():
    row = torch.randn(1, 8, generator=torch.Generator().manual_seed(3))
    tried = []
    for scale in torch.linspace(-1.5, 1.5, 3001):
        steps = (row / scale).round().clamp(-4, 3)
        tried.append(float((steps * scale - row).square().sum()))
    assert error(row, QuantizationScheme(3, search=True)) <= 1.2 * min(e for e in tried if e == e)


def test_weights_say_where_an_error_counts(matrix):
    weights = torch.ones(96)
    weights[::7] = 100.0
    scheme = QuantizationScheme(3, 32, search=True)
    grid = fit_grid(matrix, scheme, weights)
    plain = fit_grid(matrix, scheme)
    weighed = ((dequantize(quantize(matrix, grid), grid) - matrix).square() * weights).sum()
    unweighed = ((dequantize(quantize(matrix, plain), plain) - matrix).square() * weights).sum()
    assert weighed < unweighed


def test_fitted_levels_beat_even_ones(matrix):
    even, normal, fitted = (
        error(matrix, QuantizationScheme(3, 32, numbers=n, search=True)) for n in ("int", "normal", "fitted")
    )
    assert fitted < normal < even


def test_zeros_and_extremes_stay_what_they_are():
    matrix = torch.tensor([[0.0, 0.0, 0.0], [1e-30, -1e-30, 0.0], [1e30, 0.0, 5e29]])
    for numbers in ("int", "normal", "fitted"):
        grid = fit_grid(matrix, QuantizationScheme(4, numbers=numbers, search=True))
        decoded = dequantize(quantize(matrix, grid), grid)
        assert bool((decoded[matrix == 0] == 0).all())
        assert torch.allclose(decoded, matrix, rtol=0.2, atol=0)

"""AWQ's scales: those of the paper's formula, and never worse than none."""

import pytest
import torch

from webapp.engine.math import awq
from webapp.engine.math.grids import QuantizationScheme, fit_grid
from webapp.engine.math.quantizers import dequantize, quantize


def test_scales_are_powers_of_the_inputs_sizes_around_one():
    scales = awq.input_scales(torch.tensor([1.0, 4.0, 16.0, 0.0]), 0.5)
    assert (scales[1] / scales[0]).item() == pytest.approx(2)
    assert (scales.amax() * scales.amin()).item() == pytest.approx(1)
    assert bool((awq.input_scales(torch.tensor([1.0, 9.0]), 0.0) == 1).all())


def test_searched_scales_lose_less_on_the_outputs():
    generator = torch.Generator().manual_seed(0)
    x, matrix = torch.randn(300, 32, generator=generator), torch.randn(16, 32, generator=generator)
    x[:, 5] *= 40
    x[:, 9] *= 15
    covariance, scheme = x.t() @ x / 300, QuantizationScheme(3, 16)
    scales = awq.searched_scales([(matrix, scheme)], x.abs().mean(0), covariance)

    def error(by):
        scaled = matrix * by
        grid = fit_grid(scaled, scheme)
        change = dequantize(quantize(scaled, grid), grid) / by - matrix
        return float((x @ change.t()).square().mean())

    assert scales[5] == scales.max()
    assert error(scales) < 0.5 * error(torch.ones(32))
    assert awq.output_error(matrix, covariance).item() == pytest.approx(
        float((x @ matrix.t()).square().sum()) / 300, rel=1e-3
    )


def test_inputs_that_say_nothing_need_no_scales():
    assert awq.searched_scales([(torch.randn(4, 8), QuantizationScheme(4))], torch.zeros(8), torch.zeros(8, 8)) is None

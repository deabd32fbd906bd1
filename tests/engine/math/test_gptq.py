"""GPTQ against the paper's own recursion, and the refinement against brute force."""

import itertools

import pytest
import torch

from webapp.engine.math import gptq, refining
from webapp.engine.math.grids import QuantizationScheme, fit_grid
from webapp.engine.math.quantizers import dequantize, quantize


def inputs(columns, seed=0, rows=200):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator) * torch.linspace(0.2, 2.0, columns)
    return torch.randn(rows, columns, generator=generator) @ mix


def posed(rows=6, columns=8, act_order=True, seed=0):
    x = inputs(columns, seed)
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed + 1))
    return gptq.problem(matrix, x.t() @ x / len(x), 0.01, act_order)


def by_the_paper(given, grid):
    """Equations 2 and 3, with the inverse updated by elimination after each column (no Cholesky, no blocks)."""
    left, inverse = given.matrix.double().clone(), torch.linalg.inv(given.hessian.double())
    scale = grid.across(grid.scale.double(), left.shape[1])
    codes = torch.zeros_like(left)
    for at in given.order.tolist():
        steps = (left[:, at] / scale[:, at]).round().clamp(-(2 ** (grid.bits - 1)), 2 ** (grid.bits - 1) - 1)
        codes[:, at] = steps + 2 ** (grid.bits - 1)
        error = (left[:, at] - steps * scale[:, at]) / inverse[at, at]
        left -= error[:, None] * inverse[at]
        inverse = inverse - inverse[:, at : at + 1] * inverse[at] / inverse[at, at]
    return codes.to(torch.uint8)


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [(6, 8), (5, 300)])
def test_codes_are_those_of_the_paper(rows, columns, act_order):
    given = posed(rows, columns, act_order)
    grid = fit_grid(given.matrix, QuantizationScheme(4, 4))
    expected = by_the_paper(given, grid)
    ours = gptq.rounded(given, grid)
    plain = quantize(given.matrix, grid)
    kept = (given.errors(expected, grid) <= given.errors(plain, grid))[:, None]
    same = ours == torch.where(kept, expected, plain)
    assert float(same.float().mean()) > 0.99  # float32 beside float64: a tie may fall to the other side


@pytest.mark.parametrize("numbers", ["int", "normal", "fitted"])
def test_errors_fall_from_rounding_to_gptq_to_refined(numbers):
    given = posed(16, 64)
    grid = fit_grid(given.matrix, QuantizationScheme(3, 16, numbers=numbers, search=True), given.weights)
    plain, codes = quantize(given.matrix, grid), gptq.rounded(given, grid)
    better, finer = refining.refined(given, codes, grid, None, 2)
    rounding, first, second = given.errors(plain, grid), given.errors(codes, grid), given.errors(better, finer)
    assert bool((first <= rounding).all())
    assert first.sum() < 0.7 * rounding.sum()
    assert bool((second <= first * (1 + 1e-4)).all())
    assert second.sum() < first.sum()


def test_descent_ends_where_no_single_code_can_be_better():
    given = posed(2, 5)
    grid = fit_grid(given.matrix, QuantizationScheme(2))
    codes = gptq.rounded(given, grid)
    for _ in range(20):
        codes = refining.descended(given, codes, grid)
    least = given.errors(codes, grid)
    for column, code in itertools.product(range(5), range(4)):
        other = codes.clone()
        other[:, column] = code
        assert bool((given.errors(other, grid) >= least * (1 - 1e-4)).all())


def test_refitted_scales_are_those_of_least_squares():
    given = posed(3, 8)
    grid = fit_grid(given.matrix, QuantizationScheme(3, 4))
    codes = quantize(given.matrix, grid)
    found = refining.refitted(given, codes, grid)
    root = torch.linalg.cholesky(given.hessian, upper=True)
    units = codes.float() - 4
    for row in range(3):
        made = torch.stack([root[:, :4] @ units[row, :4], root[:, 4:] @ units[row, 4:]], 1)
        expected = torch.linalg.lstsq(made, (root @ given.matrix[row])[:, None]).solution[:, 0]
        assert found.scale[row].tolist() == pytest.approx(expected.tolist(), rel=0.02)


def test_zeros_that_are_held_stay_zero():
    given = posed(6, 40)
    zeros = torch.rand(6, 40, generator=torch.Generator().manual_seed(5)) < 0.5
    grid = fit_grid(given.matrix.masked_fill(zeros, 0), QuantizationScheme(3, 8, symmetric=False))
    codes = gptq.rounded(given, grid, zeros)
    again, finer = refining.refined(given, codes, grid, zeros, 2)
    assert bool((dequantize(codes, grid)[zeros] == 0).all())
    assert bool((dequantize(again, finer)[zeros] == 0).all())


def test_inputs_that_never_spoke_do_no_harm():
    x, matrix = inputs(8), torch.randn(6, 8, generator=torch.Generator().manual_seed(2))
    x[:, 3] = 0
    given = gptq.problem(matrix, x.t() @ x, 0.01, True)
    grid = fit_grid(given.matrix, QuantizationScheme(4))
    assert torch.isfinite(dequantize(gptq.rounded(given, grid), grid)).all()
    silent = gptq.problem(matrix, torch.zeros(8, 8), 0.01, True)
    assert torch.equal(gptq.rounded(silent, grid), quantize(silent.matrix, grid))


def test_damping_rises_until_the_covariance_can_be_inverted():
    one = torch.ones(8, 8)
    assert gptq.problem(torch.randn(6, 8), one - 0.03 * torch.eye(8), 0.01, True) is not None
    assert gptq.problem(torch.randn(6, 8), torch.full((8, 8), float("nan")), 0.01, True) is None

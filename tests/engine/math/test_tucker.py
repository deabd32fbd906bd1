"""Convolutions as chains: exact at full rank, run as they are composed, refitted to what the inputs are."""

import pytest
import torch
from torch.nn.functional import conv1d, conv2d

from webapp.engine.math import tucker
from webapp.engine.weights.factored_conv import composed


def kernel(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def split(whole, outer, inner):
    (outputs, _), (inputs, _) = tucker.mode_bases(whole)
    first, core, last = tucker.tucker2(whole, outputs[:, :outer], inputs[:, :inner])
    ones = [1] * (whole.dim() - 2)
    return first.reshape(*first.shape, *ones), core, last.reshape(*last.shape, *ones)


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (4, 6, 1, 5), (5, 3, 4), (2, 1, 3, 3)])
def test_tucker_of_full_rank_is_the_kernel(shape):
    whole = kernel(*shape)
    first, core, last = split(whole, shape[0], shape[1])
    assert torch.allclose(composed(composed(first, core), last), whole)


def test_tucker_is_not_above_the_plain_higher_order_svd():
    whole = kernel(8, 7, 3, 3)
    (outputs, _), (inputs, _) = tucker.mode_bases(whole)
    a, b = outputs[:, :4] @ outputs[:, :4].t(), inputs[:, :3] @ inputs[:, :3].t()
    once = (torch.einsum("oihw,op,ij->pjhw", whole, a, b) - whole).square().sum()
    first, core, last = split(whole, 4, 3)
    assert (composed(composed(first, core), last) - whole).square().sum() <= once


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (6, 4, 3, 5), (5, 3, 4)])
def test_a_column_and_a_row_run_as_the_kernel(shape):
    whole = kernel(*shape)
    matrix = tucker.spatial_matrix(whole)
    column = tucker.spatial_column(torch.eye(len(matrix), dtype=torch.float64), shape)
    width = shape[3] if len(shape) == 4 else 1
    made = tucker.spatial_inputs(column, width)
    row = tucker.refitted(whole.flatten(1), made, None)
    row = row.reshape(shape[0], -1, 1, *shape[3:])
    assert torch.allclose(composed(column, row), whole)
    run = conv2d if len(shape) == 4 else conv1d
    x = kernel(2, shape[1], *[9] * (len(shape) - 2), seed=3)
    assert torch.allclose(run(run(x, column), row), run(x, whole))


def test_refitting_never_answers_worse_in_the_metric():
    whole, root = kernel(6, 4, 3, 3), kernel(36, 36, seed=5)
    first, core, last = split(whole, 3, 2)
    made = composed(first, core).flatten(1)
    fitted = tucker.refitted(whole.flatten(1), made, root)

    def error(last):
        return ((last @ made - whole.flatten(1)) @ root).square().sum()

    assert error(fitted) <= error(last.flatten(1))
    brute = torch.linalg.lstsq((made @ root).t(), (whole.flatten(1) @ root).t()).solution.t()
    assert torch.allclose(fitted, brute)


def test_refitting_stands_what_is_degenerate():
    assert tucker.refitted(torch.ones(2, 4).double(), torch.zeros(3, 4).double(), None).isfinite().all()

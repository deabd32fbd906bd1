"""Many systems of equations, solved together whatever the number of threads."""

import pytest
import torch

from webapp.engine.math.systems import solved


@pytest.fixture
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("size", [1, 8, 64, 200])
def test_each_is_solved(threads, size):
    """Where torch's own LU fails with two threads and matrices of more than 150 rows."""
    draw = torch.Generator().manual_seed(size)
    root = torch.randn(5, size, size, generator=draw, dtype=torch.float64)
    matrices = root @ root.mT + size * torch.eye(size, dtype=torch.float64)
    x = torch.randn(5, size, 3, generator=draw, dtype=torch.float64)
    assert torch.allclose(solved(matrices, matrices @ x), x)


def test_one_that_is_not_positive_definite_is_solved_too():
    matrices = torch.stack([2 * torch.eye(3), torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])])
    x = torch.arange(6.0).view(2, 3, 1)
    assert torch.allclose(solved(matrices, matrices @ x), x)

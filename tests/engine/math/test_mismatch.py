"""The weight that makes up for what came before it, against least squares."""

import torch

from webapp.engine.math import obs
from webapp.engine.math.mismatch import made_up_for


def test_the_target_is_the_least_squares_answer():
    """min |x T^T + r - x0 W^T - r0|^2 + d |T - W|^2, solved by stacking the rows of the damping below those of x."""
    torch.manual_seed(0)
    original = torch.randn(200, 6) @ torch.randn(6, 6)
    x, weight = original + 0.3 * torch.randn(200, 6), torch.randn(4, 6)
    lacking = torch.randn(200, 4)  # r0 - r
    curve = obs.curvature(x.t() @ x, 0.1)
    found = made_up_for(weight, curve.factor, x.t() @ (original - x), x.t() @ lacking)
    pull = (0.1 * (x.t() @ x).diagonal().mean()).sqrt() * torch.eye(6)
    left, right = torch.cat([x, pull]), torch.cat([original @ weight.t() + lacking, pull @ weight.t()])
    expected = torch.linalg.lstsq(left.double(), right.double()).solution.t().float()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_where_nothing_has_changed_the_weight_is_the_target():
    x, weight = torch.randn(50, 6), torch.randn(4, 6)
    curve = obs.curvature(x.t() @ x, 0.1)
    assert torch.equal(made_up_for(weight, curve.factor, torch.zeros(6, 6)), weight)

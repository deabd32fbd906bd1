"""The metric of the inputs, and the answer that is best on them, against brute force."""

import pytest
import torch

from webapp.engine.math import factorization, whitening


def inputs(rows=40, columns=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(-2, 1, columns, dtype=torch.float64)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64) * scales


def weight(rows=6, columns=8):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def test_the_root_measures_the_error_of_the_answers():
    x, w = inputs(), weight()
    found = whitening.metric(x.t() @ x, share=1e-12)
    assert (w @ found.root).square().sum().item() == pytest.approx((x @ w.t()).square().sum().item())


def test_cutting_in_the_metric_loses_exactly_the_singular_values_that_are_cut():
    """SVD-LLM, equations 5 to 8; and no other matrix of that rank answers better."""
    x, w = inputs(), weight()
    found = whitening.metric(x.t() @ x, share=1e-12)
    u, singular = factorization.directions(w @ found.root)
    best = u[:, :3] @ u[:, :3].t() @ w
    error = (x @ (w - best).t()).square().sum().item()
    assert error == pytest.approx(singular[3:].square().sum().item())
    plain, _ = factorization.directions(w)
    assert error < (x @ (w - plain[:, :3] @ plain[:, :3].t() @ w).t()).square().sum().item()


def test_a_covariance_without_a_root_falls_back_and_says_so():
    sums = torch.diag(torch.tensor([4.0, 1.0, -0.5]))  # rounding of large float32 sums can give this
    found = whitening.metric(sums)
    assert "no Cholesky factor" in found.note
    product = found.root @ found.root.t()
    assert torch.allclose(product.diagonal()[:2], torch.tensor([4.0, 1.0]).double(), rtol=0.01)
    assert torch.linalg.eigvalsh(product).min() > 0


def test_what_rounding_left_of_inputs_that_are_all_alike_is_damped():
    x = torch.full((140, 48), 0.1) + 1e-7 * torch.randn(140, 48, generator=torch.Generator().manual_seed(0))
    sums = (x.t() @ x).double()
    noise = 2.0**-22 * float(sums.trace())
    mean = x.mean(0).double()
    found = whitening.metric(sums.addr(mean, mean, alpha=-140), noise=noise)
    assert found.damping == noise

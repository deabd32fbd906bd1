"""Uneven ratios: the budget is kept, the range too, and no other choice in it costs less."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.engine.math import allocation


def layers(count, seed):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 400, (count,), generator=generator).tolist()
    return [torch.rand(size, generator=generator) ** (index + 1) for index, size in enumerate(sizes)]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 6), st.integers(0, 99), st.sampled_from([0.0, 0.05, 0.5, 0.97]))
def test_the_total_is_what_was_asked(count, seed, share):
    scores = layers(count, seed)
    sizes = [len(s) for s in scores]
    found = allocation.allocated([allocation.next_costs(s, allocation.ratios(share)) for s in scores], sizes, share)
    total = sum(ratio * size for ratio, size in zip(found, sizes, strict=True)) / sum(sizes)
    assert total == pytest.approx(share, abs=2e-3)
    assert all(share - allocation.SPREAD - 1e-9 <= ratio <= share + allocation.SPREAD + 1e-9 for ratio in found)


def test_no_other_choice_costs_less():
    scores = [
        s[:100]
        for s in (torch.rand(3, 100, generator=torch.Generator().manual_seed(4)) ** torch.tensor([[1.0], [2], [3]]))
    ]

    def cost(ratios):
        """The share of each layer's energy that goes."""
        energies = (s.double().square().sort().values for s in scores)
        return sum(float(e[: round(100 * r)].sum() / e.sum()) for e, r in zip(energies, ratios, strict=True))

    found = allocation.allocated([allocation.next_costs(s, allocation.ratios(0.5)) for s in scores], [100] * 3, 0.5)
    steps = [step / 100 for step in range(40, 61)]
    best = min(cost(choice) for choice in itertools.product(steps, repeat=3) if round(100 * sum(choice)) == 150)
    assert cost(found) <= best * 1.03
    assert cost(found) < cost([0.5] * 3)


def test_layers_without_energy_share_evenly():
    at = allocation.ratios(0.5)
    found = allocation.allocated([allocation.next_costs(torch.zeros(10), at)] * 2, [10, 10], 0.5)
    assert sum(found) == pytest.approx(1.0, abs=1e-6)

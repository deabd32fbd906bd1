"""Intervals and verdicts are held against what statistics says of known samples."""

import math

import pytest

from webapp.engine.measure import METRICS, Samples, difference, interval, wilson


def samples(*values: float) -> Samples:
    return Samples(list(values), [1.0] * len(values))


def test_wilson_is_the_textbook_interval():
    low, high = wilson(0.9, 100)
    assert (low, high) == pytest.approx((0.8256, 0.9448), abs=1e-3)
    assert wilson(1.0, 10)[1] == pytest.approx(1.0)
    assert wilson(1.0, 10)[0] < 0.75


def test_perplexity_is_over_tokens_not_over_chunks():
    found = Samples([10.0, 1.0], [10.0, 100.0])
    assert found.value("perplexity") == pytest.approx(math.exp(11 / 110))
    assert found.n == 110


@pytest.mark.parametrize(
    ("metric", "before", "after", "verdict"),
    [
        ("accuracy", [1.0] * 200, [1.0] * 200, "no difference shown"),
        ("accuracy", [1.0] * 200, [0.0] * 60 + [1.0] * 140, "worse"),
        ("accuracy", [0.0] * 60 + [1.0] * 140, [1.0] * 200, "better"),
        ("accuracy", [1.0] * 200, [0.0] + [1.0] * 199, "no difference shown"),
        ("perplexity", [1.0] * 20, [1.5] * 20, "worse"),
        ("perplexity", [1.5] * 20, [1.0] * 20, "better"),
    ],
)
def test_verdict_follows_the_paired_interval_and_the_direction(metric, before, after, verdict):
    assert difference(metric, samples(*before), samples(*after))["verdict"] == verdict


def test_interval_holds_the_value_and_repeats():
    found = Samples([float(i % 7) for i in range(50)], [1.0] * 50)
    low, high = interval("kl_divergence", found)
    assert low < found.value("kl_divergence") < high
    assert interval("kl_divergence", found) == (low, high)


def test_every_metric_says_its_direction():
    assert {name for name, metric in METRICS.items() if not metric.higher_is_better} == {"perplexity", "kl_divergence"}

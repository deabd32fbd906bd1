"""Intervals and verdicts are held against what statistics says of known samples."""

import math

import pytest

from webapp.engine.run.metrics import METRICS, Samples, difference, interval, summarise, wilson


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
    lower = {"perplexity", "kl_divergence", "mse", "mae", "relative_error", "not_finite"}
    assert {name for name, metric in METRICS.items() if not metric.higher_is_better} == lower


def test_columns_are_averaged_and_one_without_counts_is_left_out():
    found = Samples([[1.0, 0.0, 0.0], [0.0, 3.0, 0.0]], [[2.0, 4.0, 0.0], [2.0, 4.0, 0.0]])
    assert found.value("mean_iou") == pytest.approx((1 / 4 + 3 / 8) / 2)
    assert found.n == 2
    assert found.value("r2") == pytest.approx(1 - (1 / 4 + 3 / 8) / 2)
    assert found.value("relative_error") == pytest.approx(math.sqrt((1 / 4 + 3 / 8) / 2))


@pytest.mark.parametrize("broken", [math.nan, math.inf, 800.0])
def test_what_is_no_number_is_none_and_the_worse_side(broken):
    lost, fine = samples(1.0, broken, 2.0), samples(1.0, 1.5, 2.0)
    told = summarise({"perplexity": samples(broken, broken)})["perplexity"]
    assert (told["value"], told["ci95"]) == (None, None)
    if not math.isfinite(broken):
        assert difference("perplexity", fine, lost) == {"difference": None, "ci95": None, "verdict": "worse"}
        assert difference("perplexity", lost, fine)["verdict"] == "better"
        assert difference("perplexity", lost, lost)["verdict"] is None


def test_one_sample_has_no_interval_and_no_verdict():
    """Resampled, it would always be the same: a width of nothing would look like certainty."""
    before, after = Samples([30.0], [10.0]), Samples([40.0], [10.0])
    told = summarise({"perplexity": before})["perplexity"]
    assert (told["ci95"], told["n"]) == (None, 10)
    found = difference("perplexity", before, after)
    assert found["difference"] == pytest.approx(math.exp(4) - math.exp(3))
    assert (found["ci95"], found["verdict"]) == (None, None)
    share = summarise({"accuracy": Samples([1.0], [1.0])})["accuracy"]  # Wilson's interval knows of one
    assert share["ci95"][0] < 0.3

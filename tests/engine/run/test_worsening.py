"""What is lost is told in one direction, whichever way a metric counts."""

import pytest

from webapp.engine.run.worsening import Worsening, lost, points_lost


def verdict(metric, difference, ci95):
    return {"metric": metric, "difference": difference, "ci95": ci95}


def test_a_point_is_a_hundredth_of_a_share_and_one_of_a_perplexity():
    assert points_lost(verdict("accuracy", -0.005, [-0.02, 0.01])) == Worsening(0.5, -1.0, 2.0)
    assert points_lost(verdict("perplexity", 0.5, [0.1, 0.9])) == Worsening(0.5, 0.1, 0.9)
    assert points_lost(verdict("accuracy", None, None)) == Worsening(None)
    assert str(points_lost(verdict("accuracy", 0.0, [0.0, 0.0])).value) == "0.0"
    assert points_lost(verdict(None, None, None)) is None


@pytest.mark.parametrize(
    ("unit", "metric", "expected"),
    [
        ("nats", "kl_divergence", (0.9, 0.8, 0.95)),
        ("cosine distance", "cosine", (0.1, 0.05, 0.2)),
        ("squared error", "relative_error", (0.81, 0.64, 0.9025)),
    ],
)
def test_a_loss_is_read_off_the_metric_that_shows_it(unit, metric, expected):
    metrics = {metric: {"value": 0.9, "ci95": [0.8, 0.95]}}
    found = lost(unit, metrics)
    assert (found.value, found.low, found.high) == pytest.approx(expected)
    assert lost(unit, {metric: {"value": None, "ci95": None}}) == Worsening(None)
    assert lost(unit, {}) is None

import pytest

from webapp.engine.techniques.training.settings import rate_factor


def test_it_rises_over_the_warm_up_and_falls_to_nothing():
    assert rate_factor("cosine", 0.05, 0.1) == pytest.approx(0.5)
    assert rate_factor("cosine", 0.1, 0.1) == pytest.approx(1.0)
    assert rate_factor("cosine", 0.55, 0.1) == pytest.approx(0.5)
    assert rate_factor("cosine", 1.0, 0.1) == pytest.approx(0.0)
    assert rate_factor("linear", 0.75, 0.0) == pytest.approx(0.25)
    assert rate_factor("constant", 0.99, 0.0) == 1.0


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_it_never_leaves_zero_to_one(schedule):
    for warmup in (0.0, 0.05, 0.5):
        assert all(0 <= rate_factor(schedule, done / 50, warmup) <= 1 for done in range(60))

"""The fit from predicted to measured loss: monotone, exact where the data are, and as sure as it says."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.profiles.drawn_profiles import drawn_facts, drawn_measurements, drawn_profile
from webapp.engine.profiles.facts import Measurement
from webapp.engine.profiles.fit import MORE, LossFit, PointsFit

PROFILE = drawn_profile(0, drawn_facts(2, 16))
FAMILIES = ("Low rank", "Pruning", "Quantization")
LOSSES = st.floats(1e-6, 5.0)


def fitted(*measured, samples=32):
    return LossFit.of(PROFILE.model_copy(update={"measured": measured, "samples": samples}))


def measurement(predicted, loss, **more):
    return Measurement(predicted=predicted, loss=loss, size_bytes=1, **more)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(FAMILIES), LOSSES, LOSSES, st.sampled_from([None, "run"])), max_size=12))
def test_more_predicted_loss_is_never_less_expected_loss(given):
    fit = fitted(*(measurement({family: x}, y, run_id=run) for family, x, y, run in given))
    values = [fit.loss(each).value for each in np.geomspace(1e-8, 50, 100)]
    assert all(math.isfinite(value) and value > 0 for value in values)
    assert (np.diff(np.log(values)) >= -1e-9).all()
    for family in FAMILIES:
        found = fit.loss(fit.scaled({family: 0.1}), {family: 0.1})
        assert found.low < found.value < found.high
    assert fit.loss(fit.scaled(dict.fromkeys(FAMILIES, 0.0))).high == 0
    assert fit.loss(fit.sum_within(0.3)).value <= 0.3 * (1 + 1e-9)
    assert fit.loss(fit.sum_within(0.3) * 1.001).value >= 0.3 * 0.998


def test_measurements_without_noise_are_reproduced():
    measured = drawn_measurements(np.random.default_rng(0), PROFILE, 12, noise=0.0)
    fit = fitted(*measured)
    for one in measured:
        assert fit.loss(fit.scaled(one.predicted), one.predicted, run=False).value == pytest.approx(one.loss, rel=0.01)
    assert fit.scales["Pruning"] / fit.scales["Quantization"] == pytest.approx(1.6, rel=0.02)


def test_a_bend_that_no_power_law_has_is_followed():
    sums = np.geomspace(1e-3, 10, 14)
    measured = [measurement({"Quantization": x}, x if x < 0.1 else 0.1 * (x / 0.1) ** 0.4) for x in sums]
    fit = fitted(*measured)
    for one in measured[1:-1]:
        value = fit.loss(fit.scaled(one.predicted), run=False).value
        assert value == pytest.approx(one.loss, rel=0.12)


@pytest.mark.parametrize(("count", "runs", "offset"), [(10, 0, 0.0), (12, 0, 0.25), (10, 1, 0.4), (8, 2, -0.4)])
def test_four_intervals_of_five_hold_what_a_run_measures(count, runs, offset):
    held = []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        scales = {family: math.exp(rng.normal(0, 0.4)) for family in FAMILIES}
        own = drawn_measurements(rng, PROFILE, count, scales)
        later = drawn_measurements(rng, PROFILE, runs + 5, scales, level=1.3 * math.exp(offset), run=True)
        fit = fitted(*own, *later[:runs])
        for one in later[runs:]:
            found = fit.loss(fit.scaled(one.predicted), one.predicted)
            held.append(found.low <= one.loss <= found.high)
    assert np.mean(held) >= 0.7


def test_no_more_points_are_lost_than_there_are():
    measured = tuple(measurement({"Quantization": x}, x, points=50 * x) for x in (0.1, 0.2, 0.4, 0.8))
    fit = PointsFit.of(PROFILE.model_copy(update={"measured": measured, "task": "classification"}))
    found = fit.points(fitted().loss(1.0).model_copy(update={"value": 99.0, "low": 1.0, "high": 99.0}))
    assert (found.value, found.high) == (100, 100)
    assert 0 < found.low < 100


def test_a_squared_error_may_grow_beyond_a_hundred():
    measured = tuple(measurement({"Quantization": x}, x, points=5000 * x) for x in (0.1, 0.2, 0.4, 0.8))
    changes = {"measured": measured, "task": "regression", "unit": "squared error"}
    fit = PointsFit.of(PROFILE.model_copy(update=changes))
    found = fit.points(fitted().loss(1.0).model_copy(update=dict.fromkeys(("value", "low", "high"), 0.5)))
    assert found.value == pytest.approx(2500, rel=0.05)


def test_runs_shift_the_level_and_narrow_the_interval():
    rng = np.random.default_rng(1)
    own = drawn_measurements(rng, PROFILE, 10, noise=0.05)
    run = drawn_measurements(rng, PROFILE, 2, noise=0.05, level=1.3 * 1.5, run=True)
    before, after = fitted(*own, samples=400), fitted(*own, *run, samples=400)
    one = own[3].predicted

    def expected(fit, **more):
        return fit.loss(fit.scaled(one), one, **more)

    assert expected(after).value / expected(after, run=False).value == pytest.approx(1.5, rel=0.12)
    assert expected(after, run=False).value == pytest.approx(expected(before, run=False).value, rel=0.1)
    assert expected(after).high / expected(after).low < 0.8 * expected(before).high / expected(before).low


def test_samples_that_judge_shift_what_runs_are_expected_to_lose():
    rng = np.random.default_rng(2)
    own = drawn_measurements(rng, PROFILE, 10, noise=0.05)
    told = [one.model_copy(update={"evaluated": 4 * one.loss * rng.lognormal(0, 0.05)}) for one in own[:4]]
    before, after = fitted(*own, samples=400), fitted(*told, *own[4:], samples=400)
    one = own[6].predicted
    here, there = (after.loss(after.scaled(one), one, run=run) for run in (False, True))
    assert there.value / here.value == pytest.approx(4 * math.exp(MORE), rel=0.1)
    assert here.value == pytest.approx(own[6].loss, rel=0.2)
    unsure = before.loss(before.scaled(one), one)
    assert there.high / there.low < 0.7 * unsure.high / unsure.low


def test_a_family_without_a_measurement_keeps_its_scale_and_is_less_certain():
    measured = [measurement({"Quantization": x}, 2 * x) for x in np.geomspace(0.01, 1, 10)]
    fit = fitted(*measured)
    assert fit.scales["Low rank"] == pytest.approx(1.0, abs=0.01)
    known, unknown = (fit.loss(fit.scaled({family: 0.1}), {family: 0.1}) for family in ("Quantization", "Low rank"))
    assert unknown.high / unknown.low > 2 * known.high / known.low


def test_no_interval_is_narrower_than_the_samples_allow():
    measured = [measurement({"Quantization": x}, x) for x in np.geomspace(0.01, 1, 16)]
    few, many = (fitted(*measured, samples=samples).loss(0.1, run=False) for samples in (16, 10_000))
    assert few.high / few.low > math.exp(2 * 1.28 / 4)
    assert many.high / many.low < few.high / few.low


def test_what_cannot_be_fitted_is_left_out():
    odd = [measurement({"Quantization": 0.1}, loss) for loss in (0.0, math.inf, math.nan, -1.0)]
    good = [measurement({"Quantization": 0.1}, 0.1), measurement({}, 0.3)]
    assert fitted(*odd, *good).loss(0.1).value == fitted(good[0]).loss(0.1).value


def test_an_outlier_moves_the_fit_less_than_the_others_hold_it():
    measured = [measurement({"Quantization": x}, 2 * x) for x in np.geomspace(0.01, 1, 10)]
    fit = fitted(*measured, measurement({"Quantization": 0.1}, 4.0))
    assert fit.loss(fit.scaled({"Quantization": 0.1}), run=False).value == pytest.approx(0.2, rel=0.15)


def test_points_follow_the_loss_and_hold_what_is_measured():
    held = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        losses = np.geomspace(0.002, 0.8, 17)
        flips = rng.binomial(300, np.minimum(0.06 * losses**0.6, 1)) * 100 / 300
        order = rng.permutation(17)
        measured = [
            measurement({"Quantization": x}, x, points=y) for x, y in zip(losses[order], flips[order], strict=True)
        ]
        changes = {"measured": tuple(measured[:12]), "samples": 300, "task": "classification"}
        fit = PointsFit.of(PROFILE.model_copy(update=changes))
        values = [fit.points(fitted().loss(each)).value for each in np.geomspace(1e-4, 2, 30)]
        assert (np.diff(values) >= 0).all()
        for one in measured[12:]:
            exact = fitted().loss(1.0).model_copy(update=dict.fromkeys(("value", "low", "high"), one.loss))
            found = fit.points(exact)
            held.append(found.low <= one.points <= found.high)
        assert fit.points(exact.model_copy(update={"value": fit.loss_within(0.5)})).value == pytest.approx(0.5)
    assert np.mean(held) >= 0.7


def test_beyond_the_losses_at_which_no_point_was_lost_points_are_expected():
    """As it was measured of the digits CNN, and of a run of it that lost 0.109 nats and 3.9 points."""
    measured = tuple(measurement({"Quantization": x}, x, points=0.0) for x in (1e-5, 1e-4, 1e-3, 5e-3))
    changes = {"measured": measured, "task": "classification", "samples": 256}
    fit = PointsFit.of(PROFILE.model_copy(update=changes))
    near, far = (
        fit.points(fitted().loss(1.0).model_copy(update=dict.fromkeys(("value", "low", "high"), loss)))
        for loss in (5e-3, 0.109)
    )
    assert near.value < 100 / 256
    assert 1 < far.value < 10
    assert far.low < 3.9 < far.high


def test_perplexity_grows_with_the_exponential_of_the_loss():
    """As it was measured of SmolLM2, and of a run of it that lost 0.0462 nats and 1.03 of its perplexity of 27.3."""
    losses = (0.00315, 0.01445, 0.04964, 0.18697, 0.80731, 3.47812)
    points = (0.0538, 0.3855, 1.545, 6.410, 38.54, 927.2)
    measured = [measurement({"Quantization": x}, x, points=y) for x, y in zip(losses, points, strict=True)]
    fit = PointsFit.of(PROFILE.model_copy(update={"measured": tuple(measured), "task": "causal-lm"}))
    exact = fitted().loss(1.0).model_copy(update=dict.fromkeys(("value", "low", "high"), 0.0462))
    found = fit.points(exact)
    assert 0.8 < found.low < 1.03 < found.high < 2.5
    assert fit.loss_within(found.value) == pytest.approx(0.0462)
    assert fit.points(exact.model_copy(update={"high": 1e4})).high < math.inf


def test_a_perplexity_that_grew_nowhere_tells_nothing():
    measured = (measurement({"Quantization": 0.1}, 0.1, points=-0.2),)
    assert PointsFit.of(PROFILE.model_copy(update={"measured": measured, "task": "masked-lm"})) is None


def test_points_that_nobody_measured_are_not_told():
    assert PointsFit.of(PROFILE) is None

"""Speed is a ratio to the original's with an interval; what disturbs a measurement is noticed, repeated, and said."""

import os

import numpy as np
import pytest

from webapp.engine.run import latency


def times(rng, median, spread, n=60):
    return list(median * np.exp(rng.normal(0, spread, n)))


def test_the_interval_holds_the_ratio_that_is_there():
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(40):
        ratio, (low, high) = latency.compare(times(rng, 2.0, 0.05), times(rng, 1.0, 0.05))
        assert low <= ratio <= high
        held += low <= 2.0 <= high
    assert held >= 34  # of 40, at 95 %


def test_a_machine_that_slows_down_midway_slows_both():
    rng = np.random.default_rng(3)
    pace = np.repeat([1.0, 3.0], 30)  # from the thirtieth turn on everything takes three times as long
    ratio, (low, high) = latency.compare(list(2.0 * pace), list(1.0 * pace * np.exp(rng.normal(0, 0.01, 60))))
    assert low <= 2.0 <= high
    assert ratio == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize(
    ("ratio", "ci95", "words"),
    [
        (1.83, (1.79, 1.88), "1.83 times as fast as the original"),
        (0.77, (0.75, 0.79), "0.77 times as fast as the original"),
        (1.01, (0.98, 1.05), "as fast as the original"),
        (1.04, (0.9, 1.3), "not shown to be faster or slower than the original"),
        (1.003, (1.001, 1.004), "as fast as the original"),
        (0.996, (0.995, 0.998), "as fast as the original"),
    ],
)
def test_it_is_spoken_without_a_factor_of_one(ratio, ci95, words):
    assert latency.words(ratio, ci95) == words


@pytest.mark.parametrize(("disturbed_times", "attempts", "said"), [(0, 1, False), (2, 3, False), (9, 3, True)])
def test_a_disturbed_measurement_is_repeated_and_else_marked(monkeypatch, disturbed_times, attempts, said):
    left = iter(["Other programs were using the processor."] * disturbed_times)
    monkeypatch.setattr(latency, "_others", lambda before, after: next(left, None))
    monkeypatch.setattr(latency, "interleaved", lambda calls, seconds: {"original": [2.0] * 20, "result": [1.0] * 20})
    speed = latency.in_turns(lambda: None, lambda: None).speed()
    assert (speed["ratio"], speed["ci95"], speed["attempts"]) == (2.0, [2.0, 2.0], attempts)
    assert bool(speed["disturbed"]) is said


def test_times_that_tell_little_are_marked(monkeypatch):
    rng = np.random.default_rng(3)
    monkeypatch.setattr(latency, "_others", lambda before, after: None)
    wild = lambda calls, seconds: {"original": times(rng, 1.0, 1.0, 10), "result": times(rng, 1.0, 1.0, 10)}  # noqa: E731
    monkeypatch.setattr(latency, "interleaved", wild)
    assert "differed widely" in latency.in_turns(lambda: None, lambda: None).disturbed


@pytest.mark.parametrize(
    ("busy", "own", "stolen", "said"),
    [
        (1.0, 1.0, 0.0, None),  # only this process works
        (1.05, 1.0, 0.0, None),
        (1.5, 1.0, 0.0, "Other programs"),
        (1.0, 1.0, 0.5, "outside"),
    ],
)
def test_what_others_take_is_noticed_where_it_was_needed(monkeypatch, busy, own, stolen, said):
    spare = os.cpu_count() - 1
    monkeypatch.setattr(latency.torch, "get_num_threads", lambda: 1)
    found = latency._others((0.0, 0.0, 0.0, 0.0), (1.0, busy + spare, stolen + (spare if stolen else 0), own))
    assert found is None if said is None else said in found

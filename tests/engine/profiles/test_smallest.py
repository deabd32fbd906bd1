"""The search for the smallest file finds it with few runs, also where measurements are noisy, and says why it ends."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.engine.profiles.smallest import Probe, Search, Stop, Try, next_step

SIZES = np.linspace(20_000, 120_000, 101).astype(int)


def loss_at(size, scale=1.0, steep=4.0):
    """What a file of this size costs, in points: 0.5 at 60 kB where the scale is 1."""
    return 0.5 * scale * (60_000 / size) ** steep


def searched(scale=1.0, tolerance=0.5, most=12, **more):
    """A profile whose scale may be wrong: it expects the tolerance at 60 kB."""
    front = [(int(size), loss_at(size)) for size in SIZES]
    return Search(tolerance, "points", front, 60_000, lambda asked: int(max(20_000, min(120_000, asked))), most, **more)


def run(search, measure):
    """(probes, how it ended)."""
    probes = []
    while isinstance(step := next_step(search, probes), Try):
        assert step.why.endswith((".", "them."))
        probes.append(measure(search.fits(step.size_bytes)))
        assert len(probes) <= search.most_probes
    return probes, step


@pytest.mark.parametrize("scale", [0.05, 0.4, 1.0, 2.0, 9.0])
def test_without_noise_the_smallest_file_is_found_to_two_per_cent_whatever_the_profile_expected(scale):
    search = searched(scale)
    probes, stop = run(search, lambda size: Probe(size, loss_at(size, scale)))
    found = probes[stop.found]
    exact = max(20_000, 60_000 * scale**0.25)
    assert found.worse <= search.tolerance
    assert found.size_bytes <= exact * 1.03
    assert len(probes) <= 9


def test_a_profile_that_was_right_needs_few_runs():
    probes, stop = run(searched(), lambda size: Probe(size, loss_at(size, 0.98)))
    assert len(probes) <= 5
    assert probes[stop.found].size_bytes == pytest.approx(60_000, rel=0.03)


@pytest.mark.parametrize("seed", range(20))
def test_with_noise_it_ends_on_the_interval_near_the_right_size(seed):
    """Accuracy on 600 samples, of which a point is six."""
    generator, samples = np.random.default_rng(seed), 600

    def measure(size):
        worse = generator.binomial(samples, loss_at(size) / 100 + 0.004) - generator.binomial(samples, 0.004)
        half = 100 * 1.96 * math.sqrt((loss_at(size) / 100 + 0.008) / samples)
        return Probe(size, 100 * worse / samples, 100 * worse / samples - half, 100 * worse / samples + half)

    search = searched()
    probes, stop = run(search, measure)
    assert len(probes) < search.most_probes
    assert search.holds(probes[stop.found])
    assert loss_at(probes[stop.found].size_bytes) < 1.6  # noise of half a point cannot hide more than that


def test_that_both_ends_reach_over_the_tolerance_is_why_it_stops():
    probes = [Probe(60_000, 0.4, -0.2, 1.0), Probe(56_000, 0.7, 0.1, 1.4)]
    stop = next_step(searched(), probes)
    assert stop.found == 0
    assert "both intervals reach over 0.5 points" in stop.why
    told_apart = [probes[0], Probe(56_000, 2.0, 1.2, 2.9)]
    assert isinstance(next_step(searched(), told_apart), Try)


def test_who_must_be_certain_gets_a_file_whose_whole_interval_is_within():
    def measure(size):
        return Probe(size, loss_at(size), loss_at(size) - 0.2, loss_at(size) + 0.2)

    search = searched(certain=True)
    probes, stop = run(search, measure)
    assert probes[stop.found].high <= 0.5
    assert 60_000 < probes[stop.found].size_bytes <= 60_000 * (0.5 / 0.3) ** 0.25 * 1.1


def test_what_no_option_reaches_is_said():
    probes, stop = run(searched(), lambda size: Probe(size, 3.0))
    assert stop.found is None
    assert stop.why.startswith("The options have no larger file")
    probes, stop = run(searched(), lambda size: Probe(size, -0.1, -0.3, 0.1))
    assert probes[stop.found].size_bytes == 20_000
    assert "no file that is smaller than 20.0 kB" in stop.why


def test_answers_that_are_no_numbers_are_beyond_any_tolerance():
    search = searched()
    probes, stop = run(search, lambda size: Probe(size, None if size < 80_000 else 0.1))
    assert 80_000 <= probes[stop.found].size_bytes <= 83_000


def test_runs_and_time_are_bounded():
    search = searched(most=2)
    probes = [Probe(60_000, 0.1), Probe(40_000, 3.0)]
    stop = next_step(search, probes)
    assert (stop.found, stop.why) == (0, "2 runs were measured, as many as were asked for.")
    late = next_step(searched(), probes, seconds_left=-1.0)
    assert late == Stop(0, "Another run would not end within the time that was given.")
    assert isinstance(next_step(searched(), [], seconds_left=-1.0), Try)  # without one there is no answer


def test_a_few_options_end_where_none_lies_between():
    sizes = [30_000, 50_000, 90_000]
    few = Search(
        0.5,
        "points",
        [(s, loss_at(s)) for s in sizes],
        60_000,
        lambda asked: max([s for s in sizes if s <= asked] or [30_000]),
        9,
    )
    probes, stop = run(few, lambda size: Probe(size, loss_at(size)))
    assert probes[stop.found].size_bytes == 90_000
    assert (
        stop.why
        == "Between 50.0 kB, which is not within the tolerance, and 90.0 kB, which is, the options have no file."
    )


@given(st.lists(st.tuples(st.integers(20_000, 120_000), st.floats(-5, 5), st.floats(0, 3)), max_size=8))
def test_whatever_was_measured_the_next_probe_tells_something_new(given_probes):
    probes = [Probe(size, worse, worse - half, worse + half) for size, worse, half in given_probes]
    search = searched()
    step = next_step(search, probes)
    if isinstance(step, Stop):
        assert step.found is None or search.holds(probes[step.found])
    elif probes:
        held = [p.size_bytes for p in probes if search.holds(p)]
        assert search.fits(step.size_bytes) < min(held, default=math.inf)
        assert search.fits(step.size_bytes) not in {p.size_bytes for p in probes}

"""A stage's curves: they grow, stay small, follow a work that was begun again, and come with what is reused."""

from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.jobs.child import CurvePoint
from webapp.jobs.job_progress import MOST, grown
from webapp.store.models import StageState

LOSS = "Loss (nats)"


def point(x, value=1.0, series="Training"):
    return CurvePoint(series, x, {LOSS: value})


def test_points_are_added_to_their_series():
    curves = grown({}, [point(1, 3.0), point(2, 2.5), point(2, 2.8, "Validation")])
    curves = grown(curves, [point(3, 2.0)])
    assert curves == {
        "Training": {"x": [1, 2, 3], "values": {LOSS: [3.0, 2.5, 2.0]}},
        "Validation": {"x": [2], "values": {LOSS: [2.8]}},
    }


def test_work_that_goes_on_from_an_earlier_point_replaces_what_came_after():
    curves = grown({}, [point(x) for x in range(10)])
    curves = grown(curves, [point(6, 0.5), point(7, 0.4)])
    assert curves["Training"] == {"x": [0, 1, 2, 3, 4, 5, 6, 7], "values": {LOSS: [1.0] * 6 + [0.5, 0.4]}}


def test_what_a_point_does_not_have_is_left_open():
    curves = grown({}, [CurvePoint("a", 1, {"one": 1.0}), CurvePoint("a", 2, {"two": 2.0})])
    assert curves == {"a": {"x": [1, 2], "values": {"one": [1.0, None], "two": [None, 2.0]}}}
    assert grown(curves, []) == curves


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 4000), st.integers(1, 700))
def test_a_series_never_holds_more_than_is_drawn_and_ends_where_the_work_is(count, at_once):
    curves = {}
    for start in range(0, count, at_once):
        curves = grown(curves, [point(x) for x in range(start, min(start + at_once, count))])
    x = curves["Training"]["x"]
    assert len(x) <= MOST
    assert x == sorted(set(x))
    assert x[0] == 0
    assert x[-1] >= count - 1 - count / MOST * 4


def test_a_stages_points_are_kept_and_come_along_when_it_is_reused(bench):
    bench.start_worker()
    points = [["point", {"series": "Training", "x": x, "values": {LOSS: 1 / (1 + x)}}] for x in range(3)]
    bad = [["point", wrong] for wrong in (None, {}, {"series": "s", "x": "1", "values": {LOSS: 1}}, {"values": []})]
    script = {"a": [*points, *bad, ["write", "a"]]}
    checkpoint_id = bench.checkpoint()
    first = bench.ended(bench.run({"stages": script}, checkpoint_id))
    expected = {"Training": {"x": [0, 1, 2], "values": {LOSS: [1.0, 0.5, 1 / 3]}}}
    assert first.stages[0].curves == expected
    again = bench.ended(bench.run({"stages": script}, checkpoint_id))
    assert again.stages[0].state is StageState.REUSED
    assert again.stages[0].curves == expected

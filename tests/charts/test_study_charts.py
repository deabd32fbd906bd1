"""The chart of a study: each run once as measured, once as expected, the answer apart, and the tolerance as a line."""

from webapp import charts

EXPECTED = {"value": 0.06, "low": 0.04, "high": 0.09}


def row(name, size, value, wins=False, expected=EXPECTED):
    measured = None if value is None else {"value": value, "low": 0.9 * value, "high": 1.1 * value}
    return {
        "name": name,
        "size_bytes": size if measured else None,
        "measured": measured,
        "expected_bytes": 20_000,
        "expected": expected,
        "wins": wins,
    }


def test_measured_and_expected_stand_at_their_sizes_with_their_intervals():
    drawn = charts.study_runs([row("a", 19_000, 0.05, wins=True), row("b", 18_000, 0.07)], "nats", 0.1)
    traces = {trace.name: trace for trace in drawn.data}
    assert list(traces["The answer"].x) == [19.0]
    assert list(traces["Measured, 95 % interval"].x) == [18.0]
    expected = traces["Expected, 80 % interval"]
    assert (list(expected.x), list(expected.y)) == ([20.0, 20.0], [0.06, 0.06])
    assert list(expected.error_y.array) == [0.03, 0.03]
    (line,) = drawn.layout.shapes
    assert (line.y0, line.y1) == (0.1, 0.1)


def test_runs_that_are_not_done_are_expected_only_and_nothing_at_all_says_so():
    (only,) = charts.study_runs([row("a", 0, None)], "nats").data
    assert only.name == "Expected, 80 % interval"
    empty = charts.study_runs([row("a", 0, None, expected=None)], "points")
    assert not empty.data
    assert "Nothing is known" in empty.layout.annotations[0].text.replace("<br>", " ")


def test_a_name_is_text():
    drawn = charts.study_runs([row("<b>x", 19_000, 0.05)], "nats")
    assert drawn.data[1].text[0] == "&lt;b&gt;x"

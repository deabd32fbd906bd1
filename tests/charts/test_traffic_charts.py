"""Latency and errors of a deployment as charts."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from webapp.charts import latency_over_time, requests_over_time

BEGIN = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
WINDOW = (BEGIN - timedelta(minutes=30), BEGIN + timedelta(minutes=30))


@dataclass
class Drawn:
    at: datetime
    p50: float | None = 2.0
    p95: float | None = 5.0
    answered: int = 9
    refused: int = 0
    failed: int = 0
    left: int = 0


def steps(*minutes, **given):
    return [Drawn(BEGIN + timedelta(minutes=minute), **given) for minute in minutes]


def test_the_line_is_broken_where_nothing_was_answered():
    p50, p95 = latency_over_time(steps(0, 1, 5), 1, *WINDOW).data
    assert p50.name.startswith("p50")
    assert list(p50.y) == [2.0, 2.0, None, 2.0]
    assert list(p95.y) == [5.0, 5.0, None, 5.0]


def test_it_has_a_title_units_and_the_whole_window():
    for drawn in (latency_over_time, requests_over_time):
        found = drawn(steps(0), 1, *WINDOW)
        assert found.layout.title.text
        assert found.layout.xaxis.title.text == "Time (UTC)"
        assert tuple(found.layout.xaxis.range) == WINDOW
        assert all(trace.hovertemplate for trace in found.data)
    assert latency_over_time(steps(0), 1, *WINDOW).layout.yaxis.title.text == "Latency (ms)"


def test_requests_are_told_apart_by_how_they_ended():
    found = requests_over_time(steps(0, refused=2, left=1), 15, *WINDOW)
    assert [trace.name.partition(":")[0] for trace in found.data] == ["Answered", "Refused", "The client went away"]
    assert [trace.y[0] for trace in found.data] == [9, 2, 1]
    assert found.layout.yaxis.title.text == "Requests in 15 min"


def test_nothing_is_said_in_a_sentence():
    for drawn in (latency_over_time, requests_over_time):
        assert drawn([], 1, *WINDOW).layout.annotations[0].text.startswith("No request")
    refused_only = steps(0, p50=None, p95=None, answered=0, refused=3)
    assert not latency_over_time(refused_only, 1, *WINDOW).data
    assert requests_over_time(refused_only, 1, *WINDOW).data

"""What a serving process tells of its requests: minutes, histograms, and their bounds."""

import random

import pytest

from tests.patience import until
from webapp.serving.traffic import CLIENT_LEFT, MINUTES, Traffic, added, bin_of, percentile


class Clock:
    def __init__(self):
        self.seconds = 6000.0

    def __call__(self):
        return self.seconds


def test_percentiles_are_within_two_and_a_half_per_cent():
    drawn = random.Random(0)
    times = sorted(drawn.lognormvariate(2.0, 1.5) for _ in range(5000))
    found = added([{str(bin_of(time)): 1} for time in times])
    for share in (0.5, 0.95, 0.99):
        assert percentile(found, share) == pytest.approx(times[int(share * len(times)) - 1], rel=0.026)
    assert percentile({}, 0.5) is None


def test_minutes_are_told_apart_and_old_ones_forgotten():
    clock = Clock()
    traffic = Traffic(clock)
    traffic.record(0.010, 200)
    traffic.record(0.010, 200)
    traffic.record(3.0, 400)
    traffic.record(0.001, CLIENT_LEFT)
    (minute,) = traffic.minutes()
    assert minute == {"minute": 100, "requests": 4, "errors": {"400": 1, "499": 1}, "latencies": {str(bin_of(10)): 2}}
    for _ in range(MINUTES + 5):
        clock.seconds += 60
        traffic.record(0.010, 200)
    kept = traffic.minutes()
    assert len(kept) == MINUTES
    assert kept[-1]["minute"] == 100 + MINUTES + 5


def test_a_process_measures_its_requests(classifier):
    def counts():
        told = classifier.get("/-/state")[1]["minutes"]
        errors = added(each["errors"] for each in told)
        return sum(each["requests"] for each in told), errors.get(400, 0)

    requests, refused = counts()
    classifier.post("/v1/models/rows:predict", {"instances": [[1, 2, 3]]})
    classifier.post("/v1/models/rows:predict", {"instances": [[1, 2]]})
    classifier.get("/v1/models/rows")  # asks about the model, and is no request to it
    until(lambda: counts() == (requests + 2, refused + 1))
    assert percentile(added(each["latencies"] for each in classifier.get("/-/state")[1]["minutes"]), 0.5) > 0


def test_a_stream_counts_once_it_has_ended(writer):
    def answered():
        return sum(added(each["latencies"] for each in writer.get("/-/state")[1]["minutes"]).values())

    before = answered()
    body = {"model": "writer", "prompt": "one", "stream": True}
    assert writer.send("POST", "/v1/completions", body)[0] == 200
    until(lambda: answered() == before + 1)

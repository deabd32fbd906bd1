"""Charts of a budget promise: what is drawn is what was forecast and measured, on axes that say their units."""

import pytest

from webapp import charts

FRONT = [
    {"size_bytes": size, "loss": loss, "low": loss / 2, "high": loss * 2}
    for size, loss in ((10_000_000, 2.0), (20_000_000, 0.1), (40_000_000, 1e-9), (80_000_000, 0.0))
]
CHOSEN = {"size_bytes": 20_000_000, "loss": 0.1, "low": 0.05, "high": 0.2}


def point(loss, expected, run=None):
    return {
        "name": "<b>bold</b>",
        "run": run,
        "size_bytes": 25_000_000,
        "loss": loss,
        "expected": expected,
        "low": expected / 2,
        "high": expected * 2,
    }


def trace(figure, meta):
    return next(each for each in figure.data if each.meta == meta)


def test_the_front_is_drawn_with_its_interval_and_what_was_chosen_on_it():
    figure = charts.budget_front(FRONT[:2], CHOSEN, "nats")
    assert list(trace(figure, "front").x) == [10, 20]
    assert list(trace(figure, "front").y) == [2.0, 0.1]
    assert list(trace(figure, "band").y) == [4.0, 0.2, 0.05, 1.0]
    assert (trace(figure, "chosen").x[0], trace(figure, "chosen").y[0]) == (20, 0.1)
    assert figure.layout.xaxis.title.text == "Size of the file (MB, 10⁶ bytes)"
    assert figure.layout.yaxis.title.text.startswith("KL divergence (nats)")
    assert all(each.showlegend is not False and each.name for each in figure.data)


def test_losses_over_many_decades_have_an_axis_whose_floor_leaves_out_what_is_as_good_as_none():
    figure = charts.budget_front(FRONT, CHOSEN, "nats")
    assert figure.layout.yaxis.type == "log"
    floor = figure.layout.meta["floor"]
    assert list(trace(figure, "front").x) == [10, 20]
    assert min(trace(figure, "band").y) >= floor > 0


def test_losses_that_are_alike_have_an_axis_from_nothing():
    figure = charts.budget_front([FRONT[1], FRONT[3]], CHOSEN, "cosine distance")
    assert figure.layout.yaxis.type == "linear"
    assert list(trace(figure, "front").y) == [0.1, 0.0]
    assert figure.layout.yaxis.title.text.startswith("Cosine distance")


def test_what_runs_measured_lies_beside_the_front():
    figure = charts.budget_front(FRONT, CHOSEN, "nats", [point(0.3, 0.2, "r1")])
    by_name = {each.name: each for each in figure.data}
    assert list(by_name["Measured by runs"].x) == [25]
    assert list(by_name["Measured by runs"].y) == [0.3]
    assert by_name["Measured by runs"].customdata[0][0] == "&lt;b&gt;bold&lt;/b&gt;"


@pytest.mark.parametrize("unit", ["nats", "cosine distance", "squared error"])
def test_a_prediction_that_held_lies_on_the_line(unit):
    figure = charts.predicted_against_measured([point(0.2, 0.2), point(0.02, 0.01, "r1")], unit)
    line = next(each for each in figure.data if each.name == "As predicted")
    assert list(line.x) == list(line.y) == [0.01, 0.2]
    measured = next(each for each in figure.data if each.name == "Measured by runs")
    assert (measured.x[0], measured.y[0]) == (0.01, 0.02)
    assert charts.LOSS_UNITS[unit] in figure.layout.xaxis.title.text


def test_without_options_or_measurements_the_charts_say_so():
    for figure in (charts.budget_front([], CHOSEN, "nats"), charts.predicted_against_measured([], "nats")):
        assert not figure.data
        assert figure.layout.annotations[0].text

"""The curve of a sweep, its knee, and parallel coordinates."""

import math

import pytest

from webapp.charts import SERIES, Dimension, Sides, knee_run, parallel_coordinates, pareto_front, tradeoff
from webapp.charts.points import knee


def run(number, size, accuracy, baseline=(1000, 0.99), state="succeeded"):
    def measured(size_bytes, value):
        ends = [value - 0.01, value + 0.01]
        metrics = {"accuracy": {"value": value, "ci95": ends, "n": 540, "title": "Accuracy", "higher_is_better": True}}
        return {"size_bytes": size_bytes, "metrics": metrics}

    return {
        "id": f"run{number}",
        "name": f"run {number}",
        "state": state,
        "checkpoint": {"id": "c", "name": "net"},
        "dataset": {"id": "d", "name": "data"},
        "baseline": measured(*baseline),
        "result": measured(size, accuracy) if accuracy is not None else None,
    }


PATH = "setting.steps.0.settings.sparsity"


def curve(runs, x="size_bytes", **sides):
    fed = [
        one | {"series": "Wanda", "line": {"key": "Wanda", "at": at / 10}, "settings": {PATH: at / 10}}
        for at, one in enumerate(runs, start=1)
    ]
    return tradeoff(fed, Sides(x=x, colour=SERIES, titles={PATH: "Sparsity"}, labels=False, **sides))


def test_the_knee_is_furthest_above_the_line_between_the_ends():
    front = [(100, 0.2), (200, 0.9), (400, 0.94), (800, 0.96)]
    above = [(y - 0.2) / 0.76 - math.log(x / 100) / math.log(8) for x, y in front]
    assert knee(front, True) == above.index(max(above)) == 1
    turned = [(x, 1 - y) for x, y in front]  # a loss
    assert knee(turned, False) == 1


@pytest.mark.parametrize(
    "front",
    [
        [],
        [(1, 0.1), (2, 0.2)],
        [(100, 0.1), (200, 0.2), (400, 0.3)],  # as straight as can be
        [(100, 0.1), (200, 0.11), (400, 0.9)],  # more bytes buy ever more
        [(0, 0.1), (200, 0.5), (400, 0.6)],
        [(100, 0.1), (200, math.nan), (400, math.inf)],
    ],
)
def test_a_front_without_a_bend_has_no_knee(front):
    assert knee(front, True) is None


def test_the_original_ends_the_front_and_is_no_knee_itself():
    runs = [run(0, 100, 0.5), run(1, 300, 0.97), run(2, 600, 0.98)]
    assert knee_run(runs, "accuracy") == "run1"
    assert knee_run([run(0, 500, 0.5), run(1, 600, 0.6)], "accuracy") is None
    assert knee_run(runs, "perplexity") is None


def test_the_curve_has_a_line_a_front_a_knee_and_the_original():
    runs = [run(0, 100, 0.5), run(1, 300, 0.97), run(2, 600, 0.98), run(3, 0, None, state="queued")]
    figure = curve(runs, marks={"Knee": "run1", "Taken": "run2"})
    traces = {trace.name: trace for trace in figure.data}
    assert set(traces) == {"Pareto front", "Wanda", "Knee", "Taken", "net (original)"}
    assert list(traces["Wanda"].meta["runs"]) == ["run0", "run1", "run2"]
    assert traces["Wanda"].mode == "lines+markers"
    assert list(traces["Wanda"].y) == [0.5, 0.97, 0.98]
    assert list(traces["Wanda"].error_y.array) == pytest.approx([0.01] * 3)
    points = [(100, 0.5), (300, 0.97), (600, 0.98), (1000, 0.99)]
    assert list(traces["Pareto front"].y) == [y for _, y in pareto_front(points, True)]
    shared = curve(runs, links=False)
    assert all(trace.meta is None for trace in shared.data)


def test_against_a_setting_there_is_no_front_and_no_original():
    figure = curve([run(0, 100, 0.5), run(1, 300, 0.97)], PATH, marks={"Knee": "run1", "Taken": None})
    assert [trace.name for trace in figure.data] == ["Wanda", "Knee"]
    assert list(figure.data[0].x) == [0.1, 0.2]
    assert figure.layout.xaxis.title.text == "Sparsity"


def test_before_a_run_has_ended_the_curve_says_so():
    figure = curve([run(0, 0, None)], empty="The curve begins with the first run.")
    assert "first run" in figure.layout.annotations[0].text


def test_parallel_coordinates_are_one_line_for_each_run_with_a_result():
    names = ["a", "b <b>", "c", "d"]
    dimensions = [
        Dimension("Technique", ["Wanda", "GPTQ", "Wanda", "GPTQ"]),
        Dimension("Bits", [2, 4, None, 4]),
        Dimension("Same", [1, 1, 1, 1]),
        Dimension("Symmetric", [True, False, True, True]),
    ]
    figure = parallel_coordinates(names, dimensions, Dimension("Accuracy", [0.5, 0.9, 0.7, None]))
    assert list(figure.layout.xaxis.ticktext) == ["Technique", "Bits", "Symmetric", "Accuracy"]
    told = [row for trace in figure.data for row in (trace.customdata if trace.customdata is not None else ())]
    assert {row[0] for row in told} == {"a", "b &lt;b&gt;", "c", ""}
    assert ["c", "Bits", "none"] in [list(row) for row in told]
    ends = [y for trace in figure.data for y in trace.y if y is not None]
    assert (min(ends), max(ends)) == (0, 1)


def test_one_run_cannot_be_drawn_side_by_side():
    figure = parallel_coordinates(["a"], [], Dimension("Accuracy", [0.5]))
    assert "Two runs" in figure.layout.annotations[0].text

"""Charts promise: what is drawn is what was measured, and what cannot be drawn is said."""

import json
from typing import Any

import plotly.graph_objects as go
import pytest

from webapp import charts
from webapp.charts.drawing import short


def measured(
    size: int, metrics: dict[str, Any] | None = None, sparsity: float = 0.0, layers: int = 2
) -> dict[str, Any]:
    return {
        "size_bytes": size,
        "params_total": 1000,
        "params_nonzero": 900,
        "params_stored": 900,
        "sparsity": sparsity,
        "bits_per_weight": 8.0,
        "metrics": metrics or {},
        "latency_ms": {"p50": 1.5, "p95": 2.0},
        "speed": {"ratio": 2.0, "ci95": [1.9, 2.1]},
        "layers": [
            {
                "name": f"layers.{i}.weight",
                "sparsity": sparsity,
                "stored_bytes": 10,
                "storage": "dense",
                "bits_per_weight": 8.0,
            }
            for i in range(layers)
        ],
    }


def metric(value: float, name: str = "accuracy", higher: bool = True) -> dict[str, Any]:
    return {
        name: {
            "value": value,
            "n": 540,
            "ci95": [value * 0.9, value * 1.1],
            "higher_is_better": higher,
            "title": name.capitalize(),
            "unit": "",
        }
    }


def run(number: int, size: int, metrics: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "id": f"run{number}",
        "name": f"run number {number}",
        "checkpoint": {"id": "c1", "name": "digits"},
        "dataset": {"id": "d1", "name": "digits.npz"},
        "baseline": measured(4_000_000, metrics and {n: m | {"value": 0.97} for n, m in metrics.items()}),
        "result": measured(size, metrics, sparsity=0.5),
    } | more


def texts(figure: go.Figure) -> str:
    return " ".join(note.text.replace("<br>", " ") for note in figure.layout.annotations)


@pytest.mark.parametrize(
    ("points", "higher", "front"),
    [
        ([(1, 0.5), (2, 0.9), (3, 0.8)], True, [(1, 0.5), (2, 0.9)]),
        ([(1, 30.0), (2, 10.0), (3, 20.0)], False, [(1, 30.0), (2, 10.0)]),
        ([(1, 0.5), (1, 0.7), (1, 0.6)], True, [(1, 0.7)]),
        ([(2, 0.7), (1, 0.7)], True, [(1, 0.7)]),
        ([], True, []),
    ],
)
def test_no_run_beats_one_on_the_front(points: list[Any], higher: bool, front: list[Any]) -> None:
    assert charts.pareto_front(points, higher) == front


def test_size_against_accuracy_draws_runs_original_and_front() -> None:
    runs = [run(1, 1_000_000, metric(0.96)), run(2, 500_000, metric(0.9)), run(3, 600_000, metric(0.8))]
    figure = charts.tradeoff(runs, charts.Sides(y="metric.accuracy"))
    front, points, original = figure.data
    assert front.name == "Pareto front"
    assert list(zip(front.x, front.y, strict=True)) == [(0.5, 0.9), (1.0, 0.96), (4.0, 0.97)]
    assert list(points.x) == [1.0, 0.5, 0.6]  # MB of 10^6 bytes
    assert points.error_y.array[0] == pytest.approx(0.096)
    assert original.name == "digits (original)"
    assert original.x == (4.0,)
    assert "MB" in figure.layout.xaxis.title.text


def test_with_perplexity_the_axis_is_turned_and_the_front_goes_down() -> None:
    runs = [run(1, 1_000_000, metric(12.0, "perplexity", False)), run(2, 500_000, metric(90.0, "perplexity", False))]
    figure = charts.tradeoff(runs, charts.Sides(y="metric.perplexity"))
    assert figure.layout.yaxis.autorange == "reversed"
    assert "lower is better" in figure.layout.yaxis.title.text
    assert list(figure.data[0].y) == [90.0, 12.0, 0.97]


def test_a_large_range_gets_a_logarithmic_axis_unless_asked_otherwise() -> None:
    runs = [run(1, 100_000, metric(0.9))]
    assert charts.tradeoff(runs, charts.Sides(y="metric.accuracy")).layout.xaxis.type == "log"
    assert charts.tradeoff(runs, charts.Sides(y="metric.accuracy", scale="linear")).layout.xaxis.type == "linear"
    near = [run(1, 3_000_000, metric(0.9))]
    assert charts.tradeoff(near, charts.Sides(y="metric.accuracy")).layout.xaxis.type == "linear"


def test_a_logarithmic_axis_has_labels_that_people_read() -> None:
    runs = [run(1, 100_000, metric(0.9))]
    axis = charts.tradeoff(runs, charts.Sides(y="metric.accuracy")).layout.xaxis
    assert axis.ticktext[:3] == ("0.1", "0.2", "0.5")
    far = metric(1e-9, "kl_divergence", False)
    assert (
        charts.tradeoff([run(1, 1_000, far)], charts.Sides(y="metric.kl_divergence")).layout.yaxis.exponentformat
        == "power"
    )


def test_fronts_do_not_mix_datasets() -> None:
    other = run(2, 400_000, metric(0.99), dataset={"id": "d2", "name": "easy.npz"})
    figure = charts.tradeoff([run(1, 1_000_000, metric(0.8)), other], charts.Sides(y="metric.accuracy"))
    assert [len(t.x) for t in figure.data if t.name == "Pareto front"] == [2]  # easy.npz has a front of one: no line
    assert {t.name for t in figure.data} >= {"Runs of digits on digits.npz", "Runs of digits on easy.npz"}


def test_runs_without_the_metric_are_said_to_be_missing() -> None:
    bare = run(1, 100_000)
    bare["result"]["metrics_unavailable"] = "This checkpoint is weights only."
    figure = charts.tradeoff([bare], charts.Sides(y="metric.accuracy"))
    assert not figure.data
    assert "None of these runs has accuracy" in texts(figure)
    assert "weights only" in texts(figure)


def test_every_chart_takes_no_run_and_an_unfinished_run() -> None:
    waiting = run(1, 1) | {"result": None, "baseline": None}
    for runs in ([], [waiting]):
        for figure in (
            charts.tradeoff(runs, charts.Sides(y="metric.accuracy")),
            charts.size_bars(runs),
            charts.sparsity_bars(runs),
            charts.per_layer_sparsity(runs),
        ):
            assert not figure.data
            assert texts(figure)


def test_a_hundred_runs_draw() -> None:
    runs = [run(i, 1000 * (i + 1), metric(0.5 + i / 250)) for i in range(100)]
    assert len(charts.size_bars(runs).data[1].y) == 100
    assert len(charts.tradeoff(runs, charts.Sides(y="metric.accuracy")).data[1].x) == 100
    assert charts.per_layer_sparsity(runs).data[0].type == "heatmap"
    assert len(charts.per_layer_sparsity(runs).data[0].z[0]) == 100


def test_runs_of_one_name_stay_apart() -> None:
    runs = [run(1, 1000, name="same"), run(2, 2000, name="same")]
    assert list(charts.size_bars(runs).data[1].y) == ["run1", "run2"]


def test_long_names_are_whole_in_the_hover_and_markup_in_names_is_text() -> None:
    name = "a" * 30 + "<b>" + "z" * 30
    figure = charts.size_bars([run(1, 1000, name=name)])
    assert figure.data[1].customdata[0][0] == name.replace("<", "&lt;").replace(">", "&gt;")
    assert len(figure.layout.yaxis.ticktext[1]) == 28
    assert short("<i>") == "&lt;i&gt;"


def test_few_layers_are_bars_and_a_layer_that_is_missing_is_a_gap() -> None:
    smaller = run(2, 1000)
    smaller["result"]["layers"].pop()
    figure = charts.per_layer_sparsity([run(1, 1000), smaller])
    assert [t.type for t in figure.data] == ["bar", "bar"]
    assert figure.data[1].y == (0.5, None)


def test_prunable_sparsity_is_drawn_beside_the_other_where_known() -> None:
    assert len(charts.sparsity_bars([run(1, 1000)]).data) == 1
    assert charts.sparsity_bars([run(1, 1000, prunable_sparsity=0.8)]).data[1].x == (0.8,)


def test_the_treemap_has_the_bytes_of_stored_forms() -> None:
    stored = {"plan": {}, "label": "int4 groups of 64", "bytes": 9, "params": 64}
    plain = {"name": "a.weight", "shape": [8, 8], "dtype": "float32"}
    rows = [plain | {"stored": stored}, plain | {"name": "b.weight", "block_type": "Q4_K", "block_bytes": 7}]
    trace = charts.weights_treemap({"tensors": rows}, "made by Pare").data[0]
    assert trace.values[trace.ids.index("=a.weight")] == 9
    assert trace.values[trace.ids.index("=b.weight")] == 7
    assert trace.customdata[trace.ids.index("=a.weight")][1] == "8 × 8 int4 groups of 64"


def test_the_treemap_has_every_byte_once() -> None:
    facts = {
        "tensors": [
            {"name": "layers.0.weight", "shape": [10, 10], "dtype": "float32"},
            {"name": "layers.0.bias", "shape": [10], "dtype": "float32"},
            {"name": "layers.1.weight", "shape": [10, 10], "dtype": "float16"},
            {"name": "empty", "shape": [0], "dtype": "float32"},
            {"name": "scale", "shape": [], "dtype": "int8"},
        ]
    }
    trace = charts.weights_treemap(facts, "digits").data[0]
    at = dict(zip(trace.ids, trace.values, strict=True))
    assert at["/"] == 641
    assert at["layers."] == 640
    assert at["layers.0."] == 440
    for parent, size in at.items():
        inside = [v for i, p, v in zip(trace.ids, trace.parents, trace.values, strict=True) if p == parent]
        assert not inside or sum(inside) == size
    hover = dict(zip(trace.ids, trace.customdata, strict=True))
    assert list(hover["=layers.0.weight"]) == [
        "layers.0.weight",
        "10 × 10 float32",
        "400 B",
        "62.40\N{NO-BREAK SPACE}%",
    ]


def test_bytes_by_storage_adds_up_to_the_file() -> None:
    receipt = {
        "bytes": {
            "total": 1000,
            "tensors": [
                {"storage": "int8", "bytes": 600},
                {"storage": "int8", "bytes": 100},
                {"storage": "dense", "bytes": 200},
            ],
        }
    }
    trace = charts.bytes_by_storage(receipt).data[0]
    assert list(trace.y) == ["int8", "dense", "header and manifest"]
    assert sum(trace.x) * 1e3 == pytest.approx(1000)
    assert "kB" in charts.bytes_by_storage(receipt).layout.xaxis.title.text


def test_metrics_that_most_runs_have_come_first() -> None:
    runs = [run(1, 1, metric(0.9)), run(2, 1, metric(0.1, "kl_divergence", False)), run(3, 1, metric(0.9))]
    assert charts.metric_names(runs) == {"accuracy": "Accuracy", "kl_divergence": "Kl_divergence"}


def test_figures_are_json_that_a_browser_parses() -> None:
    text = charts.tradeoff([run(1, 100_000, metric(0.9))], charts.Sides(y="metric.accuracy")).to_json()
    assert "data" in json.loads(text, parse_constant=pytest.fail)
    assert len(text) < 4000  # no template of its own


CURVES = {
    "Training": {"x": [1, 2, 3], "values": {"Loss (nats)": [3.0, 2.0, None], "Rate": [0.1, 0.2, 0.3]}},
    "Validation": {"x": [0, 2], "values": {"Loss (nats)": [4.0, 2.5]}},
}


def test_a_curve_has_a_line_for_each_series_and_its_unit_at_the_axis():
    assert charts.quantities(CURVES) == ["Loss (nats)", "Rate"]
    figure = charts.stage_curve(CURVES, "Loss (nats)", "Step 2: Distillation")
    assert [(trace.name, list(trace.x), list(trace.y)) for trace in figure.data] == [
        ("Training", [1, 2], [3.0, 2.0]),
        ("Validation", [0, 2], [4.0, 2.5]),
    ]
    assert figure.layout.yaxis.title.text == "Loss (nats)"
    assert figure.layout.xaxis.title.text == "Step"
    assert len({trace.line.dash for trace in figure.data}) == 2  # not by colour alone
    assert "nothing" in json.dumps(charts.stage_curve({}, "Loss", "x").to_plotly_json(), default=str).lower()


def test_a_curves_table_has_a_row_for_each_step_that_any_series_has():
    assert charts.curve_rows(CURVES, "Loss (nats)") == (
        ["Training", "Validation"],
        [(0, [None, 4.0]), (1, [3.0, None]), (2, [2.0, 2.5])],
    )


def test_a_confusion_tells_shares_of_its_rows_and_names_as_text():
    matrix = [[3, 1], [0, 4]]
    drawn = charts.confusion_matrix(matrix, ["<b>", "dog"], "Is", "By the result", "Confusion")
    trace = drawn.data[0]
    assert [list(row) for row in trace.z] == [[0.75, 0.25], [0.0, 1.0]]
    assert trace.text[0][1] == "1"
    assert "&lt;b&gt;" in trace.customdata[0][1]
    assert "1 of 4" in trace.customdata[0][1]
    assert charts.confusion_matrix([], [], "Is", "By the result", "Confusion").layout.annotations

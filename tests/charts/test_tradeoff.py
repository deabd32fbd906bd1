"""The chart of a comparison: any figure against any other, coloured, with lines and names that can be read."""

import itertools
import json

import pytest

from tests.charts.test_charts import metric, run
from webapp import charts
from webapp.charts.labels import HEIGHT, LETTER, LINE, WIDTH, Spot, labels

SIZE = charts.Sides(y="metric.accuracy")


def swept(number, bits, technique="GPTQ", **more):
    settings = {"setting.gptq.bits": float(bits), "setting.gptq.order": "asc"}
    line = {"key": f"s1 {technique}", "at": bits}
    own = {
        "settings": settings,
        "techniques": technique,
        "tags": [],
        "study": {"id": "s1", "name": "Bits"},
        "line": line,
    }
    return run(number, 100_000 * bits, metric(1 - 0.5**bits)) | own | more


def points(figure):
    return [trace for trace in figure.data if trace.mode and trace.mode.startswith("markers")]


def test_both_axes_are_of_ones_choice_and_the_front_follows_them():
    runs = [swept(n, bits) for n, bits in enumerate((2, 4, 8))]
    drawn = charts.tradeoff(runs, charts.Sides(x="metric.accuracy", y="size_bytes", lines=False))
    assert drawn.layout.yaxis.autorange == "reversed"  # less is better
    front = drawn.data[0]
    assert front.name == "Pareto front"
    assert list(front.x) == sorted(front.x)
    drawn = charts.tradeoff(runs, charts.Sides(x="setting.gptq.bits", titles={"setting.gptq.bits": "GPTQ: Bits"}))
    assert [list(trace.x) for trace in points(drawn)] == [[2, 4, 8]]  # and no original, which has no bits
    assert drawn.layout.xaxis.title.text == "GPTQ: Bits"
    assert "Pareto front" not in {trace.name for trace in drawn.data}  # neither end of a setting is better


def test_time_has_its_interval_turned_round_with_the_ratio():
    fast = run(1, 1000, metric(0.9))
    fast["result"]["speed"] = {"ratio": 2.0, "ci95": [1.6, 2.5]}
    trace = points(charts.tradeoff([fast], charts.Sides(x="time_ratio")))[0]
    assert trace.x == (0.5,)
    assert trace.error_x.array[0] == pytest.approx(1 / 1.6 - 0.5)
    assert trace.error_x.arrayminus[0] == pytest.approx(0.5 - 1 / 2.5)
    chart = charts.time_ratios([fast, run(2, 1) | {"result": None}])
    assert chart.data[0].x == (0.5,)
    assert "0.400 to 0.625" in chart.data[0].hovertext[0]
    assert charts.time_ratios([]).layout.annotations


def test_runs_are_coloured_by_what_they_have_and_those_without_it_last():
    runs = [swept(1, 2), swept(2, 4, "AWQ"), swept(3, 8, None), swept(4, 3)]
    drawn = points(charts.tradeoff(runs, charts.Sides(colour="technique")))
    assert [(trace.name, len(trace.x)) for trace in drawn] == [
        ("AWQ", 1),
        ("GPTQ", 2),
        ("none", 1),
        ("digits (original)", 1),
    ]
    assert len({(t.marker.color, t.marker.symbol) for t in drawn}) == 4  # not by colour alone
    by_bits = points(charts.tradeoff(runs, charts.Sides(colour="setting.gptq.bits")))
    assert [trace.name for trace in by_bits][:-1] == ["2", "3", "4", "8"]


def test_two_checkpoints_of_one_name_have_two_colours():
    runs = [swept(n, 4, checkpoint={"id": id_, "name": "digits"}) for n, id_ in enumerate(("c1", "c2", "c1"))]
    drawn = points(charts.tradeoff(runs, charts.Sides(colour="checkpoint")))
    assert [(t.name, len(t.x)) for t in drawn if "original" not in t.name] == [("digits (1)", 2), ("digits (2)", 1)]


def test_many_numbers_are_shades_and_many_words_end_in_others():
    runs = [swept(n, n + 2, f"technique {n}") for n in range(20)]
    shaded = points(charts.tradeoff(runs, charts.Sides(colour="setting.gptq.bits")))[0]
    assert list(shaded.marker.color) == [float(n + 2) for n in range(20)]
    assert shaded.marker.showscale
    named = points(charts.tradeoff(runs, charts.Sides(colour="technique")))
    assert sum(len(trace.x) for trace in named) == 21  # the original too
    assert [trace.name for trace in named].count("Others") == 1
    assert len(named) == 13


def test_a_line_goes_through_a_studys_runs_along_their_setting():
    runs = [swept(1, 8), swept(2, 2), swept(3, 4), swept(4, 3, "AWQ"), run(5, 1000, metric(0.9))]
    line = next(t for t in charts.tradeoff(runs, SIZE).data if t.name == "Runs of one study")
    assert list(line.x) == [0.2, 0.4, 0.8, None]  # MB; the only run of AWQ is on none
    assert "Runs of one study" not in {t.name for t in charts.tradeoff(runs, charts.Sides(lines=False)).data}


def test_a_click_opens_a_run_but_not_on_a_shared_page():
    runs = [swept(1, 2), swept(2, 4)]
    trace, star = points(charts.tradeoff(runs, SIZE))
    assert trace.meta == {"runs": ["run1", "run2"]}
    assert star.meta is None
    shared = charts.tradeoff(runs, charts.Sides(links=False)).to_json()
    assert '"meta"' not in shared


def test_a_zoom_is_where_the_axes_begin_and_end():
    drawn = charts.tradeoff([swept(1, 2), swept(2, 4)], charts.Sides(zoom=(0.1, 0.3, 0.9, 1.0)))
    assert list(drawn.layout.xaxis.range) == [0.1, 0.3]
    assert list(drawn.layout.yaxis.range) == [0.9, 1.0]
    other = charts.tradeoff([swept(1, 2), swept(2, 4)], charts.Sides(x="bits_per_weight"))
    assert other.layout.uirevision != drawn.layout.uirevision  # another axis is seen whole


def test_no_label_lies_on_another_at_fifty_points_and_the_ends_are_named():
    spots = [
        Spot(str(n), (n * 37 % 50) ** 2 + 1, n * 11 % 50, f"a name of run {n}", n + 1, n % 9 == 0) for n in range(50)
    ]
    found = labels(spots, ("linear", "linear"), False)
    named = {id_ for id_, (text, _) in found.items() if text.startswith("a name")}
    assert named
    assert any(text == str(int(id_) + 1) for id_, (text, _) in found.items())  # the others' numbers
    assert all(spots[int(id_)].on_front or int(id_) in _ends(spots) for id_ in named)
    boxes = [_box(spots, int(id_), *label) for id_, label in found.items()]
    for one, other in itertools.combinations(boxes, 2):
        assert one[0] >= other[2] or one[2] <= other[0] or one[1] >= other[3] or one[3] <= other[1]


def test_a_label_keeps_off_intervals_and_front_where_there_is_room():
    first = Spot("a", 0, 0.5, "a name", 1, True, 0.4, 0.6)
    spots = [first, Spot("", 10, 1.0, "", 1, True), Spot("b", 5, 0.0, "another", 2, False)]
    assert labels(spots, ("linear", "linear"), False, [[0, 1]])["a"][1] == "top right"
    wide = [Spot("a", 0, 0.5, "a name", 1, True, left=-2, right=2), *spots[1:], Spot("", 0, 1.0, "", 3, False)]
    assert labels(wide, ("linear", "linear"), False)["a"][1] == "top center"
    assert (
        labels([Spot("a", 0, 0.5, "a", 1, True, 0, 1, -2, 2), *spots[1:]], ("linear", "linear"), False)["a"][1]
        == "top right"
    )
    bare = [Spot("a", 0, 0.5, "a name", 1, True), *spots[1:]]
    assert labels(bare, ("linear", "linear"), False)["a"][1] == "top center"


def _ends(spots):
    return {end(range(len(spots)), key=of) for end in (min, max) for of in (lambda n: spots[n].x, lambda n: spots[n].y)}


def _box(spots, at, text, place):
    """Where Plotly writes it, in the pixels of the placement."""
    width, height = len(text) * LETTER, LINE - 2
    xs, ys = [s.x for s in spots], [s.y for s in spots]
    x = (spots[at].x - min(xs)) / (max(xs) - min(xs)) * WIDTH
    y = (spots[at].y - min(ys)) / (max(ys) - min(ys)) * HEIGHT
    level, side = place.split()
    x += {"left": -1, "center": 0, "right": 1}[side] * (width / 2 + 7)
    y += {"top": 1, "middle": 0, "bottom": -1}[level] * (height / 2 + 7)
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def test_few_runs_have_their_names_and_five_hundred_stay_small():
    few = points(charts.tradeoff([swept(1, 2), swept(2, 8)], SIZE))[0]
    assert few.text == ("run number 1", "run number 2")
    many = [run(n, 1000 + n * n, metric(0.5 + n / 1200)) for n in range(500)]
    text = charts.tradeoff(many, SIZE).to_json()
    assert len(text) < 200_000
    assert len(json.loads(text)["data"][1]["x"]) == 500

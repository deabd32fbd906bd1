"""Any figure of runs against any other: one point per run, the originals, the Pareto front, lines through studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go

from webapp.units import FRACTIONS, byte_text, lowered, percent, significant

from .drawing import (
    BASELINE_COLOUR,
    COLOURS,
    SYMBOLS,
    axis,
    axis_type,
    byte_axis,
    figure,
    log_ticks,
    near,
    nothing_to_show,
    short,
    whole,
)
from .labels import Spot, labels
from .points import (
    METRIC,
    SETTING,
    SHARES,
    Group,
    Point,
    Reading,
    Run,
    axis_title,
    collected,
    front_of,
    higher_is_better,
    pools,
)

MOST_GROUPS = 12  # that colour and symbol tell apart; the smaller ones are one
REST, NONE = "Others", "none"
Zoom = tuple[float, float, float, float]  # ends of the x axis, then of the y axis, as Plotly counts them


@dataclass(frozen=True)
class Sides:
    """What is drawn: `x` and `y` are AXES, metrics or settings by their keys. `titles`: of settings."""

    x: str = "size_bytes"
    y: str = f"{METRIC}accuracy"
    scale: str = "auto"  # of the x axis: "auto", "linear" or "log"
    colour: str = ""  # "": by checkpoint and dataset; else one of COLOURED, or a setting
    lines: bool = True  # through the runs of one study
    titles: Mapping[str, str] = field(default_factory=dict)
    zoom: Zoom | None = None
    links: bool = True  # a click on a point opens its run
    labels: bool = True  # names and numbers beside the points
    marks: Mapping[str, str | None] = field(default_factory=dict)  # ids of runs by what they are: a knee, a choice
    empty: str = ""  # what to say while there is nothing to draw

    def title(self, runs: Sequence[Run], key: str) -> str:
        return self.titles.get(key) or axis_title(runs, key)


SERIES = "series"  # colour by it, and each has a line of its own
COLOURED = {
    "technique": "Technique",
    "checkpoint": "Checkpoint",
    "dataset": "Dataset",
    "study": "Study",
    "tag": "Tag",
}


def tradeoff(runs: Sequence[Run], sides: Sides) -> go.Figure:
    """Runs are numbered in the order given, as labels and hovers name them."""
    x, y = sides.x, sides.y
    titles = sides.title(runs, x), sides.title(runs, y)
    heading = f"{titles[0].split(' (')[0].split(',')[0]} against {lowered(titles[1])}"
    groups, originals = collected(runs, x, y)
    if not groups:
        why = next((m for r in runs if (m := (r.get("result") or {}).get("metrics_unavailable"))), "")
        has = f"{lowered(titles[1])} and {lowered(titles[0])}" if x != "size_bytes" else lowered(titles[1])
        return nothing_to_show(heading, sides.empty or f"None of these runs has {has} to draw. {why}".strip())
    directions = higher_is_better(runs, x), higher_is_better(runs, y)
    points = [point for group in groups.values() for point in group]
    everything = [*points, *originals.values()]
    scales = [_FigureScale.of(key, [side(p) for p in everything]) for key, side in ((x, _across), (y, _up))]
    traces: list[go.Scatter] = []
    on_front: set[str] = set()
    fronts: list[list[int]] = []
    for pool in pools(groups, originals, x, y).values():
        front = front_of(pool, *directions)
        on_front |= {p.run_id for p in pool if (p.x, p.y) in set(front)}
        if len(front) > 1:
            fronts.append([next(at for at, p in enumerate(everything) if (p.x, p.y) == place) for place in front])
            traces.append(_front(front, scales, shown=not traces, downwards=bool(directions[0])))
    if sides.lines and sides.colour != SERIES:
        traces += _lines(points, scales)
    types = (
        axis_type([p.x for p in everything], sides.scale),
        axis_type([p.y for p in everything]),
    )
    numbers = {run["id"]: number for number, run in enumerate(runs, start=1)}
    spots = [_spot(p, numbers, p.run_id in on_front) for p in everything] if sides.labels else []
    named = labels(spots, types, directions[1] is False, fronts) if spots else {}
    drawn = _Drawn(runs, sides, titles, scales, numbers, named)
    traces += _coloured(drawn, groups, originals)
    traces += _marks(points, sides.marks, scales)
    across = axis(scales[0].told(titles[0]), type=types[0], tickformat=scales[0].tick)
    turned = directions[1] is False
    better = "higher is better" if directions[1] else "lower is better, so the axis is turned" if turned else ""
    up_title = whole(scales[1].told(titles[1])) + (f"<br>{better}" if better else "")
    up = axis(up_title, type=types[1], autorange="reversed" if turned else True, tickformat=scales[1].tick)
    across |= log_ticks([p.x / scales[0].divisor for p in everything]) if types[0] == "log" else {}
    up |= log_ticks([p.y / scales[1].divisor for p in everything]) if types[1] == "log" else {}
    if sides.zoom:
        across |= {"range": list(sides.zoom[:2]), "autorange": False}
        up |= {"range": list(sides.zoom[2:]), "autorange": False}
    kept = f"{x} {y} {sides.scale}"  # a zoom stays while these do
    return figure(traces, heading, height=480, xaxis=across, yaxis=up, uirevision=kept)


def _across(point: Point) -> float:
    return point.x


def _up(point: Point) -> float:
    return point.y


@dataclass(frozen=True)
class _FigureScale:
    """How the figures of one axis are shown."""

    key: str
    divisor: float
    unit: str
    share: bool

    @classmethod
    def of(cls, key: str, values: Sequence[float]) -> _FigureScale:
        divisor, unit = byte_axis(values) if key == "size_bytes" else (1.0, "")
        return cls(key, divisor, unit, key in SHARES or key.removeprefix(METRIC) in FRACTIONS)

    @property
    def tick(self) -> str | None:
        return ".2~%" if self.share else None  # 98.5 % beside 99 %

    def told(self, title: str) -> str:
        return f"{title} ({self.unit})" if self.unit else title

    def text(self, found: Reading) -> str:
        """With its interval and n, for the hover."""

        def one(value: float) -> str:
            return byte_text(value) if self.unit else percent(value, 2) if self.share else significant(value, ".4g")

        ends = f" (95 % CI: {one(found.low)} to {one(found.high)})" if found.low is not None and found.high else ""
        return one(found.value) + ends + (f", n = {found.n:,}" if found.n else "")


@dataclass(frozen=True)
class _Drawn:
    runs: Sequence[Run]
    sides: Sides
    titles: tuple[str, str]
    scales: Sequence[_FigureScale]
    numbers: Mapping[str, int]
    named: Mapping[str, tuple[str, str]]  # by a run's id: its label, and where that stands


def _spot(point: Point, numbers: Mapping[str, int], on_front: bool) -> Spot:
    name = point.run["name"].removeprefix(f"{point.run['checkpoint']['name']}: ") or point.run["name"]
    ends = point.up.low, point.up.high, point.across.low, point.across.high
    return Spot(point.run_id, point.x, point.y, name, numbers[point.run["id"]], on_front, *ends)


def _front(
    front: Sequence[tuple[float, float]], scales: Sequence[_FigureScale], shown: bool, downwards: bool
) -> go.Scatter:
    return go.Scatter(
        x=[p[0] / scales[0].divisor for p in front],
        y=[p[1] / scales[1].divisor for p in front],
        mode="lines",
        line={"shape": "vh" if downwards else "hv", "dash": "dot", "width": 2, "color": BASELINE_COLOUR},
        name="Pareto front",
        legendgroup="front",
        showlegend=shown,
        hoverinfo="skip",
    )


def _lines(points: Sequence[Point], scales: Sequence[_FigureScale]) -> list[go.Scatter]:
    """One through the runs that have the same `line`, in the order of their `at`; all of them one trace with gaps."""
    found: dict[str, list[Point]] = {}
    for point in points:
        if line := point.run.get("line"):
            found.setdefault(line["key"], []).append(point)
    x: list[float | None] = []
    y: list[float | None] = []
    for own in found.values():
        if len(own) > 1:
            own.sort(key=lambda point: point.run["line"]["at"])
            x += [*(p.x / scales[0].divisor for p in own), None]
            y += [*(p.y / scales[1].divisor for p in own), None]
    if not x:
        return []
    look = {"width": 1.2, "color": BASELINE_COLOUR}
    return [go.Scatter(x=x, y=y, mode="lines", line=look, name="Runs of one study", hoverinfo="skip")]


def _on_line(point: Point) -> bool:
    return bool(point.run.get("line"))


def _along(point: Point) -> float:
    return float(point.run["line"]["at"]) if _on_line(point) else point.x


def _marks(
    points: Sequence[Point], marks: Mapping[str, str | None], scales: Sequence[_FigureScale]
) -> list[go.Scatter]:
    """A ring around a run that is more than one of many."""
    traces = []
    for (name, run_id), symbol in zip(marks.items(), ("circle-open", "star-open", "square-open"), strict=False):
        for point in points:
            if run_id and point.run_id == run_id:
                look = {"size": 20, "symbol": symbol, "color": COLOURS[1], "line": {"width": 2.5, "color": COLOURS[1]}}
                x, y = [point.x / scales[0].divisor], [point.y / scales[1].divisor]
                told = f"<b>{name}</b>: {whole(point.name)}<extra></extra>"
                traces.append(go.Scatter(x=x, y=y, mode="markers", name=name, marker=look, hovertemplate=told))
    return traces


def _coloured(drawn: _Drawn, groups: Mapping[Group, list[Point]], originals: Mapping[Group, Point]) -> list[go.Scatter]:
    colour = drawn.sides.colour
    if not colour:
        return _by_origin(drawn, groups, originals)
    points = [point for group in groups.values() for point in group]
    values = [category(point.run, colour) for point in points]
    if colour in ("checkpoint", "dataset", "study"):
        values = _told_apart([point.run[colour] for point in points])
    numbers = {value for value in values if isinstance(value, float)}
    if len(numbers) > len(COLOURS):
        traces = _by_number(drawn, points, values, min(numbers), max(numbers))
    else:
        words = [_word(value) for value in values]
        size = {word: words.count(word) for word in words}
        order = sorted(size, key=lambda word: (-size[word], word))
        kept = order if len(order) <= MOST_GROUPS else order[: MOST_GROUPS - 1]
        at = {_word(value): value for value in values}
        kept = sorted(kept, key=lambda word: (word == NONE, isinstance(at[word], str), at[word] or 0, word))
        traces = []
        for number, word in enumerate([*kept, *([REST] if len(kept) < len(order) else [])]):
            own = [p for p, w in zip(points, words, strict=True) if (w == word if word in kept else w not in kept)]
            look = COLOURS[number % len(COLOURS)], SYMBOLS[(number + number // len(COLOURS)) % len(SYMBOLS)]
            own = sorted(own, key=_along) if colour == SERIES else own
            traces.append(_scatter(drawn, own, short(word, 48), *look))
            if colour == SERIES and drawn.sides.lines and word in kept and len(own) > 1 and all(map(_on_line, own)):
                traces[-1].update(mode="lines+markers", line={"width": 1.5, "color": look[0]})
    return traces + [_star(drawn, original, BASELINE_COLOUR) for original in originals.values()]


def _by_origin(
    drawn: _Drawn, groups: Mapping[Group, list[Point]], originals: Mapping[Group, Point]
) -> list[go.Scatter]:
    names = {run["checkpoint"]["id"]: run["checkpoint"]["name"] for run in drawn.runs}
    several_checkpoints, several_datasets = (len({key[i] for key in groups}) > 1 for i in (0, 1))
    traces = []
    for number, (key, points) in enumerate(groups.items()):
        label = "Runs"
        if several_checkpoints or several_datasets:
            on = f" on {points[0].dataset}" if several_datasets else ""
            label = f"Runs of {names[key[0]]}{on}"
        colour, symbol = COLOURS[number % len(COLOURS)], SYMBOLS[number % len(SYMBOLS)]
        traces.append(_scatter(drawn, points, short(label, 48), colour, symbol))
        if key in originals:
            traces.append(_star(drawn, originals[key], colour))
    return traces


def _by_number(
    drawn: _Drawn, points: Sequence[Point], values: Sequence[Any], low: float, high: float
) -> list[go.Scatter]:
    """Shades of a scale; what has no number is grey."""
    known = [at for at, value in enumerate(values) if isinstance(value, float)]
    others = [point for at, point in enumerate(points) if at not in set(known)]
    title = short(drawn.sides.title(drawn.runs, drawn.sides.colour), 24)
    shaded = _scatter(drawn, [points[at] for at in known], title, BASELINE_COLOUR, SYMBOLS[0])
    bar = {"title": {"text": title, "side": "right"}, "thickness": 12, "outlinewidth": 0}
    scale = {"color": [values[at] for at in known], "colorscale": "Viridis", "cmin": low, "cmax": high}
    shaded.marker.update({**scale, "showscale": True, "colorbar": bar})
    return [shaded, *([_scatter(drawn, others, f"No {title}", BASELINE_COLOUR, SYMBOLS[1])] if others else [])]


def category(run: Run, colour: str) -> str | float | None:
    """What a run is coloured by."""
    if colour.startswith(SETTING):
        value = (run.get("settings") or {}).get(colour)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    if colour == SERIES:
        return run.get(SERIES)
    if colour == "tag":
        return ", ".join(run.get("tags") or ()) or None
    if colour == "technique":
        return run.get("techniques") or None
    return (run.get(colour) or {}).get("name")


def _told_apart(found: Sequence[Mapping[str, Any] | None]) -> list[str | None]:
    """The name of each; two of one name, such as versions of a checkpoint, are numbered."""
    ids: dict[str, list[str]] = {}
    for each in found:
        if each and each["id"] not in ids.setdefault(each["name"], []):
            ids[each["name"]].append(each["id"])
    return [
        None
        if not each
        else each["name"]
        if len(ids[each["name"]]) == 1
        else f"{each['name']} ({ids[each['name']].index(each['id']) + 1})"
        for each in found
    ]


def _word(value: str | float | None) -> str:
    return NONE if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _star(drawn: _Drawn, original: Point, colour: str) -> go.Scatter:
    star = _scatter(drawn, [original], short(original.name, 48), colour, "star")
    star.mode, star.meta = "markers", None
    star.marker.size, star.marker.line.width = 16, 1.5
    return star


def _scatter(drawn: _Drawn, points: Sequence[Point], name: str, colour: str, symbol: str) -> go.Scatter:
    across, up = drawn.scales
    found = [drawn.named.get(p.run_id, ("", "top center")) for p in points]
    told = [_hover(drawn, point) for point in points]
    trace = go.Scatter(
        x=[near(p.x / across.divisor) for p in points],
        y=[near(p.y / up.divisor) for p in points],
        mode="markers+text" if any(text for text, _ in found) else "markers",
        cliponaxis=False,
        name=name,
        marker={"size": 11, "color": colour, "symbol": symbol, "line": {"width": 1, "color": "#FFFFFF"}},
        error_x=_interval([p.across for p in points], across.divisor, colour),
        error_y=_interval([p.up for p in points], up.divisor, colour),
        hovertext=told,
        hovertemplate="%{hovertext}<extra></extra>",
    )
    if any(text for text, _ in found):
        trace.update(
            text=[text for text, _ in found], textposition=[place for _, place in found], textfont={"size": 11}
        )
    if drawn.sides.links:
        trace.meta = {"runs": [point.run_id for point in points]}
    return trace


def _hover(drawn: _Drawn, point: Point) -> str:
    lines = [
        f"<b>{whole(point.name)}</b>"
        + (f" (no. {drawn.numbers[point.run['id']]})" if point.run_id and drawn.sides.labels else "")
    ]
    for title, scale, found in zip(drawn.titles, drawn.scales, (point.across, point.up), strict=True):
        lines.append(f"{whole(title)}: {scale.text(found)}")
    if "size_bytes" not in (drawn.sides.x, drawn.sides.y):
        lines.append(f"File: {byte_text(point.size_bytes)}")
    if drawn.sides.colour not in ("", SERIES) and point.run_id:
        title = COLOURED.get(drawn.sides.colour) or drawn.sides.title(drawn.runs, drawn.sides.colour)
        lines.append(f"{whole(title)}: {whole(_word(category(point.run, drawn.sides.colour)))}")
    return "<br>".join([*lines, f"On: {whole(point.dataset) or 'no dataset'}"])


def _interval(found: Sequence[Reading], divisor: float, colour: str) -> dict[str, Any] | None:
    if not any(one.low is not None and one.high is not None for one in found):
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": [near((one.high - one.value) / divisor) if one.high is not None else 0 for one in found],
        "arrayminus": [near((one.value - one.low) / divisor) if one.low is not None else 0 for one in found],
        "thickness": 1.2,
        "width": 4,
        "color": colour,
    }

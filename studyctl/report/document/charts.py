"""Charts as SVG, made once: no script and no network is needed to look at them.

Lines and texts have the colour of the page's text, so that they follow a dark page. Nothing is shown by colour alone: methods
differ by shape as well, figures that may be no change by a hollow symbol or their mark.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any

from studyctl.errors import StudyError
from studyctl.printable import on_one_line
from studyctl.report.document.model import Forest, HeatMap, Panel, Scatter
from studyctl.report.effects import UNSURE

Row = dict[str, object]
Spec = dict[str, Any]
"""A chart in Vega-Lite."""

INK = "currentColor"
GREY = "#8a8a8a"
SURE = "#3a86c8"
HEAT = ["#2c6fae", "#f4f1ea", "#8e2415"]
"""Better than dense, the same, worse."""
PALETTE = ("#3a86c8", "#d9722e", "#2f9e77", "#c9589a", "#8f79d6", "#b08a1e", "#4aa9b8", "#8a8a8a")
"""Of methods; each can be seen on white and on black."""
SHAPES = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "cross",
    "triangle-down",
    "triangle-right",
    "triangle-left",
)
WIDTH = 230
"""Pixels of a plot without its axis."""
LABEL, FOREST_LABEL = 19, 28
"""Characters of a label at most, in a heat map and in a forest plot; names are in full in the tables."""
ROWS = "rows"
"""Name of the data in a chart."""
CONFIG = {
    "background": "transparent",
    "font": "Arial, Helvetica, sans-serif",
    "aria": False,
    "padding": {"left": 20, "top": 4, "right": 4, "bottom": 4},  # a browser's font may be wider
    "view": {"stroke": None},
    "axis": {
        **dict.fromkeys(("labelColor", "titleColor", "domainColor", "tickColor", "gridColor"), INK),
        "gridOpacity": 0.15,
        "domainOpacity": 0.5,
        "tickOpacity": 0.5,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "labelLimit": 170,
        "labelOverlap": "greedy",
        "labelSeparation": 6,
    },
    "legend": {"labelColor": INK, "labelFontSize": 11, "orient": "bottom", "columns": 4, "title": None},
}


def check_installed() -> None:
    """Check that what draws charts is there.

    Raises:
        StudyError: a package is missing.
    """
    missing = [
        name
        for name, module in (("altair", "altair"), ("vl-convert-python", "vl_convert"))
        if find_spec(module) is None
    ]
    if missing:
        raise StudyError(
            f"charts need {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            hint="`pip install 'studyctl[report]'`; reports in .tex and .md have no charts and need nothing more",
        )


def svg(panel: Panel) -> str:
    """Return a chart as an SVG element."""
    import vl_convert

    match panel:
        case Forest(_, axis, is_ratio):
            chart, rows = _forest(axis, is_ratio), _forest_rows(panel)
        case HeatMap():
            chart, rows = _heat_map(panel.highest), _heat_map_rows(panel)
        case Scatter(_, x, y, kinds):
            chart, rows = _scatter(x, y, kinds), _scatter_rows(panel)
    datasets = chart.get("datasets", {}) | {ROWS: [*map(_clean, rows)]}
    spec = {**chart, "config": CONFIG, "datasets": datasets}
    text: str = vl_convert.vegalite_to_svg(spec)
    return text


def _clean(row: Row) -> Row:
    return {name: on_one_line(value) if isinstance(value, str) else value for name, value in row.items()}


def _labels(names: Iterable[str], most: int = LABEL) -> dict[str, str]:
    """Return names that fit an axis: long ones without their middle, unless two would be alike."""
    cut = {name: name if len(name) <= most else f"{name[: most - 8]}…{name[-7:]}" for name in names}
    times = Counter(cut.values())
    return {name: label if times[label] == 1 else name for name, label in cut.items()}


def _forest_rows(panel: Forest) -> Iterator[Row]:
    labels = _labels((row.label for row in panel.rows), FOREST_LABEL)
    for row in panel.rows:
        yield {
            "label": labels[row.label],
            "estimate": row.estimate,
            "low": row.low,
            "high": row.high,
            "colour": GREY if row.unsure else SURE,
            "fill": "transparent" if row.unsure else SURE,
            "shape": "circle" if row.is_part else "diamond",
            "size": 45 if row.is_part else 110,
        }


# Charts are made without their rows and kept: altair takes longer than drawing does, and panels of a figure differ in rows alone.


@cache
def _forest(title: str, is_ratio: bool) -> Spec:
    import altair as alt

    base = alt.Chart(alt.NamedData(ROWS))
    scale = alt.Scale(type="log" if is_ratio else "linear", zero=False)
    axis = alt.Axis(title=on_one_line(title), tickCount=4, grid=not is_ratio)
    y = alt.Y("label:N", sort=None, title=None)
    line = (
        alt.Chart(alt.InlineData([{"none": 1 if is_ratio else 0}]))
        .mark_rule(strokeDash=[3, 3], color=INK, opacity=0.7)
        .encode(x=alt.X("none:Q", scale=scale, axis=axis))
    )
    intervals = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", scale=scale, axis=axis), x2="high:Q", y=y, color=alt.Color("colour:N", scale=None)
    )
    points = base.mark_point(opacity=1, strokeWidth=1.5).encode(
        x=alt.X("estimate:Q", scale=scale, axis=axis),
        y=y,
        stroke=alt.Stroke("colour:N", scale=None),
        fill=alt.Fill("fill:N", scale=None),
        shape=alt.Shape("shape:N", scale=None),
        size=alt.Size("size:Q", scale=None),
    )
    chart = alt.layer(line, intervals, points).properties(width=WIDTH - 60, height=alt.Step(18))
    spec: Spec = chart.to_dict()
    return spec


def _heat_map_rows(panel: HeatMap) -> Iterator[Row]:
    rows, columns = _labels(cell.row for cell in panel.cells), _labels(cell.column for cell in panel.cells)
    for cell in panel.cells:
        yield {
            "row": rows[cell.row],
            "column": columns[cell.column],
            "value": max(-panel.highest, min(panel.highest, cell.value)),
            "text": UNSURE + _short(cell.value).removeprefix("+") if cell.unsure else _short(cell.value),
            # Black can be read on blue for longer than on red.
            "ink": "#ffffff" if not -0.9 < cell.value / panel.highest < 0.7 else "#000000",
        }


@cache
def _heat_map(highest: float) -> Spec:
    import altair as alt

    base = alt.Chart(alt.NamedData(ROWS)).encode(
        x=alt.X("column:N", sort=None, title=None, axis=alt.Axis(orient="top", labelAngle=0, labelLimit=36)),
        y=alt.Y("row:N", sort=None, title=None),
    )
    scale = alt.Scale(domain=[-highest, 0, highest], range=HEAT, interpolate="lab")
    cells = base.mark_rect(stroke=INK, strokeOpacity=0.2).encode(
        color=alt.Color("value:Q", scale=scale, legend=None)
    )
    texts = base.mark_text(fontSize=10).encode(text="text:N", color=alt.Color("ink:N", scale=None))
    chart = alt.layer(cells, texts).resolve_scale(color="independent")
    spec: Spec = chart.properties(width=alt.Step(36), height=alt.Step(24)).to_dict()
    return spec


def _short(value: float) -> str:
    """Return a change with two decimals, a large one with none."""
    text = f"{value:+.0f}" if abs(value) >= 10 else f"{value:+z.2f}"
    return "0" if float(text) == 0 else text.replace("-", "−")


def _scatter_rows(panel: Scatter) -> Iterator[Row]:
    for point in panel.points:
        yield {
            "kind": point.kind,
            "size": point.size,
            "value": point.value,
            "low": point.low,
            "high": point.high,
            "front": point.on_front,
        }


@cache
def _scatter(x: str, y: str, kinds: tuple[str, ...]) -> Spec:
    import altair as alt

    base = alt.Chart(alt.NamedData(ROWS)).encode(
        x=alt.X("size:Q", scale=alt.Scale(zero=False, padding=24), axis=alt.Axis(title=x, tickCount=4))
    )
    value = alt.Y("value:Q", axis=alt.Axis(title=y, tickCount=5), scale=alt.Scale(zero=False, padding=12))
    domain = [on_one_line(kind) for kind in kinds]
    colour = alt.Color("kind:N", scale=alt.Scale(domain=domain, range=_cycled(PALETTE, len(kinds))))
    shape = alt.Shape("kind:N", scale=alt.Scale(domain=domain, range=_cycled(SHAPES, len(kinds))))
    front = base.transform_filter("datum.front")
    line = front.mark_line(interpolate="step-after", strokeDash=[4, 3], color=INK, opacity=0.5).encode(
        y=value, order="size:Q"
    )
    intervals = base.mark_rule(strokeWidth=1.5).encode(y="low:Q", y2="high:Q", color=colour)
    # Not filled: one above another stays visible.
    points = base.mark_point(size=60, opacity=1, strokeWidth=2).encode(y=value, color=colour, shape=shape)
    chart = alt.layer(line, intervals, points).properties(width=WIDTH + 20, height=200)
    spec: Spec = chart.to_dict()
    return spec


def _cycled(values: tuple[str, ...], count: int) -> list[str]:
    return [values[at % len(values)] for at in range(count)]

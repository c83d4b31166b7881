"""Size against quality: every variant a letter, with the line of those that nothing beats in both."""

import math
from collections.abc import Sequence
from typing import ClassVar

from rich.style import Style
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.color import Color
from textual.containers import Container, Grid
from textual.strip import Strip
from textual_plot import HiResMode, NumericAxisFormatter, PlotWidget
from textual_plot.plot_widget import Canvas, Legend

from studyctl_tui.compare.size import Point, SizeSheet

_ROUND = (
    1,
    10,
    100,
    1000,
    2,
    5,
    1.5,
    1.2,
    1.1,
    3,
    20,
    50,
    200,
    500,
    1.05,
    1.3,
    1.02,
    1.01,
    0.9,
    0.8,
    0.95,
    0.98,
    0.5,
    1.4,
    1.7,
)
"""Ratios for the ticks of a log axis, those that one would rather read first."""
_TICKS = 6


class RatioTicks:
    """Ticks of an axis that holds log10 of ratios."""

    def get_ticks(self, min_: float, max_: float, max_ticks: int = _TICKS) -> list[float]:
        """Return round ratios that are not too close to each other."""
        apart = (max_ - min_) / max_ticks
        ticks: list[float] = []
        for value in _ROUND:
            at = math.log10(value)
            if min_ <= at <= max_ and all(abs(at - other) >= apart for other in ticks):
                ticks.append(at)
        return sorted(ticks)

    def get_labels_for_ticks(self, ticks: Sequence[float]) -> list[str]:
        """Return the ratios."""
        return [f"×{10**tick:.4g}" for tick in ticks]

    def get_ticks_and_labels(
        self, min_: float, max_: float, max_ticks: int = _TICKS
    ) -> tuple[list[float], list[str]]:
        """Return both."""
        ticks = self.get_ticks(min_, max_, max_ticks)
        return ticks, self.get_labels_for_ticks(ticks)


class _Canvas(Canvas):  # type: ignore[misc]  # its package has no types
    """A canvas that can be drawn before it has its size: lines without a style break the filter of NO_COLOR."""

    def render_line(self, y: int) -> Strip:
        """Draw a line; a blank one where the canvas does not reach yet."""
        strip: Strip = super().render_line(y)
        return strip if strip.cell_length else Strip.blank(self.size.width, self.rich_style)


class _Plot(PlotWidget):  # type: ignore[misc]  # its package has no types
    """A plot on such canvases, without keys of its own: the legend has the cursor."""

    can_focus = False
    BINDINGS: ClassVar[list[BindingType]] = []

    def compose(self) -> ComposeResult:
        """Yield what the plot expects."""
        with Grid():
            for name in ("margin-top", "margin-left", "plot", "margin-bottom"):
                yield _Canvas(1, 1, id=name)
        yield Legend(id="legend")


class SizePlot(Container):
    """The picture beside the legend."""

    DEFAULT_CSS = """
    SizePlot { width: 1fr; height: 1fr; }
    SizePlot PlotWidget > .plot--axis { color: $foreground; }
    SizePlot PlotWidget > .plot--tick { color: $foreground; text-style: none; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._sheet: SizeSheet | None = None
        self._chosen = ""

    def compose(self) -> ComposeResult:
        """Yield the plot."""
        yield _Plot(allow_pan_and_zoom=False)

    def on_mount(self) -> None:
        """Give the picture the room."""
        plot = self._plot
        plot.margin_top, plot.margin_bottom, plot.margin_left = 0, 1, 8
        self.app.theme_changed_signal.subscribe(self, lambda _: self._draw())

    @property
    def _plot(self) -> _Plot:
        return self.query_one(_Plot)

    def show(self, sheet: SizeSheet, chosen: str) -> None:
        """Draw the variants, the chosen one reversed."""
        if sheet is not self._sheet or chosen != self._chosen:
            self._sheet, self._chosen = sheet, chosen
            self._draw()

    def on_resize(self) -> None:
        """Draw anew: which letters would hide each other depends on the room."""
        self._draw()

    def _draw(self) -> None:
        if self._sheet is None or not self.size:
            return
        plot, sheet = self._plot, self._sheet
        points = [(point, point.bits, sheet.height_of(point.value)) for point in sheet.points()]
        plot.clear()
        if not points:
            return
        low_x, high_x = _padded([x for _, x, _ in points])
        low_y, high_y = _padded([y for *_, y in points])
        plot.set_xlimits(low_x, high_x)
        plot.set_ylimits(low_y, high_y)
        plot.set_y_formatter(RatioTicks() if sheet.on_log_axis else NumericAxisFormatter())
        best = sorted((x, y) for point, x, y in points if point.best)
        plot.plot(
            [x for x, _ in best],
            [y for _, y in best],
            line_style=self._style("accent"),
            hires_mode=HiResMode.BRAILLE,
        )
        columns, rows = max(1, self.size.width - 10), max(1, self.size.height - 3)
        step_x, step_y = (high_x - low_x) / columns, (high_y - low_y) / rows
        taken: set[tuple[int, int]] = set()
        for point, x, y in sorted(points, key=lambda one: (one[0].key != self._chosen, not one[0].best)):
            at = _free(int((x - low_x) / step_x), int((y - low_y) / step_y), taken)
            taken.add(at)
            plot.scatter(
                [low_x + (at[0] + 0.5) * step_x], [y], marker=point.letter, marker_style=self._marker(point)
            )

    def _marker(self, point: Point) -> str:
        if point.key == self._chosen:
            return f"{self._style('foreground')} bold reverse"
        return f"{self._style('accent')} bold" if point.best else self._style("foreground")

    def _style(self, variable: str) -> str:
        return str(Style(color=Color.parse(self.app.theme_variables[variable]).rich_color))


def _free(column: int, row: int, taken: set[tuple[int, int]]) -> tuple[int, int]:
    """Return a cell beside those that are taken: letters that hide each other tell nothing."""
    for aside in (0, 1, -1, 2, -2, 3, -3):
        if (column + aside, row) not in taken:
            return column + aside, row
    return column, row


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """Return limits with some room: what is on the limit would be drawn over by the frame."""
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or max(abs(high) * 0.05, 0.01)
    return low - room, high + room

"""Size against quality: every variant a letter, with the line of those that nothing beats in both."""

import math
from collections.abc import Sequence

from rich.style import Style
from textual.app import ComposeResult
from textual.color import Color
from textual.containers import Container
from textual_plot import HiResMode, NumericAxisFormatter

from studyctl_tui.compare.size import Point, SizeSheet
from studyctl_tui.shared.plot import Plot, padded

_ROUND = (1, 10, 100, 1000, 2, 5, 1.5, 1.2, 1.1, 3, 20, 50, 200, 500, 1.05, 1.3, 1.02, 1.01, 0.9, 0.8, 0.95)
"""Ratios for the ticks of a log axis, those that one would rather read first."""


class RatioTicks(NumericAxisFormatter):  # type: ignore[misc]  # its package has no types
    """Ticks of an axis that holds log10 of ratios."""

    def get_ticks(self, min_: float, max_: float, max_ticks: int = 8) -> list[float]:
        """Return round ratios that are not too close to each other."""
        apart = (max_ - min_) / min(max_ticks, 6)
        ticks: list[float] = []
        for at in map(math.log10, _ROUND):
            if min_ <= at <= max_ and all(abs(at - other) >= apart for other in ticks):
                ticks.append(at)
        return sorted(ticks)

    def get_labels_for_ticks(self, ticks: Sequence[float]) -> list[str]:
        """Return the ratios."""
        return [f"×{10**tick:.4g}" for tick in ticks]


class SizePlot(Container):
    """The picture next to the legend, which has the cursor."""

    DEFAULT_CSS = """
    SizePlot { width: 1fr; height: 1fr; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._sheet: SizeSheet | None = None
        self._chosen = ""
        self._plot = Plot(allow_pan_and_zoom=False)
        self._plot.can_focus = False

    def compose(self) -> ComposeResult:
        """Yield the plot."""
        yield self._plot

    def on_mount(self) -> None:
        """Give the picture the room."""
        self._plot.margin_top, self._plot.margin_bottom, self._plot.margin_left = 0, 1, 8
        self.app.theme_changed_signal.subscribe(self, lambda _: self._draw())

    def show(self, sheet: SizeSheet, chosen: str) -> None:
        """Draw the variants, the chosen one reversed."""
        if sheet is not self._sheet or chosen != self._chosen:
            self._sheet, self._chosen = sheet, chosen
            self._draw()

    def on_resize(self) -> None:
        """Draw again: which letters would hide each other depends on the room."""
        self._draw()

    def _draw(self) -> None:
        if self._sheet is None or not self.size:
            return
        plot, points = self._plot, self._sheet.points()
        plot.clear()
        if not points:
            return
        low_x, high_x = padded([point.x for point in points])
        low_y, high_y = padded([point.y for point in points])
        plot.set_xlimits(low_x, high_x)
        plot.set_ylimits(low_y, high_y)
        plot.set_y_formatter(RatioTicks() if self._sheet.on_log_axis else NumericAxisFormatter())
        best = sorted((point.x, point.y) for point in points if point.best)
        plot.plot(
            [x for x, _ in best],
            [y for _, y in best],
            line_style=self._style("accent"),
            hires_mode=HiResMode.BRAILLE,
        )
        columns, rows = max(1, self.size.width - 10), max(1, self.size.height - 3)
        step_x, step_y = (high_x - low_x) / columns, (high_y - low_y) / rows
        taken: set[tuple[int, int]] = set()
        for point in sorted(points, key=lambda point: (point.key != self._chosen, not point.best)):
            cell = _free(int((point.x - low_x) / step_x), int((point.y - low_y) / step_y), taken)
            taken.add(cell)
            x = low_x + (cell[0] + 0.5) * step_x
            plot.scatter([x], [point.y], marker=point.letter, marker_style=self._marker(point))

    def _marker(self, point: Point) -> str:
        if point.key == self._chosen:
            return f"{self._style('foreground')} bold reverse"
        return f"{self._style('accent')} bold" if point.best else self._style("foreground")

    def _style(self, variable: str) -> str:
        return str(Style(color=Color.parse(self.app.theme_variables[variable]).rich_color))


def _free(column: int, row: int, taken: set[tuple[int, int]]) -> tuple[int, int]:
    """Return a cell next to those that are taken: letters that hide each other tell nothing."""
    near = ((column + aside, row) for aside in (0, 1, -1, 2, -2, 3, -3))
    return next((cell for cell in near if cell not in taken), (column, row))

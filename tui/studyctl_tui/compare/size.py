"""Size against quality: a picture with a letter for each variant and the Pareto line, and its legend."""

import math
import string
from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import NamedTuple

from rich.style import Style
from textual.color import Color
from textual_plot import HiResMode, NumericAxisFormatter

from studyctl.report.layout import change, fixed, mib, ratio
from studyctl.report.sizes import SIZES
from studyctl.store.results import Size, Standing, size_of
from studyctl_tui.compare.data import Comparison, Line
from studyctl_tui.compare.sheets import Cell, Measure, Sheet
from studyctl_tui.shared.plot import Plot, padded

LETTERS = string.ascii_lowercase + string.ascii_uppercase + string.digits
MOST_RATIO = 1e3
"""Larger perplexity ratios are left out of the picture: they would press all others onto one line."""
ON_LINE, OUTSIDE = "◆", "↑"
SIZE_MEASURES = (
    Measure("ppl ratio", "ppl_ratio", ratio, overall="ppl_ratio"),
    Measure("bits/byte change", "bits_per_byte_change", change, overall="bits_per_byte_change"),
    Measure("accuracy", "acc", lambda value: fixed(value, 3), overall="acc"),
)


class Point(NamedTuple):
    """A variant in the picture."""

    key: str
    letter: str
    x: float
    """MiB, or bits a weight."""
    y: float
    """The figure of quality; of ratios log10."""
    best: bool
    """Whether it is on the Pareto line."""


class SizeSheet(Sheet):
    """The legend: letters, variants, size and quality."""

    def __init__(self, comparison: Comparison, lines: Iterable[Line], measure: Measure) -> None:
        self.measure = measure
        self.by = size_of(comparison.trials)
        """Which size: that by which the Pareto line is drawn."""
        self._size = "bits/w" if self.by is Size.BITS else "MiB"
        self.on_log_axis = measure.figure == "ppl_ratio"
        """Whether the vertical axis is one of ratios."""
        self._pareto = {trial for trial, figure in comparison.pareto if figure == measure.figure}
        self._letters = {
            trial.trial_id: letter for trial, letter in zip(comparison.trials, cycle(LETTERS), strict=False)
        }
        super().__init__(
            (self._size, measure.name),
            (
                Line(line.key, f"{self._letters[line.key]} {line.label}", line.trial) if line.key else line
                for line in lines
            ),
        )
        self.title = f"{measure.name} by {SIZES[self.by]}"
        outside = sum(self._is_outside(line) for line in self.lines)
        self.legend = f"{ON_LINE} Pareto" + (f"  {OUTSIDE} {outside} outside" if outside else "")

    def has_figures(self, line: Line) -> bool:
        """Whether a variant has a size and was measured, even if the figure is not finite."""
        trial = line.trial
        if trial is None or self.size(line) is None:
            return False
        return self.measure.mean(trial) is not None or (self.on_log_axis and bool(trial.languages))

    def size(self, line: Line) -> float | None:
        """Return MiB, or bits a weight."""
        return None if line.trial is None else self.by.of(line.trial)

    def _is_outside(self, line: Line) -> bool:
        value = self.measure.mean(line.trial)
        return bool(line.key) and self.on_log_axis and (value is None or not value <= MOST_RATIO)

    def cell(self, line: Line, column: str) -> Cell:
        """Return size or quality, with a mark for the Pareto line and for what is outside."""
        if column == self._size:
            return Cell((fixed(self.size(line), 2) if self.by is Size.BITS else mib(self.size(line))).plain)
        mark = OUTSIDE if self._is_outside(line) else ON_LINE if line.key in self._pareto else " "
        return self.measure.compared(line.trial, self.measure.overall, mark)

    def says(self, line: Line, column: str | None) -> str:
        """Return a variant's place in the picture."""
        trial = line.trial
        if trial is None:
            return line.label
        place = ""
        if self._is_outside(line):
            place = ", outside the picture: not finite, or above 1000"
        elif line.key in self._pareto:
            place = ", on the Pareto line: nothing is both smaller and better"
        value = self.measure.show(self.measure.mean(trial))
        return f"{line.label}: {_sizes(trial)}{fixed(trial.bits_per_weight, 2)} bits a weight, {self.measure.name} {value}{place}"

    def points(self) -> list[Point]:
        """Return what is in the picture."""
        points = []
        for line in self.lines:
            value = self.measure.mean(line.trial)
            if line.trial is not None and value is not None and not self._is_outside(line):
                y = math.log10(value) if self.on_log_axis else value
                letter, size = self._letters[line.key], self.size(line) or 0.0
                points.append(Point(line.key, letter, size, y, line.key in self._pareto))
        return points


def _sizes(trial: Standing) -> str:
    """Return what is known in MiB: the file, and the folder where there is no file."""
    if trial.file_mib is not None:
        return f"GGUF file {mib(trial.file_mib)} MiB, "
    no_file = "no GGUF file, " if trial.why_no_file else ""
    return no_file if trial.size_mib is None else f"{no_file}{mib(trial.size_mib)} MiB as stored, "


_ROUND = (1, 10, 100, 1000, 2, 5, 1.5, 1.2, 1.1, 3, 20, 50, 200, 500, 1.05, 1.3, 1.02, 1.01, 0.9, 0.8, 0.95)
"""Ratios for the ticks of a log axis, in order of preference."""


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


class SizePlot(Plot):
    """The picture next to the legend, which has the cursor."""

    DEFAULT_CSS = """
    SizePlot { width: 1fr; height: 1fr; }
    """

    can_focus = False

    def __init__(self) -> None:
        super().__init__(allow_pan_and_zoom=False)
        self._sheet: SizeSheet | None = None
        self._chosen = ""

    def on_mount(self) -> None:
        """Leave little room for the margins."""
        self.margin_top, self.margin_bottom, self.margin_left = 0, 1, 8
        self.app.theme_changed_signal.subscribe(self, lambda _: self._draw())

    def show(self, sheet: SizeSheet, chosen: str) -> None:
        """Draw the variants, the chosen one reversed."""
        if sheet is not self._sheet or chosen != self._chosen:
            self._sheet, self._chosen = sheet, chosen
            self._draw()

    def on_resize(self) -> None:
        """Draw again: whether letters hide each other depends on the size."""
        self._draw()

    def _draw(self) -> None:
        if self._sheet is None or not self.size:
            return
        points = self._sheet.points()
        self.clear()
        if not points:
            return
        low_x, high_x = padded([point.x for point in points])
        low_y, high_y = padded([point.y for point in points])
        self.set_xlimits(low_x, high_x)
        self.set_ylimits(low_y, high_y)
        self.set_y_formatter(RatioTicks() if self._sheet.on_log_axis else NumericAxisFormatter())
        best = sorted((point.x, point.y) for point in points if point.best)
        self.plot(
            [x for x, _ in best],
            [y for _, y in best],
            line_style=self._style("accent"),
            hires_mode=HiResMode.BRAILLE,
        )
        columns, rows = max(1, self.size.width - 10), max(1, self.size.height - 3)
        step_x, step_y = (high_x - low_x) / columns, (high_y - low_y) / rows
        occupied: set[tuple[int, int]] = set()
        for point in sorted(points, key=lambda point: (point.key != self._chosen, not point.best)):
            cell = _free(int((point.x - low_x) / step_x), int((point.y - low_y) / step_y), occupied)
            occupied.add(cell)
            x = low_x + (cell[0] + 0.5) * step_x
            self.scatter([x], [point.y], marker=point.letter, marker_style=self._marker(point))

    def _marker(self, point: Point) -> str:
        if point.key == self._chosen:
            return f"{self._style('foreground')} bold reverse"
        return f"{self._style('accent')} bold" if point.best else self._style("foreground")

    def _style(self, variable: str) -> str:
        return str(Style(color=Color.parse(self.app.theme_variables[variable]).rich_color))


def _free(column: int, row: int, occupied: set[tuple[int, int]]) -> tuple[int, int]:
    """Return the nearest free cell, so that letters do not hide each other."""
    near = ((column + aside, row) for aside in (0, 1, -1, 2, -2, 3, -3))
    return next((cell for cell in near if cell not in occupied), (column, row))

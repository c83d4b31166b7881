"""The legend of size against quality: which letter stands for which variant, and what is in the picture."""

import math
import string
from collections.abc import Iterable
from itertools import cycle
from typing import NamedTuple

from studyctl.report.layout import fixed, ratio
from studyctl_tui.compare.data import Comparison, Line
from studyctl_tui.compare.sheets import Cell, Measure, Sheet

LETTERS = string.ascii_lowercase + string.ascii_uppercase + string.digits
MOST_RATIO = 1e3
"""A perplexity ratio above it is outside the picture, so that it does not press all others onto one line."""
ON_LINE, OUTSIDE = "◆", "↑"
SIZE_MEASURES = (
    Measure("ppl ratio", "ppl_ratio", ratio, overall="ppl_ratio"),
    Measure("accuracy", "acc", lambda value: fixed(value, 3), overall="acc"),
)


class Point(NamedTuple):
    """A variant in the picture."""

    key: str
    letter: str
    x: float
    """Bits a weight."""
    y: float
    """The figure of quality; of ratios log10."""
    best: bool
    """Whether it is on the Pareto line."""


class SizeSheet(Sheet):
    """The legend: letters, variants, size and quality."""

    SIZE = "bits/w"

    def __init__(self, comparison: Comparison, lines: Iterable[Line], measure: Measure) -> None:
        self.measure = measure
        self.on_log_axis = measure.figure == "ppl_ratio"
        """Whether the vertical axis is one of ratios."""
        self._pareto = {trial for trial, figure in comparison.pareto if figure == measure.figure}
        self._letters = {
            trial.trial_id: letter for trial, letter in zip(comparison.trials, cycle(LETTERS), strict=False)
        }
        super().__init__(
            (self.SIZE, measure.name),
            (
                Line(line.key, f"{self._letters[line.key]} {line.label}", line.trial) if line.key else line
                for line in lines
            ),
        )
        self.title = f"{measure.name} by bits a weight"
        outside = sum(self._is_outside(line) for line in self.lines)
        self.legend = f"{ON_LINE} Pareto" + (f"  {OUTSIDE} {outside} outside" if outside else "")

    def has_figures(self, line: Line) -> bool:
        """Show what has a size and was measured, even when the figure is not finite."""
        trial = line.trial
        if trial is None or trial.bits_per_weight is None:
            return False
        return self.measure.mean(trial) is not None or (self.on_log_axis and bool(trial.languages))

    def _is_outside(self, line: Line) -> bool:
        value = self.measure.mean(line.trial)
        return bool(line.key) and self.on_log_axis and (value is None or not value <= MOST_RATIO)

    def cell(self, line: Line, column: str) -> Cell:
        """Return size or quality, with a mark for the Pareto line and for what is outside."""
        if column == self.SIZE:
            return Cell(fixed(line.trial.bits_per_weight if line.trial else None, 2).plain)
        mark = OUTSIDE if self._is_outside(line) else ON_LINE if line.key in self._pareto else " "
        return self.measure.cell(self.measure.mean(line.trial), mark)

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
        return f"{line.label}: {fixed(trial.bits_per_weight, 2)} bits a weight, {self.measure.name} {value}{place}"

    def points(self) -> list[Point]:
        """Return what is in the picture."""
        points = []
        for line in self.lines:
            value = self.measure.mean(line.trial)
            if line.trial is not None and value is not None and not self._is_outside(line):
                y = math.log10(value) if self.on_log_axis else value
                letter, bits = self._letters[line.key], line.trial.bits_per_weight or 0.0
                points.append(Point(line.key, letter, bits, y, line.key in self._pareto))
        return points

"""The legend of size against quality: which letter stands for which variant, and what is in the picture."""

import math
import string
from collections.abc import Iterable
from dataclasses import dataclass

from studyctl.report.layout import fixed, ratio
from studyctl_tui.compare.data import Comparison, Line
from studyctl_tui.compare.sheets import Cell, Measure, Sheet

LETTERS = string.ascii_lowercase + string.ascii_uppercase + string.digits
MOST_RATIO = 1e3
"""A perplexity ratio above it is outside the picture, so that it does not press all others onto one line."""
ON_LINE, OUTSIDE = "◆", "↑"
SIZE_MEASURES = (
    Measure("ppl ratio", "ppl_ratio", "ppl_ratio", ratio, of_dense=True),
    Measure("accuracy", "acc", "acc", lambda value: fixed(value, 3), of_dense=True),
)


@dataclass(frozen=True, slots=True)
class Point:
    """A variant in the picture."""

    key: str
    letter: str
    bits: float
    value: float
    best: bool
    """Whether it is on the Pareto line."""


class SizeSheet(Sheet):
    """The legend: letters, variants, size and quality."""

    SIZE = "bits/w"

    def __init__(self, comparison: Comparison, lines: Iterable[Line], measure: Measure) -> None:
        self.measure = measure
        self._pareto = comparison.pareto
        self._letters = {
            trial.trial_id: LETTERS[number % len(LETTERS)] for number, trial in enumerate(comparison.trials)
        }
        lettered = [
            Line(line.key, f"{self._letters[line.key]} {line.label}", line.trial) if line.key else line
            for line in lines
        ]
        super().__init__((self.SIZE, measure.name), lettered)
        self.title = f"{measure.name} by bits a weight"
        outside = sum(self._is_outside(line) for line in self.lines)
        self.legend = f"{ON_LINE} Pareto" + (f"  {OUTSIDE} {outside} outside" if outside else "")

    def has_figures(self, line: Line) -> bool:
        """Show what has a size and was measured, even when the figure is not finite."""
        trial = line.trial
        if trial is None or trial.bits_per_weight is None:
            return False
        return self.measure.mean(trial) is not None or (self.on_log_axis and bool(trial.languages))

    @property
    def on_log_axis(self) -> bool:
        """Whether the vertical axis is one of ratios."""
        return self.measure.figure == "ppl_ratio"

    def _is_outside(self, line: Line) -> bool:
        value = self.measure.mean(line.trial)
        return bool(line.key) and self.on_log_axis and (value is None or not value <= MOST_RATIO)

    def _is_best(self, line: Line) -> bool:
        return (line.key, self.measure.figure) in self._pareto

    def cell(self, line: Line, column: str) -> Cell:
        """Return size or quality, with a mark for the Pareto line and for what is outside."""
        if column == self.SIZE:
            return Cell(fixed(line.trial.bits_per_weight if line.trial else None, 2).plain)
        mark = OUTSIDE if self._is_outside(line) else ON_LINE if self._is_best(line) else " "
        return Cell(self.measure.show(self.measure.mean(line.trial)).plain, mark=mark)

    def says(self, line: Line, column: str | None) -> str:
        """Return a variant's place in the picture."""
        trial = line.trial
        if trial is None:
            return line.label
        value = self.measure.show(self.measure.mean(trial)).plain
        where = ""
        if self._is_outside(line):
            where = ", outside the picture: not finite, or above 1000"
        elif self._is_best(line):
            where = ", on the Pareto line: nothing is both smaller and better"
        return f"{line.label}: {fixed(trial.bits_per_weight, 2).plain} bits a weight, {self.measure.name} {value}{where}"

    def points(self) -> list[Point]:
        """Return what is in the picture."""
        return [
            Point(
                line.key,
                self._letters[line.key],
                line.trial.bits_per_weight or 0.0,
                value,
                self._is_best(line),
            )
            for line in self.lines
            if line.trial is not None
            and not self._is_outside(line)
            and (value := self.measure.mean(line.trial)) is not None
        ]

    def height_of(self, value: float) -> float:
        """Return where a value stands on the vertical axis."""
        return math.log10(value) if self.on_log_axis else value

"""Base classes of the tables of the Compare screen: columns, the figure of a cell, and a sentence about it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.text import Text

from studyctl.report.effects import effect
from studyctl.store.results import LanguageResult, Standing, TaskResult
from studyctl_tui.compare.data import MAIN, Line

GLYPHS = "▁▂▃▅▇"
"""How bad a figure looks, in five steps, harmless first."""
Figure = float | None


@dataclass(frozen=True, slots=True)
class Scale:
    """Four bounds between five steps of how bad a figure looks."""

    bounds: tuple[float, float, float, float]
    """From harmless to bad; rising when high is bad, falling when low is."""

    @property
    def low_is_bad(self) -> bool:
        """Whether a low figure is a bad one."""
        return self.bounds[0] > self.bounds[-1]

    def step(self, value: float) -> int:
        """Return how bad a figure is, 0 to 4."""
        return sum(value < bound if self.low_is_bad else value > bound for bound in self.bounds)

    def legend(self, show: Callable[[float], Text]) -> str:
        """Return ``▁ ≤1.02 ▂ ≤1.1 … ▇ more``."""
        sign, rest = ("≥", "less") if self.low_is_bad else ("≤", "more")
        bounds = [show(bound).plain for bound in self.bounds]
        bounds = [text.rstrip("0").rstrip(".") if "." in text else text for text in bounds]
        steps = [f"{glyph} {sign}{bound}" for glyph, bound in zip(GLYPHS, bounds, strict=False)]
        return " ".join([*steps, f"{GLYPHS[-1]} {rest}"])


class Cell(NamedTuple):
    """A figure with how bad it looks and a mark behind it."""

    text: str
    step: int | None = None
    mark: str = " "
    spread: str = ""
    """Its interval, shown where every cell has room for it."""
    is_unsure: bool = False
    """Whether its interval holds no change: it has no step then."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure of a trial: in a language, in a task, or as a whole."""

    name: str
    figure: str
    """Attribute of the result."""
    show: Callable[[Any], Text]
    scale: Scale | None = None
    overall: str | None = None
    """Attribute of the standing; None: there is none."""
    of_dense: bool = False
    """Whether the dense model has it too."""
    metric: str = MAIN
    """Of a task."""
    meaning: str = ""

    def of(self, result: object | None) -> Figure:
        """Return the figure of a result."""
        value: Figure = getattr(result, self.figure) if result is not None else None
        return value

    def mean(self, trial: Standing | None) -> Figure:
        """Return the figure of a whole trial."""
        value: Figure = getattr(trial, self.overall) if trial is not None and self.overall else None
        return value

    def cell(self, value: Figure, mark: str = " ") -> Cell:
        """Return a figure as it is shown."""
        step = None if value is None or self.scale is None else self.scale.step(value)
        return Cell(self.show(value).plain, step, mark)

    def compared(
        self, row: Standing | LanguageResult | TaskResult | None, name: str | None, mark: str = " "
    ) -> Cell:
        """Return a figure that is compared with dense, with its interval if it has one.

        Args:
            row: A result or a standing; None: it is not measured.
            name: Its field; None: it has no such figure.
            mark: What is put behind it.
        """
        if row is None or name is None:
            return self.cell(None, mark)
        one, cell = effect(row, name), self.cell(getattr(row, name), mark)
        return cell._replace(
            step=None if one.is_unsure else cell.step, spread=one.spread(), is_unsure=one.is_unsure
        )


class Sheet(ABC):
    """A table. Lines and columns are few; figures are computed when they are drawn."""

    title = ""
    legend = ""
    empty = "nothing of this is measured yet"
    """Shown when there are no lines."""
    least_width = 8
    """Characters that a figure needs with its mark and a blank."""

    def __init__(self, columns: Iterable[str], lines: Iterable[Line]) -> None:
        self.columns = tuple(columns)
        self.headers: dict[str, str] = {}
        """Text above a column where that is not its name."""
        kept: list[Line] = []
        for line in reversed(list(lines)):  # a heading is kept if the line below it is not a heading
            if self.has_figures(line) if line.key else bool(kept) and kept[-1].key:
                kept.append(line)
        self.lines = tuple(reversed(kept))

    def has_figures(self, line: Line) -> bool:
        """Whether to show a line."""
        return True

    @abstractmethod
    def cell(self, line: Line, column: str) -> Cell:
        """Return the figure of a line in a column."""

    @abstractmethod
    def says(self, line: Line, column: str | None) -> str:
        """Return a sentence about a cell, or about the whole line."""

    def copied(self, line: Line, column: str | None) -> str:
        """Return the text of a cell; of the whole line, with tabs, if no column is named."""
        if column is not None:
            return self.cell(line, column).text
        return "\t".join([line.label, *(self.cell(line, column).text for column in self.columns)])


def shared_start(names: list[str]) -> str:
    """Return what all names begin with, up to the last ``_``; nothing for a single name."""
    first = names[0] if len(names) > 1 else ""
    starts = [first[: at + 1] for at, letter in enumerate(first) if letter == "_"]
    return max((start for start in starts if all(name.startswith(start) for name in names)), default="")

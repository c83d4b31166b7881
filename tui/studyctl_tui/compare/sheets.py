"""What the tables of the Compare screen have in common: columns, the figure of a cell, and a sentence about it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from rich.text import Text

from studyctl.store.results import LanguageResult, Standing, TaskResult
from studyctl_tui.compare.data import MAIN, Line
from studyctl_tui.compare.scale import Scale

Figure = float | None


class Cell(NamedTuple):
    """A figure with how bad it looks and a mark behind it."""

    text: str
    step: int | None = None
    mark: str = " "


class Sheet(ABC):
    """A table. Lines and columns are few; figures are asked for when they are drawn."""

    def __init__(self, columns: Iterable[str], lines: Iterable[Line]) -> None:
        self.columns = tuple(columns)
        self.lines = with_figures(lines, self.has_figures)

    title: str = ""
    legend: str = ""
    empty: str = "nothing of this is measured yet"
    """What stands there when there are no lines."""
    least_width = 8
    """Characters that a figure needs with what stands behind it and a blank."""

    @abstractmethod
    def has_figures(self, line: Line) -> bool:
        """Whether to show a line."""

    @abstractmethod
    def cell(self, line: Line, column: str) -> Cell:
        """Return the figure of a line in a column."""

    @abstractmethod
    def says(self, line: Line, column: str | None) -> str:
        """Return a sentence about a cell, or about the whole line."""

    def header(self, column: str) -> str:
        """Return what stands above a column."""
        return column

    def copied(self, line: Line, column: str | None) -> str:
        """Return the text of a cell; of the whole line, with tabs, if no column is named."""
        if column is not None:
            return self.cell(line, column).text
        return "\t".join([line.label, *(self.cell(line, one).text for one in self.columns)])


def with_figures(lines: Iterable[Line], keep: Callable[[Line], bool]) -> tuple[Line, ...]:
    """Leave lines without figures out, and headings whose group is then empty."""
    kept: list[Line] = []
    for line in lines:
        if line.key and not keep(line):
            continue
        if kept and not kept[-1].key and not line.key:
            kept.pop()
        kept.append(line)
    if kept and not kept[-1].key:
        kept.pop()
    return tuple(kept)


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure of a trial in a language or a task, and that of the trial as a whole."""

    name: str
    figure: str
    """Attribute of the result."""
    overall: str | None
    """Attribute of the standing; None: there is none."""
    show: Callable[[Figure], Text]
    scale: Scale | None = None
    of_dense: bool = False
    """Whether the dense model has it too."""
    metric: str = MAIN
    """Of a task."""

    def of(self, result: LanguageResult | TaskResult | None) -> Figure:
        """Return the figure of a result."""
        value: Figure = getattr(result, self.figure) if result is not None else None
        return value

    def mean(self, trial: Standing | None) -> Figure:
        """Return that of the whole trial."""
        value: Figure = getattr(trial, self.overall) if trial is not None and self.overall else None
        return value

    def step(self, value: Figure) -> int | None:
        """Return how bad it is."""
        return None if value is None or self.scale is None else self.scale.step(value)


def shared_start(names: list[str]) -> str:
    """Return what all names begin with, up to the last ``_``; nothing for a single name."""
    if len(names) < 2:
        return ""
    low, high = min(names), max(names)
    same = next(
        (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high))
    )
    return low[: low.rfind("_", 0, same) + 1]

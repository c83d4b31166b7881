"""What a report holds, apart from how it is written: sections of text, lists, tables and charts.

Texts are plain: they may come from a study that somebody else made, and each writer cleans and escapes them for its format.
"""

from dataclasses import dataclass
from typing import NamedTuple

from studyctl.report.effects import UNSURE


class Cell(NamedTuple):
    """A field of a table."""

    text: str
    interval: str = ""
    """A 95 % interval, as it is put behind the text."""
    unsure: bool = False
    """Whether the interval holds no change: then it is grey, and marked for readers who do not see that."""

    @property
    def marked(self) -> str:
        """The text with its mark."""
        return (UNSURE if self.unsure else "") + self.text

    def __str__(self) -> str:
        """Return it as plain text."""
        return f"{self.marked} {self.interval}".rstrip()


class Column(NamedTuple):
    """The head of a column."""

    title: str
    figures: bool = True
    """Whether it holds figures, which are aligned right; else text, which may be long."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table; its first column names the rows."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    """What its marks mean, and what was left out."""


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Text in sentences."""

    text: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    texts: tuple[str, ...]
    numbered: bool = False
    """Whether its entries are referred to by their numbers, from 1."""


class ForestRow(NamedTuple):
    """An estimate with its interval; ends that do not exist are None."""

    label: str
    """Unique in its panel."""
    estimate: float
    low: float | None
    high: float | None
    unsure: bool
    is_part: bool
    """Whether it is a part of the row above that is none."""


@dataclass(frozen=True, slots=True)
class Forest:
    """Estimates, one below the other."""

    title: str
    axis: str
    is_ratio: bool
    """Whether no difference is 1, on a logarithmic axis, and not 0."""
    rows: tuple[ForestRow, ...]


class HeatCell(NamedTuple):
    """A figure of a heat map."""

    row: str
    column: str
    value: float
    unsure: bool


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Changes by two names; more is worse."""

    title: str
    cells: tuple[HeatCell, ...]
    highest: float
    """Change with the strongest colour: the same in all panels of a figure, and higher ones look like it."""

    @property
    def rows(self) -> list[str]:
        """Return the names of the rows, in order."""
        return list(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def columns(self) -> list[str]:
        """Return the names of the columns, in order."""
        return list(dict.fromkeys(cell.column for cell in self.cells))


class Point(NamedTuple):
    """A variant by its size and quality."""

    kind: str
    """What its colour and shape stand for."""
    size: float
    value: float
    low: float | None
    high: float | None
    on_front: bool
    """Whether no variant is both smaller and better."""


@dataclass(frozen=True, slots=True)
class Scatter:
    """Quality against size."""

    title: str
    x: str
    y: str
    kinds: tuple[str, ...]
    """All kinds of the figure, so that one looks alike in every panel."""
    points: tuple[Point, ...]


Panel = Forest | HeatMap | Scatter


@dataclass(frozen=True, slots=True)
class Figure:
    """Charts beside each other. Only HTML has them; their figures are in tables, too."""

    caption: str
    panels: tuple[Panel, ...]


Block = Paragraph | Items | Table | Figure


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a report with a heading."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A whole report."""

    title: str
    about: tuple[str, ...]
    """Lines below the title: which study, when, by what."""
    sections: tuple[Section, ...]

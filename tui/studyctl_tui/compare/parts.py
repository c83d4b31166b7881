"""The parts of the Compare screen: a title with what the marks mean, a table, and what goes with it."""

from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.geometry import Size
from textual.widgets import Static

from studyctl_tui.compare.agreement import AgreementSheet
from studyctl_tui.compare.data import Comparison, Line
from studyctl_tui.compare.figures import LANGUAGE_MEASURES, LanguageSheet, TaskSheet, task_measures
from studyctl_tui.compare.grid import CompareGrid
from studyctl_tui.compare.plot import SizePlot
from studyctl_tui.compare.ranks import ANY, RankSheet, TauSheet, sentences
from studyctl_tui.compare.sheets import Sheet
from studyctl_tui.compare.size import SIZE_MEASURES, SizeSheet

WIDE = 120
"""Columns from which on the part of backends shows all of its figures."""
OTHER_LINES = 6
"""Lines of the terminal that no part has."""


@runtime_checkable
class ShowsTrial(Protocol):
    """The Monitor, as far as this screen knows it: the two screens lead to each other."""

    def go_to(self, trial: str) -> None:
        """Select a trial."""


class Part(Vertical):
    """A part: subclasses say which tables it can show."""

    NAME: ClassVar[str] = ""
    DEFAULT_CSS = """
    Part { width: 1fr; display: none; }
    Part.active, Part.beside { display: block; }
    Part .part--title { height: 1; color: $foreground; text-wrap: nowrap; text-overflow: ellipsis; }
    """

    def __init__(self) -> None:
        super().__init__(id=f"compare-{self.NAME.lower()}")
        self._number = 0
        self._title = Text()
        self._empty = ""
        self._comparison = Comparison()
        self._lines: tuple[Line, ...] = ()

    def compose(self) -> ComposeResult:
        """Yield title and table."""
        yield Static(classes="part--title", markup=False)
        yield from self.compose_table()

    def compose_table(self) -> ComposeResult:
        """Yield the table and what goes with it."""
        yield CompareGrid()

    @property
    def grid(self) -> CompareGrid:
        """The table."""
        return self.query_one(CompareGrid)

    EXTRA: ClassVar[tuple[int, int]] = (1, 1)
    """Columns and rows that it needs beside those of its table."""

    @property
    def wants(self) -> tuple[int, int]:
        """Columns and rows with which all of it is visible."""
        columns, rows = self.grid.wants
        return max(columns + self.EXTRA[0], self._title.cell_len + 1), rows + self.EXTRA[1]

    def sheets(self) -> int:
        """Return how many tables there are to choose from."""
        raise NotImplementedError

    def sheet(self, number: int) -> Sheet:
        """Return one of them."""
        raise NotImplementedError

    def show(self, comparison: Comparison, lines: Sequence[Line], empty: str) -> None:
        """Draw results; `empty` says why there are no lines, where the reason is not that nothing is measured."""
        self._comparison, self._lines, self._empty = comparison, tuple(lines), empty
        self._draw()

    def next_sheet(self) -> None:
        """Show another figure."""
        self._number += 1
        self._draw()

    def _draw(self) -> None:
        self._number %= self.sheets()
        sheet = self.sheet(self._number)
        sheet.empty = self._empty or sheet.empty
        self._title = Text.assemble((f"{self.NAME}: {sheet.title}", "bold"), "   ", sheet.legend)
        self.query_one(".part--title", Static).update(self._title)
        self.grid.show(sheet)

    def moved(self) -> None:
        """The cursor is elsewhere."""

    def chosen(self) -> str | None:
        """Return the trial that the cursor is about."""
        line = self.grid.line
        return line.key if line is not None and line.trial is not None else None

    def says(self) -> str:
        """Return a sentence about what is under the cursor."""
        sheet, line = self.grid.sheet, self.grid.line
        return sheet.says(line, self.grid.column) if sheet is not None and line is not None else ""

    def copied(self) -> str:
        """Return the text under the cursor."""
        sheet, line = self.grid.sheet, self.grid.line
        return sheet.copied(line, self.grid.column) if sheet is not None and line is not None else ""


class LanguagesPart(Part):
    """The heat map of languages."""

    NAME = "Languages"

    def sheets(self) -> int:
        """Return how many figures languages have."""
        return len(LANGUAGE_MEASURES)

    def sheet(self, number: int) -> Sheet:
        """Return the table of one."""
        return LanguageSheet(self._comparison, self._lines, LANGUAGE_MEASURES[number])


class TasksPart(Part):
    """The changes of tasks."""

    NAME = "Tasks"

    def sheets(self) -> int:
        """Return how many figures tasks have."""
        return len(task_measures(self._comparison))

    def sheet(self, number: int) -> Sheet:
        """Return the table of one."""
        return TaskSheet(self._comparison, self._lines, task_measures(self._comparison)[number])


class RanksPart(Part):
    """Where metrics disagree, as a matrix or as places, and the sentences that matter."""

    NAME = "Disagreement"
    EXTRA = (1, 8)
    DEFAULT_CSS = """
    RanksPart CompareGrid { height: auto; max-height: 65%; }
    RanksPart .sentences { height: 1fr; padding: 0 1; border-top: solid $panel; }
    """

    def compose_table(self) -> ComposeResult:
        """Yield the matrix and the sentences."""
        yield CompareGrid()
        yield Static(classes="sentences", markup=False)

    def sheets(self) -> int:
        """Return two: tau and places."""
        return 2

    def sheet(self, number: int) -> Sheet:
        """Return the table of tau or that of places."""
        return RankSheet(self._comparison, self._lines) if number else TauSheet(self._comparison)

    def _sentences(self) -> list[tuple[str, str]]:
        grid, line = self.grid, self.grid.line
        shown = {one.key for one in self._lines if one.key}
        if line is None:
            return []
        metrics = {
            one for one in (line.key if line.trial is None else None, grid.column) if one not in (None, ANY)
        }
        return sentences(self._comparison, shown, *sorted(str(one) for one in metrics))

    def moved(self) -> None:
        """Tell what the metrics under the cursor say differently."""
        found = self._sentences()
        if found:
            text = "\n".join(sentence for _, sentence in found)
        else:
            text = "no variant is two places or more apart" if self.grid.line is not None else ""
        self.query_one(".sentences", Static).update(text)

    def chosen(self) -> str | None:
        """Return the trial under the cursor, or that of the first sentence."""
        found = self._sentences()
        return super().chosen() or (found[0][0] if found else None)


class SizePart(Part):
    """The picture of size against quality with its legend."""

    NAME = "Size"
    EXTRA = (46, 12)
    DEFAULT_CSS = """
    SizePart CompareGrid { width: 38; }
    """

    def compose_table(self) -> ComposeResult:
        """Yield picture and legend."""
        with Horizontal():
            yield SizePlot()
            yield CompareGrid()

    def sheets(self) -> int:
        """Return how many figures there are for quality."""
        return len(SIZE_MEASURES)

    def sheet(self, number: int) -> Sheet:
        """Return the legend for one."""
        return SizeSheet(self._comparison, self._lines, SIZE_MEASURES[number])

    def moved(self) -> None:
        """Point at the variant under the cursor."""
        sheet, line = self.grid.sheet, self.grid.line
        if isinstance(sheet, SizeSheet):
            self.query_one(SizePlot).show(sheet, line.key if line is not None else "")


class AgreementPart(Part):
    """Settings that several backends compress; it has the whole width to itself."""

    NAME = "Agreement"

    def sheets(self) -> int:
        """Return one: all figures stand beside each other."""
        return 1

    def sheet(self, number: int) -> Sheet:
        """Return it, with more columns where they are visible as a whole."""
        return AgreementSheet(self._comparison, self._lines, wide=self.size.width >= WIDE)

    def on_resize(self) -> None:
        """Show more or fewer columns."""
        self._draw()


def fitting(part: Part, neighbour: Part, size: Size) -> tuple[bool, bool]:
    """Return whether two parts are visible as a whole beside each other, and whether they are one below the other."""
    (columns, rows), (more_columns, more_rows) = part.wants, neighbour.wants
    return 2 * max(columns, more_columns) <= size.width, 2 * max(rows, more_rows) <= size.height - OTHER_LINES

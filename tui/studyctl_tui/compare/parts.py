"""The parts of the Compare screen: each has a title with a legend of the marks, a table, and perhaps more."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Static

from studyctl_tui.compare.agreement import AgreementSheet
from studyctl_tui.compare.data import Comparison, Line
from studyctl_tui.compare.deployment import deployment_sheets
from studyctl_tui.compare.figures import LANGUAGE_MEASURES, LanguageSheet, TaskSheet, task_measures
from studyctl_tui.compare.grid import CompareGrid
from studyctl_tui.compare.ranks import ANY, RankSheet, TauSheet, sentences
from studyctl_tui.compare.sheets import Sheet
from studyctl_tui.compare.size import SIZE_MEASURES, SizePlot, SizeSheet

WIDE = 120
"""Columns from which the part about backends shows all figures."""


class Part(Vertical):
    """A part: subclasses say which tables it can show."""

    NAME: ClassVar[str] = ""
    DEFAULT_CSS = """
    Part { width: 1fr; display: none; }
    Part.active, Part.neighbour { display: block; }
    Part .part--title { height: 1; color: $foreground; text-wrap: nowrap; text-overflow: ellipsis; }
    """
    IS_PAIRED: ClassVar[bool] = True
    """Whether it shares the screen with its neighbour where both fit."""
    EXTRA: ClassVar[tuple[int, int]] = (1, 1)
    """Columns and rows that it needs in addition to those of its table."""

    def __init__(self) -> None:
        super().__init__(id=f"compare-{self.NAME.lower()}")
        self._number = 0
        self._title = Text()
        self._heading = Static(classes="part--title", markup=False)
        self._empty = ""
        self._comparison = Comparison()
        self._lines: tuple[Line, ...] = ()
        self.grid = CompareGrid(self.sheets()[0]())

    def compose(self) -> ComposeResult:
        """Yield title and table."""
        yield self._heading
        yield self.grid

    @property
    def size_needed(self) -> tuple[int, int]:
        """Columns and rows that show the whole part."""
        columns, rows = self.grid.size_needed
        return max(columns + self.EXTRA[0], self._title.cell_len + 1), rows + self.EXTRA[1]

    def sheets(self) -> Sequence[Callable[[], Sheet]]:
        """Return a constructor for each table to choose from."""
        raise NotImplementedError

    def show(self, comparison: Comparison, lines: Sequence[Line], empty: str) -> None:
        """Draw results; `empty`: why there are no lines; an empty text if nothing is measured."""
        self._comparison, self._lines, self._empty = comparison, tuple(lines), empty
        self._draw()

    def next_sheet(self) -> None:
        """Show another figure."""
        self._number += 1
        self._draw()

    def _draw(self) -> None:
        sheets = self.sheets()
        self._number %= len(sheets)
        sheet = sheets[self._number]()
        sheet.empty = self._empty or sheet.empty
        self._title = Text.assemble((f"{self.NAME}: {sheet.title}", "bold"), "   ", sheet.legend)
        self._heading.update(self._title)
        self.grid.show(sheet)

    def chosen(self) -> str | None:
        """Return the trial under the cursor."""
        line = self.grid.line
        return line.key if line is not None and line.trial is not None else None

    def says(self) -> str:
        """Return a sentence about what is under the cursor."""
        line = self.grid.line
        return self.grid.sheet.says(line, self.grid.column) if line is not None else ""

    def copied(self) -> str:
        """Return the text under the cursor."""
        line = self.grid.line
        return self.grid.sheet.copied(line, self.grid.column) if line is not None else ""


class LanguagesPart(Part):
    """The heat map of languages."""

    NAME = "Languages"

    def sheets(self) -> Sequence[Callable[[], Sheet]]:
        """Return a table for each figure of languages."""
        return [
            partial(LanguageSheet, self._comparison, self._lines, measure) for measure in LANGUAGE_MEASURES
        ]


class TasksPart(Part):
    """The changes of tasks."""

    NAME = "Tasks"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("f", "screen.flips", "Flip")]

    def sheets(self) -> Sequence[Callable[[], Sheet]]:
        """Return a table for each figure of tasks."""
        measures = task_measures(self._comparison)
        return [partial(TaskSheet, self._comparison, self._lines, measure) for measure in measures]


class RanksPart(Part):
    """Where metrics disagree, as a matrix or as places, and the sentences that matter."""

    NAME = "Disagreement"
    EXTRA = (1, 8)
    DEFAULT_CSS = """
    RanksPart CompareGrid { height: auto; max-height: 65%; }
    RanksPart .sentences { height: 1fr; padding: 0 1; border-top: solid $panel; }
    """

    def compose(self) -> ComposeResult:
        """Yield the matrix and the sentences."""
        yield from super().compose()
        yield Static(classes="sentences", markup=False)

    def sheets(self) -> Sequence[Callable[[], Sheet]]:
        """Return the table of tau and that of places."""
        return [partial(TauSheet, self._comparison), partial(RankSheet, self._comparison, self._lines)]

    def _sentences(self) -> list[tuple[str, str]]:
        line = self.grid.line
        if line is None:
            return []
        metrics = {line.key if line.trial is None else None, self.grid.column} - {None, ANY}
        trials = {line.key for line in self._lines if line.key}
        return sentences(self._comparison, trials, *sorted(str(metric) for metric in metrics))

    def on_compare_grid_moved(self) -> None:
        """Show the variants that the metrics under the cursor rank differently."""
        texts = [sentence for _, sentence in self._sentences()]
        if not texts and self.grid.line is not None:
            texts = ["no variant is two places or more apart"]
        self.query_one(".sentences", Static).update("\n".join(texts))

    def chosen(self) -> str | None:
        """Return the trial under the cursor, or that of the first sentence."""
        return super().chosen() or next((trial for trial, _ in self._sentences()), None)


class SizePart(Part):
    """The picture of size against quality with its legend."""

    NAME = "Size"
    EXTRA = (46, 12)
    DEFAULT_CSS = """
    SizePart CompareGrid { width: 38; }
    """

    def compose(self) -> ComposeResult:
        """Yield picture and legend."""
        yield self._heading
        with Horizontal():
            yield SizePlot()
            yield self.grid

    def sheets(self) -> Sequence[Callable[[], Sheet]]:
        """Return the legend for each figure of quality."""
        return [partial(SizeSheet, self._comparison, self._lines, measure) for measure in SIZE_MEASURES]

    def on_compare_grid_moved(self) -> None:
        """Point at the variant under the cursor."""
        sheet, line = self.grid.sheet, self.grid.line
        if isinstance(sheet, SizeSheet):
            self.query_one(SizePlot).show(sheet, line.key if line is not None else "")


class DeploymentPart(Part):
    """The files that are deployed; takes the whole width."""

    NAME = "Deployment"
    IS_PAIRED = False

    def sheets(self) -> Sequence[Callable[[], Sheet]]:
        """Return a table for each machine and number of threads."""
        return deployment_sheets(self._comparison, self._lines)


class AgreementPart(Part):
    """Settings that several backends compress; takes the whole width."""

    NAME = "Agreement"
    IS_PAIRED = False

    def sheets(self) -> Sequence[Callable[[], Sheet]]:
        """Return one table, with more columns where they fit."""
        return [partial(AgreementSheet, self._comparison, self._lines, wide=self.size.width >= WIDE)]

    def on_resize(self) -> None:
        """Show more or fewer columns."""
        self._draw()

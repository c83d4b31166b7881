"""Below the trials, where there is room: languages and tasks of the selected trial's model as heat maps against dense."""

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from studyctl_tui.compare.data import Choice, Comparison, arranged
from studyctl_tui.compare.figures import LANGUAGE_MEASURES, LanguageSheet, TaskSheet, task_measures
from studyctl_tui.compare.grid import CompareGrid
from studyctl_tui.compare.sheets import Sheet


class HeatMap(CompareGrid, can_focus=False):
    """A table that points at the selected trial and takes no keys."""


class HeatPane(Vertical):
    """What is published of one model: a table of languages, and one of tasks below it."""

    DEFAULT_CSS = """
    HeatPane { height: auto; display: none; }
    HeatPane > .heat--title { height: 1; padding: 0 1; color: $text-muted; text-wrap: nowrap; text-overflow: ellipsis; }
    HeatPane > HeatMap { height: auto; }
    """

    def __init__(self) -> None:
        super().__init__()
        empty = Comparison()
        sheets = (
            LanguageSheet(empty, (), LANGUAGE_MEASURES[0]),
            TaskSheet(empty, (), task_measures(empty)[0]),
        )
        self._maps = [(Static(classes="heat--title", markup=False), HeatMap(sheet)) for sheet in sheets]
        self._selected = ""
        self._fitted: tuple[object, ...] = ()
        """What the tables were fitted to: setting a style lays the screen out again, whatever it was."""

    def compose(self) -> ComposeResult:
        """Yield both tables, each with a title."""
        for title, grid in self._maps:
            yield title
            yield grid

    def show(self, comparison: Comparison) -> None:
        """Draw the results of a model."""
        lines = arranged(comparison, Choice())
        sheets: tuple[Sheet, ...] = (
            LanguageSheet(comparison, lines, LANGUAGE_MEASURES[0]),
            TaskSheet(comparison, lines, task_measures(comparison)[0]),
        )
        for (_, grid), sheet in zip(self._maps, sheets, strict=True):
            grid.show(sheet)
        self.point_at(self._selected)

    def fit(self, columns: int, rows: int) -> bool:
        """Show as many of the tables as fit below each other; return whether that is any."""
        fitted = (columns, rows, *(grid.sheet for _, grid in self._maps))
        if fitted == self._fitted:
            return self.display
        self._fitted, free = fitted, rows
        for (title, grid), name in zip(self._maps, ("Languages", "Tasks"), strict=True):
            wide, high = grid.size_needed
            shown = (
                bool(grid.sheet.lines) and bool(grid.sheet.columns) and wide <= columns and high + 1 <= free
            )
            free -= high + 1 if shown else 0
            title.display = grid.display = shown
            title.update(_title(name, grid.sheet, columns - 2))
            grid.styles.height = high
        self.display = free < rows
        return self.display

    def point_at(self, trial: str) -> None:
        """Point at a trial."""
        self._selected = trial
        for _, grid in self._maps:
            keys = [line.key for line in grid.sheet.lines]
            if trial in keys:
                grid.move_to(keys.index(trial), -1)


def _title(name: str, sheet: Sheet, width: int) -> Text:
    """Return the title of a table, with as many parts of its legend as fit."""
    title = Text(f"{name}: {sheet.title}", style="bold")
    for part in sheet.legend.split("  "):
        if title.cell_len + len(part) + 2 <= width:
            title.append(f"  {part}", style="not bold")
    return title

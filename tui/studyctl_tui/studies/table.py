"""The table of studies: fits any width, and redraws the cells that changed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Literal, Self

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.coordinate import Coordinate
from textual.geometry import Region
from textual.widgets import DataTable
from typing_extensions import override

from studyctl.printable import on_one_line
from studyctl.report.studies import GLYPHS
from studyctl.store.studies import StudyRow

STYLES = {
    "running": "bold green",
    "died": "bold red",
    "failed": "red",
    "unfinished": "",
    "done": "green",
    "empty": "dim",
    "unreadable": "bold red",
}
"""Of a state; its glyph and name say the same without colour."""
Key = Literal["state", "study", "progress", "failed", "host", "sign", "title"]
_HEADERS: dict[Key, str] = {
    "state": " state",
    "study": "study",
    "progress": "trials",
    "failed": "failed",
    "host": "host",
    "sign": "last sign",
    "title": "title",
}
SORTS: dict[str, tuple[Key, Callable[[StudyRow], Any]]] = {
    "name": ("study", lambda row: row.study),
    "state": ("state", lambda row: (list(GLYPHS).index(row.state), row.study)),
    "last sign": ("sign", lambda row: (-row.last_sign.timestamp() if row.last_sign else 0, row.study)),
    "progress": ("progress", lambda row: (row.done / row.trials if row.trials else 0.0, row.study)),
}
"""Column and key of each order: by name, those that need attention first, newest first, least done first."""
_STATE_WIDTH, _FAILED_WIDTH, _SIGN_WIDTH = 14, 8, 13
_MIN_HOST, _MIN_TITLE, _MIN_STUDY = 9, 14, 12
_SCROLLBAR = 2


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which columns there are; a column ends with a blank, which is part of its width."""

    columns: tuple[tuple[Key, int], ...]
    bar: int
    """Characters of a progress bar."""
    sort: str


def age_text(then: datetime | None, now: datetime) -> str:
    """Return how long ago something was, in steps of at least a minute."""
    if then is None:
        return "–"
    seconds = (now - then).total_seconds()
    if seconds < 60:
        return "just now"
    unit, length = next(item for item in (("d", 86400), ("h", 3600), ("min", 60)) if seconds >= item[1])
    return f"{int(seconds // length)} {unit} ago"


def bar_text(done: int, failed: int, trials: int, width: int) -> Text:
    """Return a bar of done, failed and remaining trials; they differ in characters, not only in colour."""
    if not trials:
        return Text("·" * width, style="dim")
    full = done * width // trials
    bad = min(width - full, -(-failed * width // trials))
    return Text.assemble(("█" * full, "green"), ("x" * bad, "red"), ("░" * (width - full - bad), "dim"))


class StudiesTable(DataTable[Text]):
    """One row a study. Its cursor stays on a study, wherever that moves."""

    DEFAULT_CSS = """
    StudiesTable { height: 1fr; background: $background; scrollbar-size-horizontal: 0; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "Open"),
        Binding("j", "cursor_down", "Down", show=False),
        Binding("k", "cursor_up", "Up", show=False),
    ]

    _one_cell = False
    """Whether a cell is being set, which is no reason to draw the whole table."""

    def __init__(self) -> None:
        super().__init__(cursor_type="row", cell_padding=0, cursor_foreground_priority="css")
        self._layout_now = _Layout((), 0, "")
        self._order: list[str] = []
        self._cells: dict[str, tuple[Text, ...]] = {}

    @property
    def study(self) -> str | None:
        """The study under the cursor."""
        return self._order[self.cursor_row] if 0 <= self.cursor_row < len(self._order) else None

    def show_rows(self, rows: Sequence[StudyRow], sort: str, now: datetime) -> None:
        """Show these rows in this order; what is shown already is not drawn again."""
        layout = _layout(rows, self.app.size.width, sort)
        order = [row.study for row in rows]
        before, self._cells = self._cells, {row.study: _cells(row, layout, now) for row in rows}
        if layout != self._layout_now or order != self._order:
            self._build(layout, order)
            return
        for number, study in enumerate(order):
            for column, (old, new) in enumerate(zip(before[study], self._cells[study], strict=True)):
                if old != new:
                    self._one_cell = True
                    self.update_cell_at(Coordinate(number, column), new)
                    self._one_cell = False
                    self.refresh_coordinate(Coordinate(number, column))

    def _build(self, layout: _Layout, order: list[str]) -> None:
        """Fill the table again and put cursor and view where they were."""
        before, row_before, scrolled = self.study, self.cursor_row, self.scroll_y
        self.clear(columns=True)
        for key, width in layout.columns:
            mark = " ▾" if SORTS[layout.sort][0] == key else ""
            self.add_column(Text(_HEADERS[key] + mark), width=width)
        for study in order:
            self.add_row(*self._cells[study], key=study)
        self._layout_now, self._order = layout, order
        if order:
            self.move_cursor(
                row=order.index(before) if before in order else min(row_before, len(order) - 1), scroll=False
            )
            self.scroll_to(y=scrolled, animate=False)

    @override
    def refresh(self, *regions: Region, **options: Any) -> Self:
        return self if self._one_cell and not regions else super().refresh(*regions, **options)


def _layout(rows: Sequence[StudyRow], width: int, sort: str) -> _Layout:
    """Give each column the width that it needs; the host only if it fits whole; the title gets what is left."""
    count = max((len(f"{row.done}/{row.trials}") for row in rows), default=3)
    bar = 8 if width < 100 else 16
    progress = max(bar + 1 + count, len("trials ▾")) + 2
    left = width - _SCROLLBAR - _STATE_WIDTH - progress - _FAILED_WIDTH - _SIGN_WIDTH
    name = max((Text(row.study).cell_len for row in rows), default=0) + 2
    host = max((Text(row.host).cell_len for row in rows), default=0) + 2
    study = min(max(name, _MIN_STUDY), max(left, _MIN_STUDY))
    left -= study
    columns: list[tuple[Key, int]] = [("state", _STATE_WIDTH), ("study", study), ("progress", progress)]
    columns += [("failed", _FAILED_WIDTH)]
    if host > 2 and left >= (host := max(_MIN_HOST, min(host, 24))):
        columns.append(("host", host))
        left -= host
    columns.append(("sign", _SIGN_WIDTH))
    if left >= _MIN_TITLE and any(row.title or row.trouble for row in rows):
        columns.append(("title", left))
    else:
        columns[1] = ("study", study + left)
    return _Layout(tuple(columns), bar, sort)


def _cells(row: StudyRow, layout: _Layout, now: datetime) -> tuple[Text, ...]:
    progress = bar_text(row.done, row.failed, row.trials, layout.bar).append(f" {row.done}/{row.trials}")
    texts: dict[Key, Text] = {
        "state": Text(f" {GLYPHS[row.state]} {row.state}", style=STYLES[row.state]),
        "study": Text(on_one_line(row.study), style="bold"),
        "progress": Text("") if row.trouble else progress,
        "failed": Text(str(row.failed) if row.failed else "", style="red"),
        "host": Text(on_one_line(row.host)),
        "sign": Text("" if row.trouble else age_text(row.last_sign, now)),
        "title": Text(on_one_line(row.trouble or row.title), style="" if row.trouble else "dim"),
    }
    for key, width in layout.columns:
        texts[key].truncate(width - 1, overflow="ellipsis")
    return tuple(texts[key] for key, _ in layout.columns)

"""The rows of a query: a table that draws only its visible part, however many rows there are."""

from bisect import bisect_right
from itertools import accumulate
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.cache import LRUCache
from textual.containers import Container
from textual.geometry import Region
from textual.strip import Strip
from textual.widgets import Static
from textual_fastdatatable import DataTable

from studyctl.errors import Problem
from studyctl.store.session import Answer
from studyctl.units import bytes_text
from studyctl_tui.sql.cells import Rows, cell_text, row_texts, rows_as_text, tab_separated

COPY = Binding.Group("Copy")
CLIPBOARD_BYTES = 74_000
"""Maximum of a copy: as base64 98,668 bytes, and some terminals drop a sequence of more than 100,000."""


class ResultTable(DataTable):  # type: ignore[misc]  # its types are not read
    """The table; one for each result."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "copy_cell", "Copy cell", group=COPY),
        Binding("Y", "copy_row", "Copy row", group=COPY),
        Binding("a", "copy_all", "Copy all rows", group=COPY),
        Binding("ctrl+c", "copy_cell", "Copy cell", show=False),
        Binding("tab", "app.focus_next", "Next pane", show=False),
        Binding("shift+tab", "app.focus_previous", "Previous pane", show=False),
        Binding("j", "cursor_down", "Down", show=False),
        Binding("k", "cursor_up", "Up", show=False),
        Binding("h", "cursor_left", "Left", show=False),
        Binding("l", "cursor_right", "Right", show=False),
        Binding("g", "cursor_table_start", "First cell", show=False),
        Binding("G", "cursor_table_end", "Last cell", show=False),
    ]
    DEFAULT_CSS = """
    ResultTable { height: 1fr; background: $background; color: $foreground; scrollbar-size: 1 1; }
    ResultTable > .datatable--header { background: $panel; color: $foreground; text-style: bold; }
    ResultTable > .datatable--header-hover { background: $panel; }
    ResultTable > .datatable--header-cursor { background: $panel; color: $foreground; text-style: bold underline; }
    ResultTable > .datatable--even-row { background: $background; }
    ResultTable > .datatable--cursor {
        background: $block-cursor-blurred-background; color: $block-cursor-blurred-foreground; text-style: none;
    }
    ResultTable:focus > .datatable--cursor {
        background: $block-cursor-background; color: $block-cursor-foreground; text-style: bold;
    }
    """

    def __init__(self, rows: Rows, *, widest: int) -> None:
        """Make a table.

        Args:
            rows: what it shows, its widths measured.
            widest: characters of a column at most; what is longer is cut with an ellipsis.
        """
        super().__init__(
            backend=rows,
            column_labels=[
                Text(name, justify="right" if number else "left")
                for name, number in zip(rows.source_data.schema.names, rows.numbers, strict=True)
            ],
            max_column_content_width=widest,
            cursor_background_priority="css",
            render_markup=False,
        )
        self.rows = rows
        self._base = Style()
        self._strips: LRUCache[tuple[object, ...], Strip] = LRUCache(500)

    def render_lines(self, crop: Region) -> list[Strip]:
        """Draw the visible lines; the style of the widget is computed once for all."""
        self._base = self.rich_style
        drawn: list[Strip] = super().render_lines(crop)
        return drawn

    def render_line(self, y: int) -> Strip:
        """Draw a line of the table.

        The base class renders each cell through a console, and all visible ones again whenever the cursor moves: too
        slow to scroll smoothly. Here a row is made from text, and only the cursor's is drawn again.
        """
        row = y - self.header_height + self.scroll_offset.y
        if y < self.header_height or not self.is_valid_row_index(row):
            drawn: Strip = super().render_line(y)
            return drawn
        return self._row(row, self.scroll_offset.x, self._base)

    def _row(self, row: int, x1: int, base_style: Style) -> Strip:
        x2 = x1 + self.size.width
        cursor = self.cursor_column if row == self.cursor_row else None
        cursor_style = None if cursor is None else self.get_component_rich_style("datatable--cursor")
        key = (row, x1, x2, base_style, cursor, cursor_style)
        if (cached := self._strips.get(key)) is not None:
            return cached
        edges = [0, *accumulate(column.render_width for column in self.ordered_columns)]
        first = min(bisect_right(edges, x1) - 1, len(edges) - 2)
        segments = []
        for number in range(first, self.column_count):
            if edges[number] >= x2:
                break
            style = base_style + Style.from_meta({"row": row, "column": number})
            if number == cursor and cursor_style is not None:
                style += cursor_style
            segments.append(self._segment(row, number, edges[number + 1] - edges[number] - 2, style))
        strip = (
            Strip(segments).crop(x1 - edges[first], x2 - edges[first]).adjust_cell_length(x2 - x1, base_style)
        )
        self._strips[key] = strip
        return strip

    def _segment(self, row: int, column: int, width: int, style: Style) -> Segment:
        value = self.rows.get_cell_at(row, column)
        text = cell_text(value)
        if value is None:
            style += Style(dim=True)
        if cell_len(text) > width:
            text = set_cell_size(text, width - 1) + "…"
        elif self.rows.numbers[column]:
            text = " " * (width - cell_len(text)) + text
        return Segment(f" {set_cell_size(text, width)} ", style)

    def notify_style_update(self) -> None:
        """Draw again in other colours."""
        self._strips.clear()
        super().notify_style_update()

    def position(self) -> str:
        """Return ``row 17 of 1,000,000, item INTEGER`` for the cursor."""
        row, column = self.cursor_coordinate
        field = self.rows.source_data.schema.field(column)
        return f"row {row + 1:,} of {self.rows.row_count:,} · {field.name} ({field.type})"

    def action_copy_cell(self) -> None:
        """Copy the cell at the cursor, as an export writes it."""
        row, column = self.cursor_coordinate
        self._copy("the cell", row_texts(self.rows.source_data.select([column]), row)[0])

    def action_copy_row(self) -> None:
        """Copy the row at the cursor, tabs between its cells."""
        self._copy("the row", tab_separated(row_texts(self.rows.source_data, self.cursor_coordinate.row)))

    def action_copy_all(self) -> None:
        """Copy all rows below a line of headers, tabs between cells; of many, the first ones that a terminal takes."""
        table = self.rows.source_data
        text, count = rows_as_text(table, CLIPBOARD_BYTES)
        if count == table.num_rows:
            self.app.copy_to_clipboard(text)
            self.app.notify(f"copied {count:,} row{'s' * (count != 1)} with headers, tabs between cells")
            return
        limit = f"terminals take {bytes_text(CLIPBOARD_BYTES)} at most; ctrl+e writes all {table.num_rows:,} to a file"
        if count:
            self.app.copy_to_clipboard(text)
            self.app.notify(f"copied only the first {count:,} rows: {limit}", severity="warning")
        else:
            self.app.notify(f"nothing was copied: {limit}", severity="warning")

    def _copy(self, part: str, text: str) -> None:
        self.app.copy_to_clipboard(text)
        shown = text if len(text) <= 60 else text[:59] + "…"
        self.app.notify(f"copied {part}: {shown}", markup=False)


class ResultPane(Container):
    """Shows the rows, or a text instead of them."""

    DEFAULT_CSS = """
    ResultPane { height: 1fr; }
    ResultPane > Static { height: auto; max-height: 100%; padding: 0 1; color: $foreground; }
    """

    def __init__(self, text: Text) -> None:
        super().__init__()
        self.answer: Answer | None = None
        """What is shown."""
        self.table: ResultTable | None = None
        """The rows on the screen."""
        self._text = text

    def compose(self) -> ComposeResult:
        """Yield the text."""
        yield Static(self._text, markup=False)

    def say(self, text: Text) -> None:
        """Show a text instead of rows."""
        self._remove()
        self.answer = None
        message = self.query_one(Static)
        message.display = True
        message.update(text)

    def show(self, answer: Answer, rows: Rows, *, widest: int) -> None:
        """Show rows; the focus moves from the old rows to these."""
        focused = self.table is not None and self.table.has_focus
        self._remove()
        self.answer = answer
        self.query_one(Static).display = False
        self.table = ResultTable(rows, widest=widest)
        self.mount(self.table)
        if focused:
            self.table.focus()

    def _remove(self) -> None:
        if self.table is not None:
            self.table.display = False  # removing takes a moment
            self.table.remove()
            self.table = None


def problem_text(problem: Problem, place: tuple[int, int] | None = None, line: str = "") -> Text:
    """Return the text of a problem, with the wrong line at `place` (line and column from 1)."""
    text = Text.assemble(("✗ ", "bold red"), problem.what)
    if place is not None:
        start = max(0, place[1] - 40)
        text.append(f"\n  line {place[0]}, column {place[1]}\n")
        text.append(f"  {line[start : start + 76]}\n", "bold")
        text.append("  " + " " * (place[1] - 1 - start) + "^" * problem.length, "bold red")
    if problem.hint:
        text.append("\n\nhint: ", "bold")
        text.append(problem.hint)
    return text

"""A table that draws only what is visible: first column and header stay, cells have shades, a cursor moves over cells."""

from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.color import Color
from textual.events import Click
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from studyctl.report.effects import UNSURE
from studyctl_tui.compare.data import Line
from studyctl_tui.compare.sheets import GLYPHS, Sheet
from studyctl_tui.shared.variant_names import shortened

MOST_WIDTH = 14
"""Maximum width of a column in characters: figure, glyph, mark and a blank."""
_BLEND = (0.0, 0.12, 0.22, 0.33, 0.45)
"""How much of the theme's error colour is mixed into its background for each step: text stays readable on each."""
_SIXTEEN: tuple[Style, ...] = (
    Style(),
    Style(),
    Style(color="yellow"),
    Style(color="red"),
    Style(color="red", bold=True),
)


class CompareGrid(ScrollView, can_focus=True):
    """Draws a :class:`Sheet`."""

    DEFAULT_CSS = """
    CompareGrid { height: 1fr; background: $background; scrollbar-size: 1 1; }
    CompareGrid > .grid--header { text-style: bold; color: $foreground; background: $panel; }
    CompareGrid > .grid--heading { text-style: bold; color: $primary; }
    CompareGrid > .grid--cursor { color: $block-cursor-foreground; background: $block-cursor-background; text-style: bold; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {"grid--header", "grid--heading", "grid--cursor"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1, 0)", "Line up", show=False),
        Binding("down,j", "move(1, 0)", "Line down", show=False),
        Binding("left,h", "move(0, -1)", "Column left", show=False),
        Binding("right,l", "move(0, 1)", "Column right", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home", "edge(-1, 0)", "First line", show=False),
        Binding("end", "edge(1, 0)", "Last line", show=False),
        Binding("ctrl+left", "edge(0, -1)", "First column", show=False),
        Binding("ctrl+right", "edge(0, 1)", "Last column", show=False),
        Binding("enter", "screen.monitor", "To Monitor"),
    ]

    class Moved(Message):
        """The cursor has moved, or what is under it has changed."""

    def __init__(self, sheet: Sheet) -> None:
        super().__init__()
        self.sheet = sheet
        """What is shown."""
        self._row, self._column = 0, -1
        self._widths: tuple[int, ...] = (0,)
        self._headers: list[tuple[str, ...]] = []
        self._top = 1
        """Lines of the header."""
        self._shows_intervals = False

    # -- what is shown

    def show(self, sheet: Sheet) -> None:
        """Draw another table; the cursor stays on its line and column where they are still there."""
        key, column = self.line.key if self.line is not None else "", self.column
        self.sheet = sheet
        keys = [line.key for line in sheet.lines]
        row = keys.index(key) if key in keys else self._row
        self._measure()
        self.move_to(row, sheet.columns.index(column) if column in sheet.columns else -1)

    @property
    def line(self) -> Line | None:
        """The line under the cursor."""
        return self.sheet.lines[self._row] if self.sheet.lines else None

    @property
    def column(self) -> str | None:
        """The column under the cursor; None: the names of the lines."""
        return self.sheet.columns[self._column] if self._column >= 0 else None

    @property
    def size_needed(self) -> tuple[int, int]:
        """Columns and rows that show the whole table; an empty one takes the whole terminal for its reason."""
        sheet = self.sheet
        if not sheet.lines:
            return 1 << 16, 1 << 16
        return self._widths[0] + sheet.least_width * len(sheet.columns), len(sheet.lines) + 2

    def on_resize(self) -> None:
        """Compute the widths again."""
        self._measure()
        self._reveal()

    def _measure(self) -> None:
        """Compute the widths: what each column needs; where they do not fit, long names stand on two lines."""
        sheet, room = self.sheet, self._room.width
        longest = max([Text(line.label).cell_len for line in sheet.lines], default=0)
        names = [sheet.headers.get(column, column) for column in sheet.columns]
        label = min(longest + 1, max(16, room // 4, room - sheet.least_width * len(names)))
        widths = _shared(
            [min(max(sheet.least_width, len(name) + 2), MOST_WIDTH) for name in names],
            sheet.least_width,
            room - label,
        )
        with_intervals = self._with_intervals(widths)
        self._shows_intervals = label + sum(with_intervals) <= room
        if self._shows_intervals:
            widths = with_intervals
        self._widths = (label, *widths)
        pairs = [_on_two_lines(name, width - 1) for name, width in zip(names, widths, strict=True)]
        self._top = 2 if any(upper for upper, _ in pairs) else 1
        self._headers = [pair[-self._top :] for pair in pairs]
        self.virtual_size = Size(sum(self._widths), self._top + max(1, len(sheet.lines)))

    def _with_intervals(self, widths: list[int]) -> list[int]:
        """Return the widths that show every interval too."""
        lines = [line for line in self.sheet.lines if line.key]
        cells = [[self.sheet.cell(line, column) for line in lines] for column in self.sheet.columns]
        return [
            max([width, *(len(cell.text + cell.spread) + 3 for cell in column if cell.spread)])
            for width, column in zip(widths, cells, strict=True)
        ]

    @property
    def _room(self) -> Size:
        """Size without the scroll bars."""
        return self.scrollable_content_region.size

    # -- drawing

    def render_line(self, y: int) -> Strip:
        """Draw a line of the header, or of the table at its scroll position."""
        sheet, width, base = self.sheet, self._room.width, self.rich_style
        if not sheet.lines:
            text = f" {sheet.empty}" if y == self._top else ""
            return Strip([Segment(text, base)]).adjust_cell_length(width, base)
        if y < self._top:
            style = base + self.get_component_rich_style("grid--header", partial=True)
            columns = zip(self._headers, self._widths[1:], strict=True)
            cells = [Segment(f"{lines[y]:>{w - 1}} ", style) for lines, w in columns]
            return self._framed(Segment(" " * self._widths[0], style), cells, style)
        row = y - self._top + self.scroll_offset.y
        return self._line(row, base) if row < len(sheet.lines) else Strip.blank(width, base)

    def _line(self, row: int, base: Style) -> Strip:
        line = self.sheet.lines[row]
        name = Text(shortened(line.label, self._widths[0] - 1))
        name.truncate(self._widths[0] - 1, overflow="ellipsis", pad=True)
        if not line.key:
            style = base + self.get_component_rich_style("grid--heading", partial=True)
            return self._framed(Segment(f"{name.plain} ", style), [], base)
        cursor = self._cursor_style(base) if row == self._row and self.has_focus else None
        label = cursor if cursor and self._column < 0 else base + Style(bold=row == self._row)
        colors = self.app.theme_variables
        shades = _SIXTEEN
        if not self.app.native_ansi_color:
            shades = _shades(colors["background"], colors["error"], colors["foreground"])
        cells: list[Segment] = []
        for number, (column, width) in enumerate(zip(self.sheet.columns, self._widths[1:], strict=True)):
            cell = self.sheet.cell(line, column)
            style = (
                base + Style(dim=cell.is_unsure or None) if cell.step is None else base + shades[cell.step]
            )
            if cursor and number == self._column:
                style = cursor
            glyph = GLYPHS[cell.step] if cell.step is not None else UNSURE if cell.is_unsure else " "
            text = cell.text + (cell.spread if self._shows_intervals else "")
            cells.append(Segment(f"{text:>{width - 2}}{glyph}{cell.mark}", style))
        return self._framed(Segment(f"{name.plain} ", label), cells, base)

    def _cursor_style(self, base: Style) -> Style:
        if self.app.native_ansi_color or self.app.no_color:
            return base + Style(reverse=True, bold=True)
        return base + self.get_component_rich_style("grid--cursor", partial=True)

    def _framed(self, label: Segment, cells: list[Segment], style: Style) -> Strip:
        """Put the name before the scrolled cells; a partly visible cell is left blank, since it would read as another figure."""
        room = max(0, self._room.width - self._widths[0])
        left, end = self.scroll_offset.x, 0
        whole: list[Segment] = []
        for cell in cells:
            begin, end = end, end + len(cell.text)
            visible = left <= begin and end <= left + room
            whole.append(cell if visible else Segment(" " * len(cell.text), style))
        scrolled = Strip(whole).adjust_cell_length(max(left + room, end), style).crop(left, left + room)
        if end > left + room > 0:
            scrolled = Strip.join([scrolled.crop(0, room - 1), Strip([Segment("›", style)])])
        return Strip.join([Strip([label]), scrolled])

    # -- the cursor

    def move_to(self, row: int, column: int, way: int = 1) -> None:
        """Put the cursor on a cell, or the nearest one; headings are skipped in the direction of `way`."""
        lines = self.sheet.lines
        self._row = min(max(row, 0), max(0, len(lines) - 1))
        self._column = min(max(column, -1), len(self.sheet.columns) - 1)
        if lines:
            ahead = range(self._row, len(lines)) if way > 0 else range(self._row, -1, -1)
            back = range(self._row, -1, -1) if way > 0 else range(self._row, len(lines))
            self._row = next(row for row in (*ahead, *back) if lines[row].key)
        self._reveal()
        self.refresh()
        self.post_message(self.Moved())

    def _reveal(self) -> None:
        """Scroll to the cursor."""
        if not self._room.height:
            return  # it was never shown
        room = max(1, self._room.height - self._top)
        top = min(self.scroll_offset.y, self._row)
        top = 0 if self._row <= 1 else max(top, self._row - room + 1)
        left = 0
        if self._column >= 0:
            begin = sum(self._widths[1 : self._column + 1])
            end = begin + self._widths[self._column + 1]
            left = max(min(self.scroll_offset.x, begin), end - (self._room.width - self._widths[0]))
        self.scroll_to(max(0, left), top, animate=False, force=True)

    def action_move(self, rows: int, columns: int) -> None:
        """Move by cells."""
        self.move_to(self._row + rows, self._column + columns, rows or 1)

    def action_page(self, pages: int) -> None:
        """Move by pages."""
        self.move_to(self._row + pages * max(1, self._room.height - self._top - 1), self._column, pages)

    def action_edge(self, rows: int, columns: int) -> None:
        """Move to the first or last line or column."""
        many = 1 << 30
        self.move_to(self._row + rows * many, self._column + columns * many, -rows or 1)

    def on_click(self, event: Click) -> None:
        """Put the cursor where the mouse is."""
        row = event.y - self._top + self.scroll_offset.y
        if event.y < self._top or row >= len(self.sheet.lines):
            return
        x = event.x - self._widths[0]
        ends = list(accumulate(self._widths[1:]))
        self.move_to(row, bisect_right(ends, x + self.scroll_offset.x) if x >= 0 else -1)


@lru_cache(maxsize=8)
def _shades(background: str, error: str, foreground: str) -> tuple[Style, ...]:
    """Return the style of each step."""
    plain, bad, text = (Color.parse(color) for color in (background, error, foreground))
    return tuple(Style(color=text.rich_color, bgcolor=plain.blend(bad, part).rich_color) for part in _BLEND)


def _shared(needed: list[int], least: int, room: int) -> list[int]:
    """Return the width of each column: what it needs where that fits, so that as many as possible have it; else the least."""
    widths = [least] * len(needed)
    free = room - sum(widths)
    for number in sorted(range(len(needed)), key=needed.__getitem__):
        if (more := needed[number] - least) <= free:
            widths[number] += more
            free -= more
    return widths


def _on_two_lines(name: str, width: int) -> tuple[str, str]:
    """Return the upper and the lower line of a name; upper is empty where one line does."""
    if len(name) <= width:
        return "", name
    breaks = [at + 1 for at, letter in enumerate(name) if letter in "_- " and 0 < at <= width]
    at = max(
        (at for at in breaks if len(name) - at <= width),
        default=max(breaks, default=min(width, len(name) - 3)),
    )
    lower = name[at:].strip()
    return name[:at].strip()[:width], lower if len(lower) <= width else f"{lower[: width - 1]}…"

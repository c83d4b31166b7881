"""A scrolling text of lines, of which only those that changed are drawn again."""

from collections.abc import Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.visual import Visual

BLANK = Content()


class LinesView(ScrollView, can_focus=True):
    """Shows lines of text; of a new page only the lines that differ are sent to the terminal."""

    DEFAULT_CSS = """
    LinesView {
        overflow-x: hidden; overflow-y: auto; scrollbar-gutter: stable;
        scrollbar-size-vertical: 1; scrollbar-background: $background;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "scroll_down", "Scroll down", show=False),
        Binding("k", "scroll_up", "Scroll up", show=False),
        Binding("g", "scroll_home", "To the top", show=False),
        Binding("G", "scroll_end", "To the end", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.lines: Sequence[Content] = ()
        self._kept: int | None = None
        """Line that was kept in sight."""

    @property
    def room(self) -> int:
        """Columns for text."""
        return self.scrollable_content_region.width

    def show(self, lines: Sequence[Content], keep: int | None = None) -> None:
        """Show lines.

        Args:
            lines: What to show, one a line.
            keep: line to keep in sight as text grows, unless somebody scrolled away from it.
        """
        old, self.lines = self.lines, lines
        top, height = self.scroll_offset.y, self.size.height
        follows = self._kept is None or top <= self._kept < top + height
        if len(old) != len(lines):
            self.virtual_size = Size(self.size.width, len(lines))
            top = self.scroll_offset.y
        for y in range(top, top + height):
            before = old[y] if y < len(old) else BLANK
            after = lines[y] if y < len(lines) else BLANK
            if before is not after and not before.is_same(after):
                self.refresh(Region(0, y - top, max(before.cell_length, after.cell_length), 1))
        self._kept = keep
        if keep is not None and follows and not top <= keep < top + height:
            self.scroll_to(y=min(max(top, keep - height + 1), keep), animate=False, force=True)

    def restart(self) -> None:
        """Scroll to the top, for another text."""
        self._kept = None
        self.scroll_to(y=0, animate=False)

    def notify_style_update(self) -> None:
        """Draw with the new colours."""
        super().notify_style_update()
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw a line of the screen."""
        number = self.scroll_offset.y + y
        line = self.lines[number] if number < len(self.lines) else BLANK
        strips = Visual.to_strips(self, line, self.room, 1, self.visual_style, pad=True)
        return strips[0] if strips else Strip.blank(self.room, self.visual_style.rich_style)

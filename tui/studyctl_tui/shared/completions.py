"""The list of what could be written at the cursor."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text
from textual.geometry import Offset
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from studyctl.completions import Item

MOST_COLUMNS = 60
FRAME = 3
"""Columns of the list beside its text: blanks and a scroll bar."""


class CompletionList(OptionList, can_focus=False):
    """Opens at the cursor; the keys stay the editor's."""

    DEFAULT_CSS = """
    CompletionList {
        display: none; overlay: screen; constrain: inside inflect;
        width: auto; height: auto; max-height: 8; background: $panel; color: $foreground; scrollbar-size-vertical: 1;
        &.-textual-compact { padding: 0 1; }
        & > .option-list--option-highlighted { text-style: reverse; }
    }
    """

    def __init__(self) -> None:
        super().__init__(compact=True)
        self._items: Sequence[Item] = ()
        self._texts: list[Text] = []
        """The items as lines of equal parts, their notes dim."""

    @property
    def is_open(self) -> bool:
        """Whether it is shown."""
        return self.display and bool(self._items)

    @property
    def chosen(self) -> Item:
        """The item that is highlighted."""
        return self._items[self.highlighted or 0]

    def open(self, items: Sequence[Item], x: int, y: int) -> None:
        """Show items below a place of the screen; the one that was chosen stays so."""
        before = self.chosen.label if self.is_open else ""
        if items != self._items:
            self._items = items
            width = max(cell_len(item.label) for item in items)
            room = min(MOST_COLUMNS, self.app.size.width - FRAME)
            self._texts = [_line(item, width, room) for item in items]
            self.clear_options()
            self.add_options(map(Option, self._texts))
        labels = [item.label for item in items]
        self._choose(labels.index(before) if before in labels else 0)
        self.absolute_offset = Offset(max(0, x - 1), y + 1)
        self.display = True

    def close(self) -> None:
        """Hide it."""
        self._items = ()
        self.display = False

    def move(self, step: int) -> None:
        """Go up or down, around the ends."""
        self._choose(((self.highlighted or 0) + step) % len(self._items))

    def _choose(self, index: int) -> None:
        """Highlight an item; its note is not dim, which could not be read on that background."""
        if self.highlighted is not None:
            self.replace_option_prompt_at_index(self.highlighted, self._texts[self.highlighted])
        bright = Text(self._texts[index].plain, no_wrap=True, overflow="ellipsis")
        self.replace_option_prompt_at_index(index, bright)
        self.highlighted = index


def _line(item: Item, width: int, room: int) -> Text:
    line = Text(item.label.ljust(width), no_wrap=True, overflow="ellipsis")
    line.append(f"  {item.note}" if item.note else "", "dim")
    line.truncate(room, overflow="ellipsis")
    return line

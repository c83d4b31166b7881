"""Lines around the text of a spec: which file it is, what is the matter with it, and what the key at the cursor means."""

import os
from pathlib import Path

from rich.text import Text
from textual.widgets import Static

from studyctl.spec.assist import Help


class FileBar(Static):
    """The file, whether it is saved, and where the cursor is."""

    DEFAULT_CSS = """
    FileBar { height: 1; padding: 0 1; background: $panel; color: $foreground; }
    """

    def __init__(self) -> None:
        super().__init__(id="file")
        self._left, self._right = Text(), ""

    def show(self, path: Path | None, state: str, place: tuple[int, int], found: str) -> None:
        """Draw what is new.

        Args:
            path: of the file; None: none is open.
            state: such as ``not saved``.
            place: row and column of the cursor, from 0.
            found: how many problems there are.
        """
        name = short(path) if path is not None else "no spec is open"
        left = Text.assemble((name, "bold"), f"  {state}" if state else "")
        right = "  ".join(filter(None, (found, f"{place[0] + 1}:{place[1] + 1}")))
        if (left, right) != (self._left, self._right):
            self._left, self._right = left, right
            self.refresh()

    def render(self) -> Text:
        """Put both sides on one line; the left side gives way first."""
        left = self._left.copy()
        left.truncate(max(0, self.size.width - len(self._right) - 1), overflow="ellipsis", pad=True)
        return Text.assemble(left, " ", self._right)


class Banner(Static):
    """Something to know about the file; not there when there is nothing."""

    DEFAULT_CSS = """
    Banner {
        height: auto; max-height: 2; padding: 0 1; display: none;
        color: $text; background: $warning 25%; text-style: bold;
    }
    """

    def __init__(self) -> None:
        super().__init__(id="banner", markup=False)
        self.text = ""

    def say(self, text: str) -> None:
        """Show a sentence, or nothing."""
        if text != self.text:
            self.text = text
            self.update(Text(text))
            self.display = bool(text)


class KeyHelp(Static):
    """What the key at the cursor means: its facts, then a sentence."""

    DEFAULT_CSS = """
    KeyHelp { height: 2; padding: 0 1; background: $surface; color: $foreground; }
    """

    def __init__(self) -> None:
        super().__init__(id="key-help", markup=False)
        self._help: Help | None = None

    def show(self, told: Help | None) -> None:
        """Draw a help if it is another one."""
        if told != self._help:
            self._help = told
            self.refresh(layout=True)

    def render(self) -> Text:
        """Put facts and sentence below each other, cut to the room where that is scarce."""
        told = self._help
        if told is None:
            return Text("ctrl+n offers what can be written at the cursor", "dim")
        facts = Text.assemble((told.name, "bold"), "  ", " · ".join(told.facts))
        about = Text(told.about)
        if self.size.height == 2:
            facts.truncate(self.size.width, overflow="ellipsis")
            about.truncate(self.size.width, overflow="ellipsis")
        return Text("\n").join((facts, about))


def short(path: Path) -> str:
    """Return a path as short as it can be typed."""
    if not path.is_absolute():
        return str(path)
    relative = os.path.relpath(path)
    home = str(path).replace(str(Path.home()), "~", 1) if path.is_relative_to(Path.home()) else str(path)
    return min(home if relative.startswith("..") else relative, home, key=len)

"""Lines around the text of a spec: the file and its state, a banner, and the meaning of the key at the cursor."""

import os
from pathlib import Path

from rich.text import Text
from textual.reactive import reactive
from textual.widgets import Static

from studyctl.spec.assist import Help


class FileBar(Static):
    """The file, whether it is saved, and where the cursor is."""

    DEFAULT_CSS = """
    FileBar { height: 1; padding: 0 1; background: $panel; color: $foreground; }
    """

    sides: reactive[tuple[Text, str]] = reactive((Text(), ""))
    """The file with its state; the number of problems with the place of the cursor."""

    def render(self) -> Text:
        """Put both sides on one line; the left side gives way first."""
        left, right = self.sides
        left = left.copy()
        left.truncate(max(0, self.size.width - len(right) - 1), overflow="ellipsis", pad=True)
        return Text.assemble(left, " ", right)


class Banner(Static):
    """A message about the file; hidden if there is none."""

    DEFAULT_CSS = """
    Banner {
        height: auto; max-height: 2; padding: 0 1; display: none;
        color: $text; background: $warning 25%; text-style: bold;
    }
    """

    text: reactive[str] = reactive("", layout=True)

    def watch_text(self) -> None:
        """Hide the banner if it has no text."""
        self.display = bool(self.text)

    def render(self) -> Text:
        """Return the sentence."""
        return Text(self.text)


class KeyHelp(Static):
    """What the key at the cursor means: its facts, then a sentence."""

    DEFAULT_CSS = """
    KeyHelp { height: 2; padding: 0 1; background: $surface; color: $foreground; }
    """

    about: reactive[Help | None] = reactive(None, layout=True)

    def render(self) -> Text:
        """Put facts and sentence below each other, cut to the room where that is scarce."""
        if self.about is None:
            return Text("ctrl+n offers what can be written at the cursor", "dim")
        facts = Text.assemble((self.about.name, "bold"), "  ", " · ".join(self.about.facts))
        about = Text(self.about.about)
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

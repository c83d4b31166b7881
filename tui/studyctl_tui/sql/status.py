"""One line about the query: its time, its rows, and how old the results are."""

from datetime import datetime

from rich.text import Text
from textual.reactive import reactive
from textual.widgets import Static

NOTHING = Text("no query was run yet")


class QueryLine(Static):
    """The line between query and rows."""

    DEFAULT_CSS = """
    QueryLine {
        height: 1; padding: 0 1; background: $panel; color: $foreground;
        text-wrap: nowrap; text-overflow: ellipsis;
    }
    """
    text: reactive[Text] = reactive(NOTHING)
    """About the query that runs, or the last one."""
    read: reactive[datetime | None] = reactive(None)
    """When the database that gave the rows was published; UTC without a zone, like `newest`."""
    newest: reactive[datetime | None] = reactive(None)
    """When the database was published last."""
    position: reactive[str] = reactive("")
    """Where the cursor is in the rows."""

    def render(self) -> Text:
        """Put the parts on one line."""
        parts = [self.text]
        if self.read is not None:
            parts.append(Text(f"as of {self.read:%H:%M:%S} UTC"))
            if self.newest is not None and self.newest > self.read:
                parts[-1].append(" (newer are there: run again)", "bold")
        if self.position:
            parts.append(Text(self.position))
        return Text(" · ").join(parts)

    def show(self, text: Text, read: datetime | None = None) -> None:
        """Show another text, and the publication of its rows."""
        self.text, self.read, self.position = text, read, ""

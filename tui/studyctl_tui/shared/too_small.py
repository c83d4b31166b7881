"""What a terminal shows that is too small for a screen."""

from textual.app import ComposeResult
from textual.screen import ModalScreen
from textual.widgets import Static


class TooSmallScreen(ModalScreen[None]):
    """Says what it needs; gone as soon as there is room."""

    def __init__(self, columns: int, rows: int) -> None:
        super().__init__()
        self._columns, self._rows = columns, rows

    def compose(self) -> ComposeResult:
        """Yield the sentence."""
        yield Static(classes="too-small")

    def on_mount(self) -> None:
        """Say how large it is."""
        self._say()

    def on_resize(self) -> None:
        """Leave when there is room."""
        if self.app.size.width < self._columns or self.app.size.height < self._rows:
            self._say()
        elif self.is_current:
            self.dismiss()

    def _say(self) -> None:
        self.query_one(Static).update(
            f"This screen needs {self._columns} × {self._rows} characters; the terminal has "
            f"{self.app.size.width} × {self.app.size.height}. Make it larger, or q to leave."
        )

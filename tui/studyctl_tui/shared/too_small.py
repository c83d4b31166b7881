"""The message of a terminal that is too small."""

from textual.app import ComposeResult
from textual.geometry import Size
from textual.screen import ModalScreen
from textual.widgets import Static

COLUMNS, ROWS = 80, 20


def too_small(size: Size) -> bool:
    """Whether a terminal is too small for the app."""
    return size.width < COLUMNS or size.height < ROWS


class TooSmallScreen(ModalScreen[None]):
    """Says what the app needs; gone as soon as there is room."""

    def compose(self) -> ComposeResult:
        """Yield the sentence."""
        yield Static(classes="too-small")

    def on_mount(self) -> None:
        """Say how large it is."""
        self.on_resize()

    def on_resize(self) -> None:
        """Leave when there is room."""
        size = self.app.size
        if too_small(size):
            self.query_one(Static).update(
                f"This screen needs {COLUMNS} × {ROWS} characters; the terminal has "
                f"{size.width} × {size.height}. Make it larger, or q to leave."
            )
        elif self.is_current:
            self.dismiss()

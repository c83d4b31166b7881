"""The message of a terminal that is too small."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.geometry import Size
from textual.screen import ModalScreen
from textual.widgets import Static

COLUMNS, ROWS = 60, 16


def too_small(size: Size) -> bool:
    """Whether a terminal is too small for the app."""
    return size.width < COLUMNS or size.height < ROWS


class TooSmallScreen(ModalScreen[None]):
    """Says what the app needs; gone as soon as there is room, or when one wants to see what fits."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape", "dismiss", "Show what fits"),
        ("q", "app.leave", "Quit"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._leaves = False

    def compose(self) -> ComposeResult:
        """Yield the sentence."""
        yield Static(classes="too-small")

    def on_screen_resume(self) -> None:
        """See how large it is now, also after a dialog in front of it or another screen."""
        self.on_resize()

    def on_resize(self) -> None:
        """Leave when there is room."""
        size = self.app.size
        if too_small(size):
            self.query_one(Static).update(
                f"This screen needs {COLUMNS} × {ROWS} characters; the terminal has {size.width} × {size.height}. "
                "Make it larger; esc shows what fits, q leaves."
            )
        elif self.is_active and not self._leaves:
            self._leaves = True  # a second resize may come before it is gone
            self.dismiss()

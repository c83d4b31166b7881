"""A question that is answered by typing."""

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.widgets import Input, Static

from studyctl_tui.shared.dialogs import Dialog


class InputScreen(Dialog[str]):
    """A line to type; escape answers with an empty text."""

    DEFAULT_CSS = """
    InputScreen Input { margin-top: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss('')", "Cancel")]

    def __init__(self, question: str, value: str = "", restrict: str | None = None) -> None:
        super().__init__()
        self._question, self._value, self._restrict = question, value, restrict

    def compose(self) -> ComposeResult:
        """Yield question and line."""
        with Vertical(classes="dialog"):
            yield Static(Text(self._question))
            yield Input(self._value, restrict=self._restrict, compact=True)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Answer with what was typed."""
        self.dismiss(event.value.strip())

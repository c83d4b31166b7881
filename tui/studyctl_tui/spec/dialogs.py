"""Questions that the editor asks."""

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option


class ChoiceScreen(ModalScreen[str]):
    """A question with a few answers, each with a letter; escape answers with an empty text."""

    DEFAULT_CSS = """
    ChoiceScreen { align: center middle; }
    ChoiceScreen Vertical { width: 70; }
    ChoiceScreen OptionList { height: auto; border: none; margin-top: 1; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss('')", "Cancel")]

    def __init__(self, question: str, answers: Sequence[tuple[str, str]]) -> None:
        """Prepare the question.

        Args:
            question: what is asked.
            answers: a letter and what it does; the first is the one that enter gives.
        """
        super().__init__()
        self._question = question
        self._answers = (*answers, ("", "cancel"))

    def compose(self) -> ComposeResult:
        """Yield question and answers."""
        with Vertical(classes="dialog"):
            yield Static(Text(self._question))
            yield OptionList(*(Option(_answer(*answer)) for answer in self._answers), compact=True)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Answer with what was chosen."""
        self.dismiss(self._answers[event.option_index][0])

    def on_key(self, event: events.Key) -> None:
        """Answer with a letter."""
        if event.key in [letter for letter, _ in self._answers]:
            event.stop()
            self.dismiss(event.key)


def _answer(letter: str, words: str) -> Text:
    return Text.assemble((f"{letter or 'esc':>3}", "bold"), f"  {words}")


class InputScreen(ModalScreen[str]):
    """A line to type; escape answers with an empty text."""

    DEFAULT_CSS = """
    InputScreen { align: center middle; }
    InputScreen Vertical { width: 70; }
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

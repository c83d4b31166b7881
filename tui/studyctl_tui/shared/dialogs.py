"""What all dialogs share, one that is a text and a list of choices, and one that is a line to type."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice of a dialog, by its key or from the list."""

    key: str
    text: str
    answer: str


CLOSE = Choice("escape", "Close", "")


T = TypeVar("T")


class Dialog(ModalScreen[T]):
    """A frame in the middle of the screen, the container ``.dialog``: as wide as most sentences, and as high as its content."""

    DEFAULT_CSS = """
    Dialog { align: center middle; }
    Dialog .dialog {
        width: 76; max-width: 95%; height: auto; max-height: 95%;
        padding: 1 2; border: round $primary; background: $surface;
    }
    """


class Ask(Dialog[str]):
    """Shows a text and a list of choices; returns the answer of the chosen one, empty if none was chosen."""

    DEFAULT_CSS = """
    Ask .title { dock: top; height: auto; padding-bottom: 1; text-style: bold; background: $surface; }
    Ask OptionList { dock: bottom; height: auto; padding: 1 0 0 0; background: $surface; }
    Ask OptionList, Ask OptionList:focus { border: none; }
    """
    AUTO_FOCUS = "OptionList"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "dismiss('')", "Close"),
        Binding("pagedown", "read(1)", "Read on", priority=True),
        Binding("pageup", "read(-1)", "Read back", priority=True),
    ]

    def __init__(self, title: str, body: Text, choices: Sequence[Choice]) -> None:
        super().__init__()
        self._title, self._body, self._choices = title, body, [*choices, CLOSE]

    def compose(self) -> ComposeResult:
        """Yield title, text and choices."""
        with VerticalScroll(classes="dialog"):
            yield Static(self._title, classes="title", markup=False)
            yield Static(self._body, id="body")
            yield OptionList(*self._options())

    def _options(self) -> list[Option]:
        keys = ["esc" if choice is CLOSE else choice.key for choice in self._choices]
        return [
            Option(Text.assemble((f"{key:4}", "bold"), choice.text), id=choice.answer or None)
            for key, choice in zip(keys, self._choices, strict=True)
        ]

    def show(self, body: Text, choices: Sequence[Choice]) -> None:
        """Show another text with other choices."""
        self._choices = [*choices, CLOSE]
        self.query_one("#body", Static).update(body)
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options(self._options())
        options.highlighted = 0

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option_id or "")

    def on_key(self, event: events.Key) -> None:
        """Take the key of a choice."""
        for choice in self._choices:
            if choice.answer and event.key == choice.key:
                event.stop()
                self.dismiss(choice.answer)

    def action_read(self, pages: int) -> None:
        """Scroll a long text by pages."""
        text = self.query_one(VerticalScroll)
        text.scroll_relative(y=pages * text.size.height, animate=False)


class InputScreen(Dialog[str | None]):
    """A line to type; returns it, or None after escape."""

    DEFAULT_CSS = """
    InputScreen Input { margin-top: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss", "Cancel")]

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

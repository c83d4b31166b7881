"""Choosing a query: a ready one, or one from the history."""

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from studyctl.store.questions import Question
from studyctl_tui.shared.dialogs import Dialog


class PickDialog(Dialog[tuple[str, bool] | None]):
    """A list with a filter, and an explanation below; returns the chosen query and whether to run it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Close"),
        Binding("enter", "choose(True)", "Run it", priority=True),
        Binding("ctrl+e", "choose(False)", "Put it in to change it", priority=True),
        Binding("down", "move('cursor_down')", "Down", show=False, priority=True),
        Binding("up", "move('cursor_up')", "Up", show=False, priority=True),
        Binding("pagedown", "move('page_down')", "Page down", show=False, priority=True),
        Binding("pageup", "move('page_up')", "Page up", show=False, priority=True),
    ]
    DEFAULT_CSS = """
    PickDialog .dialog { width: 94%; max-width: 110; height: 94%; max-height: 40; padding: 0 1; }
    PickDialog Input { background: $panel; }
    PickDialog OptionList {
        height: 1fr; border: none; background: $surface; padding: 0; scrollbar-size: 1 1;
        text-wrap: nowrap; text-overflow: ellipsis;
    }
    PickDialog .about { height: auto; min-height: 3; max-height: 40%; border-top: solid $panel; color: $foreground; }
    PickDialog .keys { height: 1; color: $text-muted; }
    """

    def __init__(self, title: str, choices: Sequence[Question]) -> None:
        super().__init__()
        self._heading, self._choices = title, choices
        self._left = list(choices)

    def compose(self) -> ComposeResult:
        """Yield filter, list and explanation."""
        with Vertical(classes="dialog"):
            yield Static(Text(self._heading, style="bold"))
            yield Input(placeholder="type to filter", compact=True)
            yield OptionList()
            yield Static(classes="about", markup=False)
            yield Static("enter runs it · ctrl+e puts it in to change it · esc closes", classes="keys")

    def on_mount(self) -> None:
        """Show all of them."""
        self.query_one(OptionList).can_focus = False
        self._fill()

    @on(Input.Changed)
    def _filter(self, event: Input.Changed) -> None:
        words = event.value.lower().split()
        self._left = [
            choice
            for choice in self._choices
            if all(word in f"{choice.title} {choice.about} {choice.sql}".lower() for word in words)
        ]
        self._fill()

    def _fill(self) -> None:
        choices = self.query_one(OptionList)
        choices.clear_options()
        choices.add_options(
            [Option(Text(choice.title, no_wrap=True, overflow="ellipsis")) for choice in self._left]
        )
        if self._left:
            choices.highlighted = 0
        else:
            self._explain("nothing holds all of these words" if self._choices else "nothing was asked yet")

    @on(OptionList.OptionHighlighted)
    def _highlighted(self, event: OptionList.OptionHighlighted) -> None:
        choice = self._left[event.option_index]
        self._explain(f"{choice.about}\n{choice.sql}")

    @on(OptionList.OptionSelected)
    def _clicked(self, event: OptionList.OptionSelected) -> None:
        self.dismiss((self._left[event.option_index].sql, True))

    def _explain(self, text: str) -> None:
        self.query_one(".about", Static).update(text)

    def action_move(self, how: str) -> None:
        """Move in the list while the filter keeps the keys."""
        getattr(self.query_one(OptionList), f"action_{how}")()

    def action_choose(self, run: bool) -> None:
        """Take the query at the cursor."""
        at = self.query_one(OptionList).highlighted
        if self._left and at is not None:
            self.dismiss((self._left[at].sql, run))

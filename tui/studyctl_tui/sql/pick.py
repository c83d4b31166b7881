"""Choosing a query from a list."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from studyctl.sql.questions import Question
from studyctl_tui.shared.dialogs import Dialog


class Picked(NamedTuple):
    """The query that was chosen."""

    sql: str
    run: bool
    """Whether to run it, or only to put it into the editor."""
    name: str
    """Under which it is saved; empty: it is not."""


class PickDialog(Dialog[Picked | None]):
    """A list with a filter, and an explanation below."""

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

    def __init__(
        self, title: str, choices: Sequence[Question], keys: str = "enter run · ctrl+e edit · esc close"
    ) -> None:
        super().__init__()
        self._heading, self._choices, self._keys = title, choices, keys
        self._left = list(choices)

    def compose(self) -> ComposeResult:
        """Yield filter, list and explanation."""
        with Vertical(classes="dialog"):
            yield Static(Text(self._heading, style="bold"))
            yield Input(placeholder="type to filter", compact=True)
            yield OptionList()
            yield Static(classes="about", markup=False)
            yield Static(self._keys, classes="keys")

    def on_mount(self) -> None:
        """Show all of them."""
        self.query_one(OptionList).can_focus = False
        self._fill()

    def prompt(self, choice: Question) -> Text:
        """Return the line of a choice."""
        return Text(choice.title)

    def name_of(self, choice: Question) -> str:
        """Return the name under which a choice is saved; empty: it is not."""
        return ""

    @property
    def chosen(self) -> Question | None:
        """The choice at the cursor."""
        at = self.query_one(OptionList).highlighted
        return self._left[at] if self._left and at is not None else None

    def offer(self, choices: Sequence[Question]) -> None:
        """Show other choices; the cursor stays on its own, unless it is the first."""
        at, chosen = self.query_one(OptionList).highlighted, self.chosen
        self._choices = choices
        self._filter()
        if at and chosen in self._left:
            self.query_one(OptionList).highlighted = self._left.index(chosen)

    @on(Input.Changed)
    def _filter(self) -> None:
        words = self.query_one(Input).value.lower().split()
        self._left = [
            choice
            for choice in self._choices
            if all(word in f"{choice.title} {choice.about} {choice.sql}".lower() for word in words)
        ]
        self._fill()

    def _fill(self) -> None:
        choices = self.query_one(OptionList)
        choices.clear_options()
        choices.add_options([Option(self._line(choice)) for choice in self._left])
        if self._left:
            choices.highlighted = 0
        else:
            self._explain("nothing holds all of these words" if self._choices else "nothing was asked yet")

    def _line(self, choice: Question) -> Text:
        line = self.prompt(choice)
        line.no_wrap, line.overflow = True, "ellipsis"
        return line

    @on(OptionList.OptionHighlighted)
    def _highlighted(self, event: OptionList.OptionHighlighted) -> None:
        choice = self._left[event.option_index]
        self._explain(f"{choice.about}\n{choice.sql}")

    @on(OptionList.OptionSelected)
    def _clicked(self, event: OptionList.OptionSelected) -> None:
        self._take(self._left[event.option_index], run=True)

    def _explain(self, text: str) -> None:
        self.query_one(".about", Static).update(text)

    def action_move(self, how: str) -> None:
        """Move in the list while the filter keeps the keys."""
        getattr(self.query_one(OptionList), f"action_{how}")()

    def action_choose(self, run: bool) -> None:
        """Take the query at the cursor."""
        if (choice := self.chosen) is not None:
            self._take(choice, run=run)

    def _take(self, choice: Question, *, run: bool) -> None:
        self.dismiss(Picked(choice.sql, run, self.name_of(choice)))

"""Two dialogs about trials: why one failed, and whether a run shall stop."""

from typing import ClassVar, Literal

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from studyctl.run.control import StopWhen
from studyctl.store.live import TrialDetail
from studyctl_tui.shared.topbar import GLYPHS

Wish = Literal["retry", "log"]
"""What a person wants to do about a failure."""


class CauseScreen(ModalScreen[Wish | None]):
    """Tells why a trial failed, in full, and what to do."""

    DEFAULT_CSS = """
    CauseScreen { align: center middle; }
    CauseScreen > VerticalScroll { min-width: 64; }
    CauseScreen .keys { margin-top: 1; color: $text-muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,exclamation_mark,enter", "dismiss", "Close"),
        Binding("y", "copy", "Copy"),
        Binding("r", "wish('retry')", "Try again"),
        Binding("l", "wish('log')", "Log"),
    ]

    def __init__(self, detail: TrialDetail) -> None:
        super().__init__()
        self._detail = detail

    def compose(self) -> ComposeResult:
        """Yield the story."""
        trial, detail = self._detail.trial, self._detail
        with VerticalScroll(classes="dialog"):
            yield Static(Text.assemble((f"{GLYPHS['failed']} {trial.trial}", "bold"), f"  {_cause(detail)}"))
            for one in detail.steps:
                if one.error is not None:
                    yield Static(Text.assemble((f"\n{one.step}: ", "bold"), one.error))
            if not any(one.error is not None for one in detail.steps):
                yield Static(Text(f"\n{trial.error or 'no error was recorded'}"))
            if detail.hint:
                yield Static(Text.assemble(("\nhint: ", "bold"), detail.hint))
            yield Static("y copy   r try again   l log   esc close", classes="keys", markup=False)

    def action_copy(self) -> None:
        """Copy the error."""
        self.app.copy_to_clipboard(error_text(self._detail))
        self.notify("the error was copied")

    def action_wish(self, wish: Wish) -> None:
        """Close and say what to do."""
        self.dismiss(wish)


def _cause(detail: TrialDetail) -> str:
    return (detail.cause or "error").replace("_", " ")


def error_text(detail: TrialDetail) -> str:
    """Return a failure as text for an issue or a mail."""
    trial = detail.trial
    lines = [f"{trial.trial}: {_cause(detail)}"]
    lines += [f"{one.step}: {one.error}" for one in detail.steps if one.error is not None]
    if len(lines) == 1 and trial.error:
        lines.append(trial.error)
    return "\n".join([*lines, *([f"hint: {detail.hint}"] if detail.hint else [])])


class StopScreen(ModalScreen[StopWhen | None]):
    """Asks whether a run shall stop, and how soon."""

    DEFAULT_CSS = """
    StopScreen { align: center middle; }
    StopScreen > VerticalScroll { min-width: 60; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,n,q", "dismiss", "No"),
        Binding("enter,y", "answer", "Yes"),
        Binding("x", "answer('after_step')", "After the running stages"),
        Binding("X", "answer('now')", "At once"),
    ]

    def __init__(self, study: str, running: int, when: StopWhen) -> None:
        super().__init__()
        self._study, self._under_way, self._when = study, running, when

    def compose(self) -> ComposeResult:
        """Yield the question."""
        stages = "the running stage" if self._under_way < 2 else f"the {self._under_way} running stages"
        ways: dict[StopWhen, str] = {
            "after_step": f"x  after {stages}",
            "now": f"X  at once; {stages} will be run again",
        }
        with VerticalScroll(classes="dialog"):
            yield Static(Text.assemble("Stop ", (self._study, "bold"), "? What was measured stays stored.\n"))
            for when, way in ways.items():
                yield Static(f"{'enter, ' if when == self._when else ' ' * 7}{way}", markup=False)
            yield Static(f"{'esc':>8}  let it run", markup=False)

    def action_answer(self, when: StopWhen | None = None) -> None:
        """Close with an answer; without one, with what was asked for."""
        self.dismiss(when or self._when)

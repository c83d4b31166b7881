"""What a spec would run, and what that takes."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from studyctl.report.console import TextConsole

if TYPE_CHECKING:
    from studyctl.plan.preview import Preview


class PlanPane(VerticalScroll, can_focus=True):
    """The plan in the words of ``studyctl plan``."""

    DEFAULT_CSS = """
    PlanPane { height: 1fr; padding: 0 1; background: $background; scrollbar-size-vertical: 1; & Static { height: auto; } }
    """

    def __init__(self) -> None:
        super().__init__(id="plan")
        self._preview: Preview | None = None

    def compose(self) -> ComposeResult:
        """Yield the text."""
        yield Static(markup=False)

    def say(self, text: str) -> None:
        """Say why there is no plan."""
        self._preview = None
        self.query_one(Static).update(Text(text))

    def show(self, preview: "Preview") -> None:
        """Draw a plan."""
        from studyctl.report.plan import draw_plan  # with all that plans: the first screen does without

        if preview.errors:
            self.say("fix the problems first: as it is, nothing can run")
            return
        self._preview = preview
        nowhere = TextConsole(file=io.StringIO())  # for its problems
        width = max(40, self.scrollable_content_region.width)
        self.query_one(Static).update(printed(lambda console: draw_plan(preview, console, nowhere), width))

    def on_resize(self) -> None:
        """Draw the table for the new width."""
        if self._preview is not None:
            self.show(self._preview)


def printed(draw: Callable[[Console], object], width: int) -> Text:
    """Return what a function prints on a console of this width."""
    console = TextConsole(file=io.StringIO(), width=width, force_terminal=True, color_system="standard")
    with console.capture() as captured:
        draw(console)
    return Text.from_ansi(captured.get().rstrip())

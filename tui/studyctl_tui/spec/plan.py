"""What a spec would run, and what that takes."""

import io
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

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
        self._preview = preview
        self.query_one(Static).update(plan_text(preview, max(40, self.scrollable_content_region.width)))

    def on_resize(self) -> None:
        """Draw the table for the new width."""
        if self._preview is not None:
            self.show(self._preview)


def plan_text(preview: "Preview", width: int) -> Text:
    """Return what ``studyctl plan`` prints of a plan, without its problems."""
    from studyctl.report.plan import draw_plan  # with all that plans: the first screen does without

    if preview.errors:
        return Text("mend the problems first: as it is, nothing can run")
    out = Console(
        file=io.StringIO(), width=width, force_terminal=True, color_system="standard", highlight=False
    )
    with out.capture() as captured:
        draw_plan(preview, out, Console(file=io.StringIO()))
    return Text.from_ansi(captured.get().rstrip())

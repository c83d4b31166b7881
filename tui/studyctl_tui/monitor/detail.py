"""Everything about the selected trial, on five pages."""

import asyncio
from pathlib import Path
from typing import ClassVar

from textual import events, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from studyctl_tui.monitor.cells import TrialView
from studyctl_tui.monitor.layers import layers
from studyctl_tui.monitor.log import LogTail, log_lines, read_tail
from studyctl_tui.monitor.pages import READING, languages, overview, tasks
from studyctl_tui.shared.lines import LinesView

PAGES = ("Overview", "Languages", "Tasks", "Layers", "Log")
GAP = 2


class DetailPane(Vertical):
    """Shows one page about a trial."""

    DEFAULT_CSS = """
    DetailPane { height: 1fr; width: 1fr; }
    DetailPane > .pages { height: 1; background: $panel; }
    DetailPane > LinesView { height: 1fr; padding: 0 0 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "turn(-1)", "Page before", show=False),
        Binding("right", "turn(1)", "Next page", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.page = PAGES[0]
        self._shown: TrialView | None = None
        self._log: LogTail | None = None
        self._lines = LinesView()
        self._bar = Static(classes="pages", markup=False)

    def compose(self) -> ComposeResult:
        """Yield the bar of pages and the text."""
        yield self._bar
        yield self._lines

    def take(self, shown: TrialView | None) -> None:
        """Show a trial as it is now; None: none is selected."""
        before, self._shown = self._shown, shown
        if (shown and shown.trial.trial) != (before and before.trial.trial):
            self._log = None
            self._lines.restart()
            self._draw_bar()
        self._draw()

    def turn_to(self, page: str) -> None:
        """Show another page."""
        if page != self.page:
            self.page = page
            self._lines.restart()
            self._draw_bar()
            self._draw()

    def action_turn(self, by: int) -> None:
        """Go through the pages."""
        self.turn_to(PAGES[(PAGES.index(self.page) + by) % len(PAGES)])

    def on_resize(self) -> None:
        """Draw for the new width."""
        self._draw_bar()
        self._draw()

    def on_click(self, event: events.Click) -> None:
        """Turn to the page whose name was clicked."""
        if event.widget is self._bar:
            at = 1
            for page in PAGES:
                if at <= event.x < at + len(page):
                    self.turn_to(page)
                at += len(page) + GAP

    # -- drawing

    def _draw_bar(self) -> None:
        parts: list[str | tuple[str, str]] = [" "]
        for page in PAGES:
            parts.append((page, "bold reverse") if page == self.page else page)
            parts.append(" " * GAP)
        name = self._shown.trial.trial if self._shown is not None else ""
        room = self.size.width - sum(len(page) + GAP for page in PAGES) - 2
        if room > 8 and name:
            name = name if len(name) <= room else f"…{name[1 - room :]}"
            parts.append((f"{name:>{room}}", "dim"))
        self._bar.update(Content.assemble(*parts), layout=False)

    def _draw(self) -> None:
        shown, width = self._shown, self._lines.room - 1
        if width < 1:
            return
        if shown is None:
            self._lines.show([])
        elif self.page == "Overview":
            self._lines.show(overview(shown, width))
        elif shown.detail is None:
            self._lines.show([READING])
        elif self.page == "Log":
            self._draw_log(shown.detail.log)
        elif self.page == "Layers":
            self._lines.show(*layers(shown.detail, width))
        else:
            self._lines.show((languages if self.page == "Languages" else tasks)(shown.detail, width))

    def _draw_log(self, path: Path | None) -> None:
        if path is None:
            self._lines.show([Content.styled("it was not run yet", "dim")])
            return
        if self._log is None or self._log.path != path:
            self._log = LogTail(path, None, trouble="reading …")
        self._show_log(self._log)
        self._read_log(self._log)

    def _show_log(self, log: LogTail) -> None:
        lines = log_lines(log, self._lines.room - 1)
        self._lines.show(lines, len(lines) - 1)

    @work(exclusive=True, group="log")
    async def _read_log(self, before: LogTail) -> None:
        tail = await asyncio.to_thread(read_tail, before.path, before)
        if tail is not before and self._log is not None and self._log.path == tail.path:
            self._log = tail
            if self.page == "Log":
                self._show_log(tail)

"""Monitor: the trials of a study as they run, and everything about one of them."""

from typing import TYPE_CHECKING, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.content import Content
from textual.timer import Timer
from textual.widgets import Static
from typing_extensions import override

from studyctl.files import StudyPaths
from studyctl_tui.monitor.acts import ACTS, TrialActs
from studyctl_tui.monitor.banner import banner
from studyctl_tui.monitor.cells import Row
from studyctl_tui.monitor.detail import DetailPane
from studyctl_tui.monitor.lines import LinesView
from studyctl_tui.monitor.pages import Shown
from studyctl_tui.monitor.table import TrialsTable
from studyctl_tui.monitor.table_pane import TrialsPane
from studyctl_tui.shared.view import View

if TYPE_CHECKING:  # they jump back here
    from studyctl_tui.compare.screen import CompareScreen
    from studyctl_tui.spec.screen import SpecScreen
    from studyctl_tui.sql.screen import SqlScreen

BESIDE = 120
"""Columns from which on the details stand beside the table."""
PATIENCE_SECONDS = 0.15
"""How long the cursor rests on a trial before its details are read: a held key asks once, at its end."""


class MonitorScreen(TrialActs):
    """The trials of the open study."""

    NAME = "Monitor"
    ABOUT = "The trials of the study as they run, and everything about the selected one."
    DEFAULT_CSS = """
    MonitorScreen .banner { height: auto; padding: 0 1; display: none; color: $warning; text-style: bold; }
    MonitorScreen .banner.-said { display: block; }
    MonitorScreen .split { height: 1fr; layout: vertical; }
    MonitorScreen TrialsPane { height: 45%; min-height: 4; }
    MonitorScreen.-beside .split { layout: horizontal; }
    MonitorScreen.-beside TrialsPane { height: 1fr; width: 60%; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/", priority=True),
        Binding("s", "sort", "Sort"),
        Binding("S", "flip", "Sort the other way round", show=False),
        Binding("f", "follow", "Follow"),
        Binding("space", "mark", "Mark"),
        Binding("c", "compare", "Compare the marked trials", show=False),
        *ACTS,
        Binding("enter", "enter", "Into the details", show=False),
        Binding("escape", "leave", "Back to the table, clear the filter", show=False),
        Binding("left_square_bracket", "turn(-1)", "Page before", show=False, key_display="["),
        Binding("right_square_bracket", "turn(1)", "Next page", show=False, key_display="]"),
        Binding("l", "log", "Log of the trial", show=False),
        Binding("e", "spec", "Its lines in the spec", show=False),
        Binding("o", "sql", "Its rows as SQL", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._paths: StudyPaths | None = None
        self._trials = TrialsPane()
        self._pane = DetailPane()
        self._banner = Static(classes="banner", markup=False)
        self._said: Content | None = None
        self._lines: int | None = None
        self._waiting: Timer | None = None
        self._wanted: str | None = None
        """Trial to select when the study is there."""

    @override
    def compose_body(self) -> ComposeResult:
        yield self._banner
        with Container(classes="split"):
            yield self._trials
            yield self._pane

    def on_mount(self) -> None:
        """Begin in the table."""
        self._trials.table.focus()

    # -- the view

    @override
    def show_view(self, view: View) -> None:
        if view.paths != self._paths:
            self._paths = view.paths
            self._trials.reset()
        self._trials.note = "R goes on" if _rests(view) else ""
        self._trials.take(view)
        self._fit()
        if self._wanted is not None and self._trials.show(self._wanted):
            self._wanted = None
        self._show_banner(view)
        self._show_detail()
        if self._waiting is None:
            self._ask()

    def on_resize(self) -> None:
        """Divide the screen anew."""
        self.set_class(self.size.width >= BESIDE, "-beside")
        self._fit()

    def _fit(self) -> None:
        """Above each other, the table takes no more lines than it has trials."""
        lines = None if self.size.width >= BESIDE else len(self._trials.table.list.trials) + 2
        if lines != self._lines:
            self._lines = lines
            self._trials.styles.max_height = lines

    def _show_banner(self, view: View) -> None:
        said = banner(view)
        if said != self._said:
            self._said = said
            self._banner.set_class(bool(said), "-said")
            self._banner.update(said)

    def _show_detail(self) -> None:
        row = self.row
        self._pane.take(None if row is None else Shown(row.trial, row.standing, self.detail))

    @property
    @override
    def row(self) -> Row | None:
        trials = self._trials.table.list
        return trials.get(trials.selected)

    @on(TrialsTable.Selected)
    def _selected(self, event: TrialsTable.Selected) -> None:
        if event.by_hand:
            self._trials.chosen_by_hand()
        self._show_detail()
        if self._waiting is not None:
            self._waiting.stop()
            self._waiting = None
        view = self.study_app.view
        if view is None or view.detail is None:
            self._ask()
        else:
            self._waiting = self.set_timer(PATIENCE_SECONDS, self._ask)

    def _ask(self) -> None:
        """Ask for the details of the selected trial."""
        self._waiting = None
        self.study_app.select(self._trials.table.list.selected)

    # -- others come here

    def go_to(self, trial: str) -> None:
        """Select a trial."""
        self._wanted = None if self._trials.show(trial) else trial

    # -- keys

    def action_filter(self) -> None:
        """Type a filter."""
        self._trials.edit_filter()

    def action_sort(self) -> None:
        """Sort by the next column."""
        self._trials.next_sort()

    def action_flip(self) -> None:
        """Sort the other way round."""
        self._trials.flip_sort()

    def action_follow(self) -> None:
        """Follow the running trial."""
        self._trials.toggle_follow()

    def action_mark(self) -> None:
        """Mark the selected trial."""
        self._trials.toggle_mark()

    def action_enter(self) -> None:
        """Go into the details."""
        self._pane.query_one(LinesView).focus()

    def action_leave(self) -> None:
        """Go back to the table; there, clear the filter."""
        if self._trials.table.has_focus or not isinstance(self.focused, LinesView):
            self._trials.clear_filter()
        self._trials.table.focus()

    def action_turn(self, by: int) -> None:
        """Turn the page of the details."""
        self._pane.action_turn(by)

    def action_log(self) -> None:
        """Show what the trial printed."""
        self.show_log()

    @override
    def show_log(self) -> None:
        self._pane.turn_to("Log")

    async def action_compare(self) -> None:
        """Compare the marked trials."""
        if not (marked := self._trials.table.list.marked):
            self.notify("mark trials with space, then c compares them")
            return
        await self.app.switch_mode("compare")
        cast("CompareScreen", self.app.screen).mark(marked)

    async def action_spec(self) -> None:
        """Go to the lines of the spec that make the trial."""
        if (row := self.row) is not None:
            await self.app.switch_mode("spec")
            cast("SpecScreen", self.app.screen).go_to(row.trial.variant)

    async def action_sql(self) -> None:
        """Ask for the rows of the trial."""
        if (row := self.row) is not None:
            await self.app.switch_mode("sql")
            cast("SqlScreen", self.app.screen).ask_about(row.trial.trial)


def _rests(view: View) -> bool:
    """Tell whether there is something to do and nobody who does it."""
    snapshot = view.snapshot
    return not snapshot.running and any(trial.state != "done" for trial in snapshot.trials)

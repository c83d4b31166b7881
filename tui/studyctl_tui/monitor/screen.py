"""Monitor: the trials of a study as they run, and everything about one of them."""

from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.content import Content
from textual.timer import Timer
from textual.widgets import Static
from typing_extensions import override

from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl_tui.compare.data import Comparison, read_comparison
from studyctl_tui.monitor.acts import TrialActs
from studyctl_tui.monitor.detail import DetailPane
from studyctl_tui.monitor.heat import HeatPane
from studyctl_tui.monitor.now import NowPane
from studyctl_tui.monitor.table import TrialsTable
from studyctl_tui.monitor.workers import worker_lines
from studyctl_tui.shared.lines import LinesView
from studyctl_tui.shared.view import View

if TYPE_CHECKING:  # they jump back here
    from studyctl_tui.spec.screen import SpecScreen
    from studyctl_tui.sql.screen import SqlScreen

WIDE = 120
"""Columns from which on the details are to the right of the table."""
LEAST_DETAILS = 18
"""Lines of the details that are not given up for what happens now."""
LEAST_NOW, MOST_NOW = 6, 20
"""Lines that it needs, and that it takes."""
PATIENCE_SECONDS = 0.15
"""How long the cursor rests on a trial before its details are read: a held key reads them only once, at the end."""


class MonitorScreen(TrialActs):
    """The trials of the open study, and the details of the selected one."""

    NAME = "Monitor"
    ABOUT = "The trials of the study as they run, and everything about the selected one."
    DEFAULT_CSS = """
    MonitorScreen .banner { height: auto; padding: 0 1; display: none; color: $warning; text-style: bold; }
    MonitorScreen .workers { height: auto; padding: 0 1; display: none; color: $text-muted; }
    MonitorScreen .split { height: 1fr; layout: vertical; }
    MonitorScreen .left { height: 45%; min-height: 4; }
    MonitorScreen .trials { height: 1fr; }
    MonitorScreen .right { height: 1fr; width: 1fr; }
    MonitorScreen.-wide .split { layout: horizontal; }
    MonitorScreen.-wide .left { height: 1fr; width: 60%; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
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
        self.pane = DetailPane()
        self.heat = HeatPane()
        self.now = NowPane()
        self._compared: tuple[object, ...] = ()
        """Study, publication and model that the heat maps were asked for."""
        self._banner = Static(classes="banner", markup=False)
        self._workers = Static(classes="workers", markup=False)
        self._most_lines: tuple[int | None, int | None] | None = None
        self._patience: Timer | None = None

    @override
    def compose_body(self) -> ComposeResult:
        yield self._banner
        yield self._workers
        with Container(classes="split"):
            with Vertical(classes="left"):
                yield from super().compose_body()
                yield self.heat
            with Vertical(classes="right"):
                yield self.pane
                yield self.now

    def on_mount(self) -> None:
        """Begin in the table."""
        self.table.focus()

    # -- the view

    @override
    def show_view(self, view: View) -> None:
        super().show_view(view)
        self._fit()
        if (message := banner(view)) != self._banner.content:
            self._banner.display = bool(message)
            self._banner.update(message)
        workers = worker_lines(
            view.snapshot.runner if view.snapshot.running else None, max(1, self.size.width - 2)
        )
        if workers != self._workers.content:
            self._workers.display = bool(workers)
            self._workers.update(workers)
        self.pane.take(self.row)
        self.now.draw(view)
        self._compare(view)
        if self._patience is None:
            self._ask()

    def on_resize(self) -> None:
        """Divide the screen again."""
        self.set_class(self.size.width >= WIDE, "-wide")
        self._fit()

    def _fit(self) -> None:
        """Give the table no more lines than it has trials if the details, or heat maps, are below it."""
        needed, is_wide = len(self.trials.trials) + 2, self.size.width >= WIDE
        free = self.query_one(".split").size.height - needed if is_wide else 0
        has_heat = self.heat.fit(self.query_one(".left").size.width, free)
        right = self.query_one(".right").size
        free = right.height - LEAST_DETAILS
        self.now.fit(right.width, min(MOST_NOW, free) if free >= LEAST_NOW else 0)
        lines = (None if is_wide else needed, needed if has_heat else None)
        if lines != self._most_lines:  # setting a style lays the screen out again, whatever it was
            self._most_lines = lines
            for place, most in zip((".left", ".trials"), lines, strict=True):
                self.query_one(place).styles.max_height = most

    def _compare(self, view: View) -> None:
        """Ask for the heat maps of the selected trial's model, if there is something new to read."""
        row = self.row
        if row is None or not view.published_at or self.size.width < WIDE:
            return
        asked = (view.paths, view.published_at, row.trial.model)
        if asked != self._compared:
            self._compared = asked
            self._read_comparison(view.paths, row.trial.model)

    @work(thread=True, exclusive=True, group="heat")
    def _read_comparison(self, paths: StudyPaths, model: str) -> None:
        """Read the published results in a thread; what is wrong with them the view says."""
        with suppress(StudyError):
            comparison = read_comparison(paths, model)
            self.app.call_from_thread(self._show_comparison, comparison)

    def _show_comparison(self, comparison: Comparison) -> None:
        self.heat.show(comparison)
        self._fit()

    @on(TrialsTable.Selected)
    def _show_selected(self) -> None:
        self.pane.take(self.row)
        if self.trials.selected is not None:
            self.heat.point_at(self.trials.selected)
        if self._patience is not None:
            self._patience.stop()
            self._patience = None
        view = self.study_app.view
        if view is None or view.detail is None:
            self._ask()
        else:
            self._patience = self.set_timer(PATIENCE_SECONDS, self._ask)

    def _ask(self) -> None:
        """Request the details of the selected trial."""
        self._patience = None
        self.study_app.select(self.trials.selected)

    # -- keys

    def action_enter(self) -> None:
        """Go into the details."""
        self.pane.query_one(LinesView).focus()

    def action_leave(self) -> None:
        """Go back to the table; there, clear the filter."""
        if not isinstance(self.focused, LinesView):
            self._clear_filter()
        self.table.focus()

    def action_turn(self, by: int) -> None:
        """Turn the page of the details."""
        self.pane.action_turn(by)

    @override
    def action_log(self) -> None:
        self.pane.turn_to("Log")

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


def banner(view: View) -> Content:
    """Return the most important messages, one per line; empty if all is well."""
    lines, runner, trials = [], view.snapshot.runner, view.snapshot.trials
    for problem in view.trouble.problems if view.trouble is not None else ():
        lines += [f"! {problem.what}", *([f"  {problem.hint}"] if problem.hint else [])]
    if not view.snapshot.running and runner is not None:
        last = f"last sign of life {runner.heartbeat:%Y-%m-%d %H:%M:%S} UTC"
        lines += [
            f"✗ the runner died (process {runner.pid} on {runner.host}); {last}",
            "  R goes on where it ended",
        ]
    elif not trials and view.trouble is None:
        lines.append("this study has no trials yet: 4 opens its spec")
    elif trials and not view.snapshot.running and all(trial.state == "pending" for trial in trials):
        lines.append("nothing was measured yet: R starts the run")
    return Content("\n".join(lines))

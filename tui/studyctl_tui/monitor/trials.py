"""The trials table with its filter, and a line that says how the list is filtered and sorted."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input, Static
from typing_extensions import override

from studyctl.files import StudyPaths
from studyctl.report.effects import BRIEF_LEGEND, effect
from studyctl.store.results import Standing
from studyctl_tui.monitor.cells import EFFECTS, SORTS, TrialView
from studyctl_tui.monitor.table import TrialsTable
from studyctl_tui.shared.screen import StudyScreen
from studyctl_tui.shared.view import View

if TYPE_CHECKING:
    from studyctl_tui.compare.screen import CompareScreen


class FilterInput(Input):
    """Where a filter is typed; escape clears it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "screen.leave", "Clear the filter", show=False)
    ]


class TrialsScreen(StudyScreen):
    """A screen with the trials of the open study: one of them is selected, and some may be marked."""

    DEFAULT_CSS = """
    TrialsScreen .status { height: 1; padding: 0 1; color: $text-muted; }
    TrialsScreen FilterInput { display: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/", priority=True),
        Binding("s", "sort", "Sort"),
        Binding("S", "flip", "Sort the other way round", show=False),
        Binding("f", "follow", "Follow"),
        Binding("space", "mark", "Mark"),
        Binding("c", "compare", "Compare the marked trials", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.table = TrialsTable()
        self.trials = self.table.list
        self._paths: StudyPaths | None = None
        self._standings: Mapping[str, Standing] = {}
        self._has_unsure = False
        """Whether the interval of a figure in the table holds no change."""
        self._following = False
        self._chosen = False
        """Whether the selection was made by a person, or from a view of the present state."""
        self._goal: str | None = None
        """Trial to select as soon as it is read."""
        self._filter = FilterInput(placeholder="words of trial, state or model; esc clears", compact=True)
        self._status = Static(classes="status", markup=False)

    @override
    def compose_body(self) -> ComposeResult:
        with Vertical(classes="trials"):
            yield self.table
            yield self._status
            yield self._filter

    @property
    def row(self) -> TrialView | None:
        """The selected trial, with its details when they are read."""
        row, view = self.trials.get(self.trials.selected), self.study_app.view
        if row is None or view is None or view.detail is None or view.detail.trial.trial != row.trial.trial:
            return row
        return replace(row, detail=view.detail)

    @override
    def show_view(self, view: View) -> None:
        trials = self.trials
        if view.paths != self._paths:
            self._paths = view.paths
            trials.selected, trials.marked = None, set()
            self._following = self._chosen = False
            self._clear_filter()
        self.table.take(view.snapshot.trials, view.standings, view.snapshot.notes)
        if view.standings is not self._standings:
            self._standings = view.standings
            self._has_unsure = any(
                effect(row, name).is_unsure for row in view.standings.values() for name in EFFECTS.values()
            )
        self._follow()
        if not self._chosen:
            first = [*trials.in_state("running"), *trials.in_state("failed"), *trials.trials[:1]]
            if first:
                self.table.select(first[0].trial)
            # The first view may be an old one; the one with details is of now.
            self._chosen = view.detail is not None
        if self._goal is not None:
            self.go_to(self._goal)
        self._say()

    def go_to(self, trial: str) -> None:
        """Select a trial, now or as soon as it is read; a filter that hides it is cleared."""
        self._goal = trial if self.trials.get(trial) is None else None
        if self._goal is None:
            if self.trials.place_of(trial) is None:
                self._clear_filter()
            self._chosen = True
            self.table.select(trial, by_hand=True)

    @on(TrialsTable.Selected)
    def _selected(self, event: TrialsTable.Selected) -> None:
        if event.by_hand:
            self._following, self._chosen = False, True
            self._say()

    def _follow(self) -> None:
        """Go to a trial that runs, unless the selected one does."""
        trials = self.trials
        row = trials.get(trials.selected)
        if self._following and (row is None or row.trial.state != "running"):
            for trial in trials.in_state("running"):
                if trials.place_of(trial.trial) is not None:
                    self.table.select(trial.trial)
                    break

    # -- keys

    def action_follow(self) -> None:
        """Follow the running trial, or stay where the cursor is."""
        self._following = not self._following
        self._follow()
        self._say()

    def action_sort(self) -> None:
        """Sort by the next column."""
        sorts = list(SORTS)
        self._sort(sorts[(sorts.index(self.trials.sort) + 1) % len(sorts)], reverse=False)

    def action_flip(self) -> None:
        """Sort the other way round."""
        self._sort(self.trials.sort, reverse=not self.trials.reverse)

    def _sort(self, by: str, *, reverse: bool) -> None:
        self.trials.sort, self.trials.reverse = by, reverse
        self.trials.arrange()
        self.table.redraw()
        self._say()

    def action_mark(self) -> None:
        """Mark the selected trial, or take the mark off."""
        if (selected := self.trials.selected) is not None:
            self.trials.marked ^= {selected}
            self.table.redraw_trial(selected)
            self._say()

    async def action_compare(self) -> None:
        """Compare the marked trials."""
        if not (marked := self.trials.marked):
            self.notify("mark trials with space, then c compares them")
            return
        await self.app.switch_mode("compare")
        cast("CompareScreen", self.app.screen).mark(marked)

    # -- filter

    def action_filter(self) -> None:
        """Type a filter."""
        self._status.display = False
        self.type_into(self._filter)

    def _clear_filter(self) -> None:
        """List every trial."""
        self._filter.clear()
        self._close_filter()
        self._list("")

    def _close_filter(self) -> None:
        self._filter.display, self._status.display = False, True

    def _list(self, words: str) -> None:
        if self.trials.filter(words):
            self.table.redraw()
        self._say()

    @on(Input.Changed)
    def _filter_changed(self, event: Input.Changed) -> None:
        self._list(event.value)

    @on(Input.Submitted)
    def _filter_done(self) -> None:
        self._close_filter()
        self.table.focus()

    def _say(self) -> None:
        """Show how the list is filtered and sorted, and hints."""
        trials, view = self.trials, self.study_app.view
        count = f"{len(trials.trials)} trial{'' if len(trials.trials) == 1 else 's'}"
        parts = [f"{len(trials)} of {count} with `{' '.join(trials.words)}`" if trials.words else count]
        if trials.sort != "plan" or trials.reverse:
            parts.append(f"by {trials.sort} {'▼' if trials.reverse else '▲'}")
        if self._following:
            parts.append("following")
        if trials.marked:
            parts.append(f"{len(trials.marked)} marked ●, c compares")
        if self._has_unsure:
            parts.append(BRIEF_LEGEND)
        if view and not view.snapshot.running and any(trial.state != "done" for trial in trials.trials):
            parts.append("R goes on")
        if (text := Content(" · ".join(parts))) != self._status.content:
            self._status.update(text, layout=False)

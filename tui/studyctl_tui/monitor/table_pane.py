"""The trials table with its filter, and a line that says how it is filtered, sorted and followed."""

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Input, Static

from studyctl_tui.monitor.cells import SORTS
from studyctl_tui.monitor.table import TrialsTable
from studyctl_tui.shared.view import View


class FilterInput(Input):
    """Where a filter is typed; escape clears it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "screen.leave", "Clear the filter", show=False)
    ]


class TrialsPane(Vertical):
    """Lists trials."""

    DEFAULT_CSS = """
    TrialsPane > .status { height: 1; padding: 0 1; color: $text-muted; }
    TrialsPane > FilterInput { display: none; }
    TrialsPane.-filtering > FilterInput { display: block; }
    TrialsPane.-filtering > .status { display: none; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = TrialsTable()
        self.following = False
        self._chosen = False
        """Whether the selection is a person's, or the first one of a study as it stands now."""
        self.note = ""
        """Further words for the status line."""
        self._input = FilterInput(placeholder="words of trial, state or model; esc clears", compact=True)
        self._status = Static(classes="status", markup=False)
        self._said = ""

    def compose(self) -> ComposeResult:
        """Yield the table, and what is below it."""
        yield self.table
        yield self._status
        yield self._input

    def reset(self) -> None:
        """Forget filter, marks and selection: another study is shown."""
        trials = self.table.list
        trials.selected, trials.marked = None, set()
        self.following = self._chosen = False
        self.clear_filter()

    def chosen_by_hand(self) -> None:
        """Leave the selection to the person who moved it."""
        self.following, self._chosen = False, True
        self.say()

    def take(self, view: View) -> None:
        """Show the trials as they are now."""
        self.table.take(view.snapshot.trials, view.standings)
        self._follow()
        if not self._chosen:
            self._select_first()
            # The first view may be an old one; the one with details is of now.
            self._chosen = view.detail is not None
        self.say()

    def _select_first(self) -> None:
        trials = self.table.list
        wanted = [*trials.in_state("running")[:1], *trials.in_state("failed")[:1], *trials.trials[:1]]
        if wanted:
            self.table.select(wanted[0].trial)

    def _follow(self) -> None:
        """Go to a trial that runs, unless the selected one does."""
        trials = self.table.list
        row = trials.get(trials.selected)
        if self.following and (row is None or row.trial.state != "running"):
            for trial in trials.in_state("running"):
                if trials.place_of(trial.trial) is not None:
                    self.table.select(trial.trial)
                    break

    # -- what keys do

    def toggle_follow(self) -> None:
        """Follow the running trial, or stay where the cursor is."""
        self.following = not self.following
        self._follow()
        self.say()

    def next_sort(self) -> None:
        """Sort by the next column."""
        sorts = list(SORTS)
        trials = self.table.list
        sort = sorts[(sorts.index(trials.sort) + 1) % len(sorts)]
        trials.sort_by(sort, reverse=False)
        self._rearranged()

    def flip_sort(self) -> None:
        """Sort the other way round."""
        trials = self.table.list
        trials.sort_by(trials.sort, reverse=not trials.reverse)
        self._rearranged()

    def toggle_mark(self) -> None:
        """Mark the selected trial, or take the mark off."""
        trials = self.table.list
        if trials.selected is not None:
            trials.marked ^= {trials.selected}
            self.table.redraw_trial(trials.selected)
            self.say()

    def show(self, trial: str) -> bool:
        """Put the cursor on a trial; a filter that hides it is cleared. Return whether there is such a trial."""
        trials = self.table.list
        if trials.get(trial) is None:
            return False
        if trials.place_of(trial) is None:
            self.clear_filter()
        self._chosen = True
        self.table.select(trial, by_hand=True)
        return True

    # -- filter

    def edit_filter(self) -> None:
        """Open the line in which the filter is typed."""
        self.add_class("-filtering")
        self.screen.set_focus(
            self._input
        )  # at once: a letter that is meant for it could be a command elsewhere

    def clear_filter(self) -> bool:
        """List every trial; return whether anything was filtered or open."""
        was_open = self.has_class("-filtering") or bool(self.table.list.words)
        self._input.clear()
        self.remove_class("-filtering")
        if self.table.list.filter(""):
            self._rearranged()
        return was_open

    @on(Input.Changed)
    def _filter(self, event: Input.Changed) -> None:
        event.stop()
        if self.table.list.filter(event.value):
            self.table.redraw()
        self.say()

    @on(Input.Submitted)
    def _filtered(self, event: Input.Submitted) -> None:
        event.stop()
        self.remove_class("-filtering")
        self.table.focus()

    def _rearranged(self) -> None:
        self.table.redraw()
        self.say()

    # -- status

    def say(self) -> None:
        """Say how the list came about."""
        trials = self.table.list
        count = f"{len(trials.trials)} trial{'' if len(trials.trials) == 1 else 's'}"
        parts = [f"{len(trials)} of {count} with `{' '.join(trials.words)}`" if trials.words else count]
        if trials.sort != "plan" or trials.reverse:
            parts.append(f"by {trials.sort} {'▼' if trials.reverse else '▲'}")
        if self.following:
            parts.append("following")
        if trials.marked:
            parts.append(f"{len(trials.marked)} marked ●, c compares")
        if self.note:
            parts.append(self.note)
        if (said := " · ".join(parts)) != self._said:
            self._said = said
            self._status.update(Content(said), layout=False)

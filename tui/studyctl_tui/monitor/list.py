"""Which trials are listed, in which order, and which are selected or marked: not a widget, so that 10,000 are cheap."""

from collections.abc import Mapping, Sequence
from typing import Any

from studyctl.contract.records import Noted
from studyctl.store.live import LiveTrial
from studyctl.store.results import Standing
from studyctl_tui.monitor.cells import SORTS, TrialView, Widths, short_model, widths


class TrialList:
    """The trials of a study, filtered and sorted; the selection stays with its trial."""

    def __init__(self) -> None:
        self.trials: Sequence[LiveTrial] = ()
        self.order: Sequence[int] = ()
        """Numbers of the listed trials, in their order."""
        self.names = Widths(0, 0, 0)
        self.marked: set[str] = set()
        self.words: tuple[str, ...] = ()
        self.sort = "plan"
        self.reverse = False
        self.selected: str | None = None
        self._standings: Mapping[str, Standing] = {}
        self._notes: Mapping[str, Noted] = {}
        self._number: dict[str, int] = {}
        self._place: dict[str, int] = {}
        """Where a trial is listed."""

    def __len__(self) -> int:
        return len(self.order)

    def row(self, place: int) -> TrialView:
        """Return the trial that is listed at a place."""
        return self._row(self.order[place])

    def _row(self, number: int) -> TrialView:
        trial = self.trials[number]
        return TrialView(trial, self._standings.get(trial.trial), note=self._notes.get(trial.trial))

    def get(self, trial: str | None) -> TrialView | None:
        """Return a trial by its name, listed or not."""
        number = self._number.get(trial or "")
        return None if number is None else self._row(number)

    def place_of(self, trial: str | None) -> int | None:
        """Return where a trial is listed; None if it is not."""
        return self._place.get(trial or "")

    def in_state(self, state: str) -> list[LiveTrial]:
        """Return the trials in this state, in the order of the plan."""
        return [trial for trial in self.trials if trial.state == state]

    def take(
        self, trials: Sequence[LiveTrial], standings: Mapping[str, Standing], notes: Mapping[str, Noted]
    ) -> bool:
        """Take new data; return whether the list or its order changed."""
        before, self.trials, self._standings, self._notes = self.trials, trials, standings, notes
        if len(trials) == len(before) and all(
            new is old or new.trial == old.trial for new, old in zip(trials, before, strict=True)
        ):
            return (bool(self.words) or self.sort != "plan") and self.arrange()
        self._number = {trial.trial: number for number, trial in enumerate(trials)}
        self.names = widths(trials)
        self.marked &= self._number.keys()
        if self.selected not in self._number:
            self.selected = None
        self.arrange()
        return True

    def filter(self, text: str) -> bool:
        """List only trials that contain every word; return whether the list changed."""
        self.words = tuple(text.lower().split())
        return self.arrange()

    def arrange(self) -> bool:
        """Filter and sort again; return whether the list changed."""
        numbers = list(range(len(self.trials)))
        if self.words:
            numbers = [number for number in numbers if self._matches(self.trials[number])]
        if (key := SORTS[self.sort]) is not None:
            values: dict[int, Any] = {number: key(self._row(number)) for number in numbers}
            missing = [number for number in numbers if values[number] is None]
            numbers = [number for number in numbers if values[number] is not None]
            numbers = sorted(numbers, key=values.__getitem__, reverse=self.reverse) + missing
        elif self.reverse:
            numbers.reverse()
        changed = numbers != self.order
        self.order = numbers
        self._place = {self.trials[number].trial: place for place, number in enumerate(numbers)}
        return changed

    def _matches(self, trial: LiveTrial) -> bool:
        note = self._notes.get(trial.trial)
        parts = (trial.trial, trial.state, short_model(trial.model), trial.variant, note.text if note else "")
        text = " ".join(parts).lower()
        return all(word in text for word in self.words)

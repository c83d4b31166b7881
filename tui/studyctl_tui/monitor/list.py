"""Which trials are listed, in which order, and which of them are chosen: no widget, so that 10,000 are cheap."""

from collections.abc import Mapping, Sequence
from typing import Any

from studyctl.store.live import LiveTrial
from studyctl.store.results import Standing
from studyctl_tui.monitor.cells import SORTS, Row, Widths, short_model, widths


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
        self._number: dict[str, int] = {}
        self._place: dict[str, int] = {}
        """Where a trial is listed."""

    def __len__(self) -> int:
        return len(self.order)

    def row(self, place: int) -> Row:
        """Return the trial that is listed at a place."""
        return self._row(self.trials[self.order[place]])

    def _row(self, trial: LiveTrial) -> Row:
        return Row(trial, self._standings.get(trial.trial))

    def get(self, trial: str | None) -> Row | None:
        """Return a trial by its name, listed or not."""
        number = self._number.get(trial or "")
        return None if number is None else self._row(self.trials[number])

    def place_of(self, trial: str | None) -> int | None:
        """Return where a trial is listed; None if it is not."""
        return self._place.get(trial or "")

    def in_state(self, state: str) -> list[LiveTrial]:
        """Return the trials in this state, in the order of the plan."""
        return [trial for trial in self.trials if trial.state == state]

    def take(self, trials: Sequence[LiveTrial], standings: Mapping[str, Standing]) -> bool:
        """Take what is new; return whether other trials are listed, or in another order."""
        before, old = self.trials, self._standings
        if len(trials) != len(before) or any(
            new is not one and new.trial != one.trial for new, one in zip(trials, before, strict=True)
        ):
            self._adopt(trials, standings)
            return True
        changed = []
        if self.words or self.sort != "plan":
            changed = [
                number
                for number, (new, one) in enumerate(zip(trials, before, strict=True))
                if new is not one or standings.get(new.trial) is not old.get(new.trial)
            ]
        judged = [self._judged(number) for number in changed]
        self.trials, self._standings = trials, standings
        if judged != [self._judged(number) for number in changed]:
            return self._arrange()
        return False

    def _adopt(self, trials: Sequence[LiveTrial], standings: Mapping[str, Standing]) -> None:
        """Take other trials than before."""
        self.trials, self._standings = trials, standings
        self._number = {trial.trial: number for number, trial in enumerate(trials)}
        self.names = widths(trials)
        self.marked &= self._number.keys()
        if self.selected not in self._number:
            self.selected = None
        self._arrange()

    def _judged(self, number: int) -> tuple[bool, Any]:
        """Return what decides whether and where a trial is listed."""
        trial, key = self.trials[number], SORTS[self.sort]
        return self._matches(trial), None if key is None else key(self._row(trial))

    def _matches(self, trial: LiveTrial) -> bool:
        text = f"{trial.trial} {trial.state} {short_model(trial.model)} {trial.variant}".lower()
        return all(word in text for word in self.words)

    def filter(self, text: str) -> bool:
        """List only trials that hold every word; return whether the list changed."""
        words = tuple(text.lower().split())
        if words == self.words:
            return False
        self.words = words
        return self._arrange()

    def sort_by(self, sort: str, *, reverse: bool) -> bool:
        """Sort by a column; return whether the order changed."""
        self.sort, self.reverse = sort, reverse
        return self._arrange()

    def _arrange(self) -> bool:
        """List anew."""
        numbers = [
            number for number, trial in enumerate(self.trials) if not self.words or self._matches(trial)
        ]
        key = SORTS[self.sort]
        if key is not None:
            numbers = self._sorted(numbers)
        elif self.reverse:
            numbers.reverse()
        changed = numbers != self.order
        self.order = numbers
        self._place = {self.trials[number].trial: place for place, number in enumerate(numbers)}
        return changed

    def _sorted(self, numbers: Sequence[int]) -> list[int]:
        key = SORTS[self.sort]
        assert key is not None
        known: list[tuple[Any, int]] = []
        missing = []
        for number in numbers:
            value = key(self._row(self.trials[number]))
            if value is None:
                missing.append(number)
            else:
                known.append((value, number))
        known.sort(key=lambda pair: pair[0], reverse=self.reverse)
        return [number for _, number in known] + missing

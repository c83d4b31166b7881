"""How a study stands this second, from its journals: what ``watch`` and ``list`` show between two publications."""

from collections.abc import Collection
from dataclasses import dataclass

from studyctl.files import StudyPaths
from studyctl.store.index import Index, Stored
from studyctl.store.journal import JournalTail, Record
from studyctl.store.planned import Planned, TrialStatus, read_planned, trial_status


@dataclass(frozen=True, slots=True)
class LiveTrial:
    """A trial as it stands."""

    trial: str
    model: str
    method: str
    variant: str
    state: str
    stages: int
    stages_done: int
    attempts: int
    stage: str | None = None
    """Stage that runs now, or that failed."""
    done: float | None = None
    """Units of that stage that are finished."""
    total: float | None = None
    unit: str = ""
    note: str = ""
    error: str | None = None
    """Why it failed, on one line."""
    at: str | None = None
    """Time of its last record; UTC, ISO 8601."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A study as it stands."""

    study: str
    title: str
    trials: tuple[LiveTrial, ...]

    def count(self, state: str) -> int:
        """Return how many trials are in this state."""
        return sum(trial.state == state for trial in self.trials)


class Live:
    """Follows a study: a refresh reads what was appended to journals, and progress of running trials only."""

    def __init__(self, paths: StudyPaths) -> None:
        self._paths = paths
        self._index = Index(paths)
        self._tails: dict[str, _ProgressTail] = {}
        self._judged_from: tuple[object, ...] = ()
        self._planned = Planned(paths.name)
        self._stored = Stored()
        self._trials: list[tuple[LiveTrial, TrialStatus]] = []

    def refresh(self, running: Collection[str] = ()) -> Snapshot:
        """Return how the study stands.

        Args:
            running: Trials that a living runner is at (``runner.json`` and the runner's lock tell).

        Raises:
            StudyError: a journal is damaged in the middle, or the plan is unreadable.
        """
        stored = self._index.refresh()
        judged_from = (id(stored), self._plan_stamp(), frozenset(running))
        if judged_from != self._judged_from:
            self._stored = stored
            self._planned = read_planned(self._paths, stored)
            self._trials = [
                (_described(self._planned, stored, position, running))
                for position in range(len(self._planned.trials))
            ]
            self._judged_from = judged_from
            self._tails = {name: tail for name, tail in self._tails.items() if name in running}
        trials = tuple(self._with_progress(trial, status) for trial, status in self._trials)
        return Snapshot(self._planned.study, self._planned.title, trials)

    def _plan_stamp(self) -> tuple[int, int] | None:
        try:
            status = self._paths.plan.stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_ino

    def _with_progress(self, trial: LiveTrial, status: TrialStatus) -> LiveTrial:
        if trial.state != "running" or status.latest is None:
            return trial
        tail = self._tails.get(trial.trial)
        if tail is None or tail.path != status.latest.journal:
            tail = self._tails[trial.trial] = _ProgressTail(status.latest.journal)
        return tail.applied_to(trial)


class _ProgressTail(JournalTail):
    """Remembers the last progress of a journal."""

    _last: Record | None = None
    _at: str | None = None

    def applied_to(self, trial: LiveTrial) -> LiveTrial:
        for record in self.new_records():
            self._at = record["at"]
            if record["kind"] in ("progress", "stage_started"):
                self._last = record
        last = self._last or {}
        if last.get("stage") != trial.stage:
            last = {}
        return LiveTrial(
            trial.trial, trial.model, trial.method, trial.variant, trial.state,
            trial.stages, trial.stages_done, trial.attempts, trial.stage,
            last.get("done"), last.get("total"), last.get("unit") or "", last.get("note") or "", trial.error, self._at,
        )  # fmt: skip


def _described(
    planned: Planned, stored: Stored, position: int, running: Collection[str]
) -> tuple[LiveTrial, TrialStatus]:
    trial = planned.trials[position]
    status = trial_status(trial, planned.stages(trial), stored, running=trial.trial in running)
    described = LiveTrial(
        trial=trial.trial,
        model=trial.model,
        method=trial.method,
        variant=trial.variant,
        state=status.state,
        stages=len(status.asked),
        stages_done=len(status.done),
        attempts=len(stored.attempts.get(trial.trial, ())),
        stage=status.stage,
        error=status.error,
        at=max((one.at for one in status.done.values()), default=None),
    )
    return described, status

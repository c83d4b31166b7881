"""How a study stands now, from its journals: what ``watch``, ``list`` and the terminal app show between two publications."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from studyctl.contract.plan import Planned, PlannedTrial
from studyctl.contract.records import (
    AttemptFinished,
    Layer,
    Noted,
    Progress,
    StepFailed,
    StepFinished,
    StepStarted,
    Warned,
)
from studyctl.contract.steps import StepId, StepKind
from studyctl.errors import FailureCause, StudyError
from studyctl.files import StudyPaths
from studyctl.journal.files import JournalTail
from studyctl.journal.index import Index
from studyctl.journal.notes import read_notes
from studyctl.journal.stored import Attempt, Stored
from studyctl.store import results
from studyctl.store.holder import Holder, Pulse, read_holder
from studyctl.store.planned import TrialStatus, read_planned, trial_status
from studyctl.store.query import file_stamp
from studyctl.store.replaced import once_more_if_replaced
from studyctl.store.results import (
    Finding,
    LanguageResult,
    LayerResult,
    Results,
    Standing,
    TaskResult,
)

AT_ONCE = 200
"""Number of trials whose figures are read first: more than a screen has lines."""
MOST_WARNINGS = 50
PARTS = 4
"""Parts of a step's progress whose rates bound the time that is left."""
MOST_FRESH = 100
"""Maximum number of trials whose figures are read from journals: those that run, then those that changed last."""


class Pace(NamedTuple):
    """How fast the running step of a trial advances, by the times in its journal."""

    seconds: float
    """From the step's start to its newest record."""
    rate: float | None = None
    """Units a second, since its first progress; None before two records of progress."""
    left: tuple[float, float] | None = None
    """Seconds that the rest takes at the fastest and at the slowest of the rates in four equal parts of the progress so far."""


@dataclass(frozen=True, slots=True)
class LiveTrial:
    """A trial as it stands."""

    trial: str
    model: str
    method: str
    variant: str
    state: str
    steps: int
    steps_done: int
    attempts: int
    step: StepId | None = None
    """Step that runs now, or that failed."""
    done: float | None = None
    """Units of that step that are finished."""
    total: float | None = None
    unit: str = ""
    note: str = ""
    pace: Pace | None = None
    """Of that step, while it runs."""
    error: str | None = None
    """Why it failed, on one line."""
    at: str | None = None
    """Time of its last record or result; UTC, ISO 8601."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A study as it stands."""

    study: str
    title: str
    trials: tuple[LiveTrial, ...]
    """A trial that did not change is the same object as in the snapshot before."""
    runner: Holder | None = None
    """The runner, or one that died."""
    running: bool = False
    """Whether that runner is alive."""
    notes: Mapping[str, Noted] = field(default_factory=dict)
    """What people wrote about trials, by trial."""

    def count(self, state: str) -> int:
        """Return how many trials are in this state."""
        return sum(trial.state == state for trial in self.trials)


@dataclass(frozen=True, slots=True)
class Glance:
    """A study as of its last publication."""

    snapshot: Snapshot
    standings: Mapping[str, Standing]
    """Figures of the first :data:`AT_ONCE` trials."""
    published_at: str
    """UTC, ISO 8601."""


@dataclass(frozen=True, slots=True)
class LiveStep:
    """A step of a trial as it stands."""

    step: StepId
    state: str
    seconds: float | None = None
    done: float | None = None
    """Units that are finished, while it runs."""
    total: float | None = None
    unit: str = ""
    note: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class TrialDetail:
    """Everything about one trial."""

    trial: LiveTrial
    planned: PlannedTrial
    steps: tuple[LiveStep, ...]
    """``load`` first, then in the order in which they run."""
    languages: tuple[LanguageResult, ...]
    tasks: tuple[TaskResult, ...]
    layers: tuple[LayerResult, ...]
    """Of the compress step that is stored, or that runs now."""
    warnings: tuple[Finding, ...]
    attempts: tuple[Attempt, ...]
    """Oldest first."""
    cause: FailureCause | None
    """If it failed."""
    hint: str
    log: Path | None
    """What its newest attempt printed."""


_Figures: TypeAlias = tuple[
    tuple[LanguageResult, ...], tuple[TaskResult, ...], tuple[LayerResult, ...], tuple[Finding, ...]
]
"""Results and warnings of one trial."""


class _Judged(NamedTuple):
    """The state of a trial, and what it was computed from."""

    sources: tuple[object, object, bool]
    live: LiveTrial
    status: TrialStatus


class Live:
    """Follows a study: a refresh reads what was appended to the journals of running attempts. For one thread at a time."""

    def __init__(self, paths: StudyPaths) -> None:
        self.paths = paths
        self._index = Index(paths)
        self._pulse = Pulse(paths)
        self._tails: dict[str, _AttemptTail] = {}
        self._looked_at: object = None
        """State of the journals' folder when all of them were looked at."""
        self._watched: frozenset[tuple[str, int]] = frozenset()
        self._judged_from: tuple[object, ...] = ()
        self._planned = Planned(paths.name)
        self._plan_read: object = None
        self._stored = Stored()
        self._notes: Mapping[str, Noted] = {}
        self._notes_read: object = None
        self._judged: dict[str, _Judged] = {}
        self._running: frozenset[str] = frozenset()
        self._published: Mapping[str, Standing] = {}
        self._published_read: object = None
        self.newest_warnings: tuple[Finding, ...] = ()
        """As :meth:`published_standings` has read them, the newest first."""
        self.published_at = ""
        """When the results that :meth:`standings` has read were published; UTC, ISO 8601; empty before the first."""
        self._fresh: tuple[object, dict[str, Standing]] = (None, {})
        self._figures: tuple[tuple[object, ...], _Figures] | None = None
        """Figures of the last call of :meth:`trial`, with what they depend on."""

    @once_more_if_replaced
    def as_published(self) -> Glance | None:
        """Return the study as of its last publication, or None if there is none: fast even if there are many journals.

        :meth:`published_standings` has the figures of all trials.

        Raises:
            StudyError: the database cannot be read, or is of another version.
        """
        if not self.paths.database.is_file():
            return None
        with results.open(self.paths) as published:
            about = published.about()
            trials = tuple(
                LiveTrial(*row[:8], step=StepId.parse(row.stage) if row.stage else None, error=row.error)
                for row in published.trials()
            )
            standings = {row.trial_id: row for row in published.top(AT_ONCE)}
        runner = self._pulse.look()
        holder = runner or read_holder(self.paths)
        snapshot = Snapshot(about.study, about.title, trials, holder, runner is not None)
        return Glance(snapshot, standings, _utc(about.published_at))

    @once_more_if_replaced
    def published_standings(self) -> Mapping[str, Standing]:
        """Return the published figures of every trial that has some.

        Raises:
            StudyError: the database cannot be read, or is of another version.
        """
        stamp = file_stamp(self.paths.database)
        if stamp is None:
            self._published_read, self._published, self.published_at = None, {}, ""
            self.newest_warnings = ()
        elif stamp != self._published_read:
            with results.open(self.paths) as published:
                self._published = {row.trial_id: row for row in published.leaderboard()}
                self.newest_warnings = tuple(published.newest_warnings(MOST_WARNINGS))
                self.published_at = _utc(published.about().published_at)
            self._published_read = stamp
        return self._published

    def refresh(self) -> Snapshot:
        """Return how the study stands.

        Raises:
            StudyError: a journal is damaged in the middle or newer than this studyctl, or the plan is unreadable.
        """
        runner = self._pulse.look()
        attempts = (
            frozenset((run["trial"], run["attempt"]) for run in runner.attempts) if runner else frozenset()
        )
        self._running = frozenset(trial for trial, _ in attempts)
        self._read(attempts)
        trials = tuple(
            judged.live if (tail := self._tail(judged)) is None else tail.applied_to(judged.live)
            for judged in self._judged.values()
        )
        holder = runner or read_holder(self.paths)
        if (stamp := file_stamp(self.paths.notes)) != self._notes_read:
            self._notes, self._notes_read = read_notes(self.paths), stamp
        return Snapshot(
            self._planned.study, self._planned.title, trials, holder, runner is not None, self._notes
        )

    def _read(self, attempts: frozenset[tuple[str, int]]) -> None:
        """Read what is new; all journals are looked at only if one was added or removed."""
        folder = file_stamp(self.paths.journal)
        watched = self._watched | attempts
        stored = self._index.refresh(watched if folder == self._looked_at and folder is not None else None)
        self._looked_at, self._watched = folder, attempts or self._watched
        plan = file_stamp(self.paths.plan)
        judged_from = (stored, plan, self._running)
        if judged_from != self._judged_from:
            if plan != self._plan_read or plan is None:
                self._planned, self._plan_read = read_planned(self.paths, stored), plan
            self._stored = stored
            self._judged = {trial.trial: self._judge(trial) for trial in self._planned.trials}
            self._judged_from = judged_from
            self._tails = {name: tail for name, tail in self._tails.items() if name in self._running}

    def _judge(self, trial: PlannedTrial) -> _Judged:
        """Return the state of a trial; the same object as before if nothing changed."""
        running = trial.trial in self._running
        attempts = self._stored.attempts.get(trial.trial)
        sources = (attempts, self._stored.results.get(trial.weights_key or ""), running)
        steps = self._planned.steps(trial)
        before = self._judged.get(trial.trial)
        if (
            before is not None
            and all(new is old for new, old in zip(sources, before.sources, strict=True))
            and (steps, trial.variant) == (before.status.steps, before.live.variant)
        ):
            return before
        status = trial_status(trial, steps, self._stored, running=running)
        live = LiveTrial(
            trial=trial.trial,
            model=trial.model,
            method=trial.method,
            variant=trial.variant,
            state=status.state,
            steps=len(status.steps),
            steps_done=len(status.done),
            attempts=len(attempts or ()),
            step=status.step,
            error=status.error,
            at=max((result.latest.at for result in status.done.values()), default=None),
        )
        return _Judged(sources, live, status)

    def _tail(self, judged: _Judged) -> "_AttemptTail | None":
        """Return the tail of a running trial's newest attempt."""
        name, latest = judged.live.trial, judged.status.latest
        if judged.live.state != "running" or latest is None:
            return None
        tail = self._tails.get(name)
        if tail is None or tail.path != latest.journal:
            tail = self._tails[name] = _AttemptTail(latest.journal)
        tail.read()
        return tail

    def standings(self) -> Mapping[str, Standing]:
        """Return the figures of every trial that has some, as of the last refresh: published ones, newer ones from the journals."""
        published = self.published_standings()
        fresh = self._fresh_trials()
        if not fresh:
            return published
        # Another batch of windows of an unfinished text changes no figure.
        source = tuple((name, self._judged[name].status.done) for name in fresh)
        if source != self._fresh[0]:
            with self._in_memory(fresh) as newest:
                rows = {row.trial_id: row for row in newest.leaderboard() if row.trial_id in fresh}
            self._fresh = (source, rows)
        return {**published, **self._fresh[1]}

    def _fresh_trials(self) -> list[str]:
        """Return the trials with results that are not published yet, at most :data:`MOST_FRESH`."""
        measured = [judged.live for judged in self._judged.values() if judged.status.done]
        newer = [trial for trial in measured if (trial.at or "") > self.published_at]
        newer.sort(key=lambda trial: (trial.state == "running", trial.at), reverse=True)
        return [trial.trial for trial in newer[:MOST_FRESH]]

    def _in_memory(self, trials: Iterable[str]) -> Results:
        """Return results of these trials and of the dense ones of their models, published in memory."""
        chosen = set(trials)
        models = {trial.model for trial in self._planned.trials if trial.trial in chosen}
        planned = [
            trial
            for trial in self._planned.trials
            if trial.trial in chosen or (trial.variant == "dense" and trial.model in models)
        ]
        part = replace(self._planned, trials=tuple(planned), hypotheses=())
        from studyctl.store.publish import publish_in_memory  # with pyarrow, which takes time to import

        return Results(publish_in_memory(self.paths, part, self._stored, self._running))

    def trial(self, name: str) -> TrialDetail:
        """Return everything about a trial, as of the last refresh.

        Raises:
            StudyError: the study has no such trial, or a journal is damaged.
        """
        judged = self._judged.get(name)
        if judged is None:
            raise StudyError(
                f"study `{self.paths.name}` has no trial `{name}`", hint="it may have been edited away"
            )
        planned = next(trial for trial in self._planned.trials if trial.trial == name)
        tail, status = self._tail(judged), judged.status
        attempts = self._stored.attempts.get(name, ())
        newest = attempts[-1] if attempts else None
        languages, tasks, layers, warnings = self._figures_of(judged, tail.warnings if tail else 0)
        if tail is not None and tail.step == StepId(StepKind.COMPRESS):
            layers = tuple(tail.layers)
        return TrialDetail(
            trial=judged.live if tail is None else tail.applied_to(judged.live),
            planned=planned,
            steps=tuple(self._steps(planned, status, tail)),
            languages=languages,
            tasks=tasks,
            layers=layers,
            warnings=warnings,
            attempts=attempts,
            cause=status.failure.cause if status.failure else None,
            hint=status.failure.hint if status.failure else "",
            log=self.paths.attempt_log(name, newest.attempt) if newest else None,
        )

    @once_more_if_replaced
    def _figures_of(self, judged: _Judged, warnings: int) -> _Figures:
        """Return results and warnings of a trial; read again only after a finished step, a new warning or a publication."""
        name = judged.live.trial
        source = (name, self._stored, self._planned, self._running, self.published_at, warnings)
        if self._figures is None or source != self._figures[0]:
            in_journals = (
                not self.published_at
                or judged.live.state in ("running", "failed")
                or name in self._fresh_trials()
            )
            with self._in_memory([name]) if in_journals else results.open(self.paths) as newest:
                figures = (
                    tuple(newest.perplexity(name)),
                    tuple(newest.tasks(name)),
                    tuple(newest.layers(name)),
                    tuple(newest.warnings(name)),
                )
            self._figures = (source, figures)
        return self._figures[1]

    def _steps(
        self, planned: PlannedTrial, status: TrialStatus, tail: "_AttemptTail | None"
    ) -> Iterator[LiveStep]:
        load = StepId(StepKind.LOAD)
        loaded = self._stored.loads.get(planned.weights_key or "")
        loading = status.state == "running" and status.open_step == load
        if loaded is not None or loading:
            yield LiveStep(load, "running" if loading else "done", loaded.seconds if loaded else None)
        for step_id in (step.id for step in status.steps):
            state = status.step_state(step_id)
            stored, failure = status.done.get(step_id), status.failures.get(step_id)
            step = LiveStep(
                step_id, state, stored.seconds if stored else None, error=failure.error if failure else None
            )
            progress = tail.progress(step_id) if tail is not None and state == "running" else {}
            yield replace(step, **progress)


class _AttemptTail(JournalTail):
    """Remembers the last progress of an attempt and the layers of its running step."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.step: StepId | None = None
        self.layers: list[LayerResult] = []
        self.warnings = 0
        self._last: Progress | None = None
        self._at: str | None = None
        self._began: str | None = None
        """When the running step began."""
        self._points: list[tuple[float, float]] = []
        """Its progress: time in seconds, and units that were finished then."""

    def read(self) -> None:
        """Read what was appended."""
        for record in self.new_records():
            self._at = record.at
            match record:
                case StepStarted(step=step):
                    # The next batch of a text continues the progress of the last one.
                    if step.id != self.step:
                        self._last, self._began, self._points = None, record.at, []
                    self.step, self.layers = step.id, []
                case StepFailed() | AttemptFinished():
                    self.step, self._last = None, None
                case StepFinished(step=step) if step.windows is None:
                    self.step, self._last = None, None
                case Progress():
                    self._last = record
                    self._points.append((_seconds(record.at), record.done))
                case Warned():
                    self.warnings += 1
                case Layer():
                    self.layers.append(LayerResult(*(getattr(record, name) for name in LayerResult._fields)))

    def progress(self, step: StepId | None) -> dict[str, Any]:
        """Return the progress of the running step as fields of :class:`LiveStep`; empty if there is none."""
        last = self._last
        if step is None or last is None or last.step.id != step:
            return {}
        return {"done": last.done, "total": last.total, "unit": last.unit, "note": last.note}

    def applied_to(self, trial: LiveTrial) -> LiveTrial:
        """Return a trial with the progress of its running step."""
        return replace(trial, **self.progress(trial.step), pace=self._pace(trial.step), at=self._at)

    def _pace(self, step: StepId | None) -> Pace | None:
        if step is None or step != self.step or self._began is None or self._at is None:
            return None
        total = self._last.total if self._last is not None else 0.0
        return pace(_seconds(self._at) - _seconds(self._began), self._points, total)


def pace(seconds: float, points: Sequence[tuple[float, float]], total: float) -> Pace:
    """Return how fast a step advances.

    Args:
        seconds: since it began.
        points: its progress: time in seconds, and units that were finished then; both rise.
        total: units of the whole step.
    """
    if len(points) < 2 or points[-1][1] <= points[0][1] or points[-1][0] <= points[0][0]:
        return Pace(seconds)
    (first_at, first), (last_at, last) = points[0], points[-1]
    rate = (last - first) / (last_at - first_at)
    ends = [first + (last - first) * part / PARTS for part in range(1, PARTS)]
    at = [first_at, *(next(at for at, done in points if done >= end) for end in ends), last_at]
    if len(points) <= PARTS or any(later <= earlier for earlier, later in pairwise(at)):
        return Pace(seconds, rate)
    spans = [later - earlier for earlier, later in pairwise(at)]
    share = (total - last) / ((last - first) / PARTS)
    return Pace(seconds, rate, (min(spans) * share, max(spans) * share))


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def _utc(moment: datetime) -> str:
    """Return a moment of the database, which is UTC without a time zone, as ISO 8601."""
    return moment.replace(tzinfo=UTC).isoformat(timespec="milliseconds")

"""What the journals hold, by the keys of what was measured: fast enough to ask before and during every run.

Only lines about attempts and steps are parsed (they are found by a search for bytes), and a second look reads only what
was appended since. Where a step's records lie in its journal is remembered, so that a publisher reads current results only.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cmp_to_key, lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from studyctl.contract.records import (
    AnyRecord,
    AttemptFinished,
    AttemptStarted,
    StepFailed,
    StepFinished,
    StepStarted,
)
from studyctl.contract.steps import BATCH_WINDOWS, Span, Step, StepKind, batch_spans
from studyctl.errors import FailureCause
from studyctl.files import StudyPaths
from studyctl.store.exports import exported_weights
from studyctl.store.journal import MARKERS, RECORDS, check_schema, damaged, decode

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredStep:
    """A step that was finished, and where its records are; batches of windows that follow each other are one."""

    trial: str
    """Trial that ran it; with equal keys the result also counts for another trial."""
    attempt: int
    step: Step
    weights_key: str
    weights_hash: str | None
    seconds: float | None
    peak_memory_bytes: int | None
    bits_per_weight: float | None
    sparsity: float | None
    available: int | None
    """Windows that the text has; None: not known, or no text."""
    at: str
    """When it finished; UTC, ISO 8601."""
    journal: Path
    begin: int
    """Byte of its first ``step_started`` line; a step that is tried again within the attempt begins again."""
    end: int
    """Byte after its ``step_finished`` line."""

    @property
    def batches(self) -> frozenset[Span | None]:
        """Return the batches of windows that it is; None stands for what has no windows."""
        return _batches(self.step.windows)

    def followed_by(self, other: "StoredStep") -> "StoredStep | None":
        """Return both as one, if the other one is the next batch of the same text in the same attempt."""
        mine, theirs = self.step.windows, other.step.windows
        if mine is None or theirs is None or mine[1] != theirs[0] or mine[1] % BATCH_WINDOWS:
            return None
        if (self.step.id, self.step.key, self.weights_hash) != (
            other.step.id,
            other.step.key,
            other.weights_hash,
        ):
            return None
        return replace(
            other,
            step=Step(other.step.kind, other.step.subject, (mine[0], theirs[1]), other.step.key),
            begin=self.begin,
            seconds=(self.seconds or 0.0) + (other.seconds or 0.0),
            peak_memory_bytes=max(self.peak_memory_bytes or 0, other.peak_memory_bytes or 0) or None,
        )


@lru_cache(maxsize=4096)  # the trials of a study have the same few
def _batches(windows: Span | None) -> frozenset[Span | None]:
    if windows is None:
        return frozenset({None})
    return frozenset(span for span in batch_spans(windows[1]) if span[0] >= windows[0])


class ResultPart(NamedTuple):
    """What a stored step contributes to a result."""

    stored: StoredStep
    batches: tuple[Span | None, ...]
    """In their order."""

    @property
    def share(self) -> float:
        """Return which part of the stored step that is."""
        return len(self.batches) / len(self.stored.batches)


class StepResult(NamedTuple):
    """The result of a step that a plan asks for, which several attempts may have worked at."""

    parts: tuple[ResultPart, ...]
    """In the order in which windows are taken; at least one."""

    @property
    def latest(self) -> StoredStep:
        """Return what was finished last."""
        return max((part.stored for part in self.parts), key=lambda stored: stored.at)

    @property
    def seconds(self) -> float | None:
        """Return what all parts took together."""
        known = [part.share * part.stored.seconds for part in self.parts if part.stored.seconds is not None]
        return sum(known) if known else None

    @property
    def peak_memory_bytes(self) -> int | None:
        """Return the highest peak of a part."""
        return max((part.stored.peak_memory_bytes or 0 for part in self.parts), default=0) or None


@dataclass(frozen=True, slots=True)
class StoredResult:
    """What is stored under one key of some weights."""

    steps: tuple[StoredStep, ...]
    """Where batches are there twice, the later one counts."""
    batches: frozenset[Span | None]
    available: int | None
    """Windows that the text has, if a step knows."""

    @classmethod
    def of_steps(cls, steps: Sequence[StoredStep]) -> "StoredResult":
        """Return the result that steps make, the one that counts last."""
        batches = steps[0].batches.union(*(step.batches for step in steps[1:]))
        available = next((step.available for step in steps if step.available is not None), None)
        return cls(tuple(steps), batches, available)

    def covers(self, step: Step) -> bool:
        """Return whether everything that a step asks for is there."""
        if step.windows is None or None in self.batches:
            return True
        end = step.windows[1]
        return _covers(self.batches, end if self.available is None else min(end, self.available))

    def of(self, step: Step) -> StepResult:
        """Return the result of a step that is covered."""
        wanted: tuple[Span | None, ...] = (None,) if None in self.batches else step.spans(self.available)
        sources: dict[int, list[Span | None]] = {}
        for span in wanted:
            place = max(place for place, one in enumerate(self.steps) if span in one.batches)
            sources.setdefault(place, []).append(span)
        return StepResult(
            tuple(ResultPart(self.steps[place], tuple(spans)) for place, spans in sources.items())
        )


@lru_cache(maxsize=4096)  # the trials of a study have the same few sets
def _covers(there: frozenset[Span | None], end: int) -> bool:
    # The end may be that of all windows, which nobody counts up to.
    return len(there) * BATCH_WINDOWS >= end and there.issuperset(batch_spans(end))


@dataclass(frozen=True, slots=True)
class Results:
    """What is stored of some weights; false if nothing is."""

    by_key: Mapping[str, StoredResult] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.by_key)

    def has(self, step: Step) -> bool:
        """Return whether everything that a step asks for is stored."""
        found = self.by_key.get(step.key) if step.key is not None else None
        return found is not None and found.covers(step)

    def missing(self, steps: Iterable[Step]) -> tuple[Step, ...]:
        """Return the steps of which something is not stored."""
        return tuple(step for step in steps if not self.has(step))

    def of(self, step: Step) -> StepResult | None:
        """Return the result of a step; None if something of it is not stored."""
        return self.by_key[step.key].of(step) if step.key is not None and self.has(step) else None

    def spans(self, step: Step) -> tuple[Span, ...]:
        """Return the batches of windows that are stored of a step, whether they are all of it or not."""
        found = self.by_key.get(step.key) if step.key is not None else None
        return tuple(sorted(span for span in found.batches if span)) if found is not None else ()


_NOTHING = Results()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a step of an attempt is not finished."""

    step: Step
    error: str
    cause: FailureCause
    hint: str
    at: str
    permanent: bool = False
    """Whether trying again as it is would fail again."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a trial, as far as its journal tells."""

    trial: str
    attempt: int
    journal: Path
    started: AttemptStarted
    steps: tuple[StoredStep, ...] = ()
    """Finished steps in the order in which they ran, ``load`` included."""
    open_step: Step | None = None
    """Step that was begun and neither finished nor failed."""
    open_begin: int = 0
    """Byte of the open step's ``step_started`` line."""
    failures: tuple[Failure, ...] = ()
    """Steps that failed, oldest first: a failure of one evaluation does not keep the others from being run."""
    finished: AttemptFinished | None = None
    """None while it runs, or when it was killed."""

    @property
    def weights_key(self) -> str:
        """Weights that it makes or measures."""
        return self.started.weights_key

    @property
    def state(self) -> str:
        """``open`` (running, or killed), ``done``, ``failed`` or ``stopped``."""
        return "open" if self.finished is None else self.finished.state


@dataclass(frozen=True, slots=True)
class Stored:
    """Everything that is acknowledged in the journals of a study."""

    attempts: dict[str, tuple[Attempt, ...]] = field(default_factory=dict)
    """By trial, oldest first."""
    last_attempt: dict[str, int] = field(default_factory=dict)
    """Highest attempt number by trial, also of journals without a whole record."""
    results: dict[str, Results] = field(default_factory=dict)
    """Current results by ``weights_key``. Those of weights that the last ``compress`` did not reproduce are not here, nor
    exports whose folder is gone, nor ``load``."""
    weights_hash: dict[str, str] = field(default_factory=dict)
    """Hash of the weights that the last ``compress`` made, by ``weights_key``."""
    loads: dict[str, StoredStep] = field(default_factory=dict)
    """Newest finished ``load`` by ``weights_key``."""

    def has(self, weights_key: str | None) -> Results:
        """Return what is stored for these weights; nothing for weights that could not be looked up."""
        return self.results.get(weights_key, _NOTHING) if weights_key is not None else _NOTHING

    def compressed(self, weights_key: str) -> StoredStep | None:
        """Return the step that made these weights."""
        found = self.has(weights_key).by_key.get(weights_key)
        return found.steps[-1] if found is not None else None

    def next_attempt(self, trial: str) -> int:
        """Return the number of the attempt that would be made now; the first is 1."""
        return self.last_attempt.get(trial, 0) + 1

    def last_failure(self, trial: str) -> Failure | None:
        """Return the first failure of a trial's newest attempt, or None if it had none."""
        attempts = self.attempts.get(trial)
        return attempts[-1].failures[0] if attempts and attempts[-1].failures else None

    @property
    def unfinished(self) -> list[Attempt]:
        """Newest attempts that have not ended: they run, or were killed."""
        return [attempts[-1] for attempts in self.attempts.values() if attempts[-1].state == "open"]


def read_stored(paths: StudyPaths) -> Stored:
    """Read what the journals of a study hold; without journals: nothing.

    Raises:
        StudyError: a journal is damaged in the middle, or newer than this studyctl.
    """
    return Index(paths).refresh()


class Index:
    """Keeps :class:`Stored` up to date while journals grow, reading only what is new."""

    def __init__(self, paths: StudyPaths) -> None:
        self._paths = paths
        self._scans: dict[str, _Scan] = {}
        self._by_trial: dict[str, set[str]] = {}
        """Names of the journals of a trial."""
        self._owners: dict[str, set[str]] = {}
        """Trials with steps of a ``weights_key``."""
        self._changed: set[str] = set()
        """Trials that were read and not gathered, because a journal after them could not be read."""
        self._stored = Stored()

    def refresh(self, only: Iterable[tuple[str, int]] | None = None) -> Stored:
        """Return what is stored now; the same object as before if no step or attempt began or ended.

        What did not change is the same object within the next :class:`Stored`, too.

        Args:
            only: Trials and attempts whose journals may have grown; None: any, and others may have come or gone.

        Raises:
            StudyError: a journal is damaged in the middle, or newer than this studyctl.
        """
        sizes = self._sizes(only)
        gone = set() if only is not None else self._scans.keys() - sizes.keys()
        changed = self._changed
        changed |= {self._forget(name) for name in gone}
        for name, size in sizes.items():
            scan = self._scans.get(name)
            if scan is None or size < scan.offset:
                scan = self._scans[name] = _Scan(self._paths.journal / name)
                self._by_trial.setdefault(scan.trial, set()).add(name)
                changed.add(scan.trial)
            if size != scan.size and scan.read_on(size):
                changed.add(scan.trial)
        if changed:
            self._stored = self._gather(changed)
            self._changed = set()
        return self._stored

    def _sizes(self, only: Iterable[tuple[str, int]] | None) -> dict[str, int]:
        if only is None:
            return {entry.name: entry.stat().st_size for entry in _journals(self._paths.journal)}
        files = [self._paths.attempt_journal(trial, attempt) for trial, attempt in only]
        return {file.name: file.stat().st_size for file in files if file.exists()}

    def _forget(self, name: str) -> str:
        """Drop a journal that is gone; return its trial."""
        scan = self._scans.pop(name)
        self._by_trial[scan.trial].discard(name)
        return scan.trial

    def _gather(self, trials: set[str]) -> Stored:
        """Return what is stored, gathered anew for these trials and for all that shares weights with them."""
        old = self._stored
        new = Stored(
            dict(old.attempts),
            dict(old.last_attempt),
            dict(old.results),
            dict(old.weights_hash),
            dict(old.loads),
        )
        keys: set[str] = set()
        for trial in trials:
            keys |= {step.weights_key for one in old.attempts.get(trial, ()) for step in one.steps}
            keys |= self._gather_trial(trial, new)
        for key in sorted(keys):
            owners = sorted(self._owners[key])
            attempts = [attempt for trial in owners for attempt in new.attempts.get(trial, ())]
            steps = [step for one in attempts for step in one.steps if step.weights_key == key]
            _gather_weights(key, steps, new, self._paths)
        return new

    def _gather_trial(self, trial: str, stored: Stored) -> set[str]:
        """Take the attempts of a trial; return the weights that they have steps of."""
        scans = sorted((self._scans[name] for name in self._by_trial[trial]), key=lambda scan: scan.number)
        attempts = tuple(scan.attempt for scan in scans if scan.attempt is not None)
        _set(stored.attempts, trial, attempts or None)
        _set(stored.last_attempt, trial, scans[-1].number if scans else None)
        keys = {step.weights_key for attempt in attempts for step in attempt.steps}
        for key in keys:
            self._owners.setdefault(key, set()).add(trial)
        return keys


def _journals(folder: Path) -> Iterator[os.DirEntry[str]]:
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                trial, _, attempt = entry.name.removesuffix(".jsonl").rpartition(".")
                if entry.name.endswith(".jsonl") and trial and attempt.isdecimal():
                    yield entry


class _Scan:
    """One journal, as far as it was read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trial, _, number = path.name.removesuffix(".jsonl").rpartition(".")
        self.number = int(number)
        self.offset = 0
        """Bytes that are parsed for good."""
        self.size = 0
        """Bytes that were looked at; more than ``offset`` when the last line was not finished."""
        self.attempt: Attempt | None = None
        self._started: AttemptStarted | None = None
        self._steps: list[StoredStep] = []
        self._failures: dict[Step, Failure] = {}
        self._open_step: Step | None = None
        self._begin = 0
        """Of the open step."""
        self._ended: AttemptFinished | None = None

    def read_on(self, size: int) -> bool:
        """Read what was appended; return whether a step or the attempt began or ended."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read()
        self.size = size
        whole = self._whole(data)
        found = False
        for begin, end in _marked_lines(data, whole):
            record = decode(data[begin:end])
            if record is None:
                if not data[end:whole].strip(b"\0\n"):
                    whole = begin  # the tail of a crash, or a line that is being written
                    break
                raise damaged(self.path, self._line_number(begin))
            found |= self._take(record, self.offset + begin, self.offset + end + 1)
        self.offset += whole
        if found and self._started is not None:
            self.attempt = Attempt(
                self.trial,
                self.number,
                self.path,
                self._started,
                tuple(self._steps),
                self._open_step,
                self._begin if self._open_step is not None else 0,
                tuple(self._failures.values()),
                self._ended,
            )
        return found

    def _whole(self, data: bytes) -> int:
        """Return how many bytes are whole records; damage before the last of them is an error.

        Most lines are never parsed, so all are counted by how a record begins.
        """
        whole = data.rfind(b"\n") + 1
        records = (whole > 0 and data.startswith(RECORDS)) + sum(
            data.count(b"\n" + begin, 0, whole) for begin in RECORDS
        )
        if records == data.count(b"\n", 0, whole):
            return whole
        begin = 0
        while data.startswith(RECORDS, begin):
            begin = data.index(b"\n", begin) + 1
        if any(data.find(b"\n" + one, begin, whole) >= 0 for one in RECORDS):
            raise damaged(self.path, self._line_number(begin))
        return begin  # the tail of a crash

    def _line_number(self, begin: int) -> int:
        with self.path.open("rb") as file:
            return file.read(self.offset + begin).count(b"\n") + 1

    def _take(self, record: AnyRecord, begin: int, end: int) -> bool:
        """Account for a record; return whether it is about a step or the attempt."""
        if isinstance(record, AttemptStarted):
            check_schema(record, self.path)
            self._started = record
            return True
        if self._started is None:
            return False
        match record:
            case StepStarted(step=step):
                if self._open_step != step:
                    self._begin = begin
                self._open_step = step
                self._failures.pop(step, None)
            case StepFinished():
                self._open_step = None
                self._append(self._finished(record, self._started, end))
            case StepFailed(step=step):
                self._open_step = None
                self._failures[step] = _failure(record)
            case AttemptFinished():
                self._open_step, self._ended = None, record
            case _:
                return False  # the marker was part of something else
        return True

    def _append(self, step: StoredStep) -> None:
        both = self._steps[-1].followed_by(step) if self._steps else None
        if both is not None:
            self._steps[-1] = both
        else:
            self._steps.append(step)

    def _finished(self, record: StepFinished, started: AttemptStarted, end: int) -> StoredStep:
        return StoredStep(
            trial=self.trial,
            attempt=self.number,
            step=record.step,
            weights_key=record.weights_key or started.weights_key,
            weights_hash=record.weights_hash,
            seconds=record.seconds,
            peak_memory_bytes=record.peak_memory_bytes,
            bits_per_weight=record.bits_per_weight,
            sparsity=record.sparsity,
            available=record.available,
            at=record.at,
            journal=self.path,
            begin=self._begin,
            end=end,
        )


def _failure(record: StepFailed) -> Failure:
    return Failure(record.step, record.error, record.cause, record.hint, record.at, record.permanent)


def _marked_lines(data: bytes, whole: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end (before its newline) of the lines about steps and attempts, in order."""
    ends: dict[int, int] = {}
    for marker in MARKERS:
        at = data.find(marker, 0, whole)
        while at >= 0:
            end = data.index(b"\n", at)
            ends[data.rfind(b"\n", 0, at) + 1] = end
            at = data.find(marker, end, whole)
    yield from sorted(ends.items())


def _gather_weights(key: str, steps: list[StoredStep], stored: Stored, paths: StudyPaths) -> None:
    """Find the current results among the steps of one ``weights_key``, oldest attempts first."""
    compressed: StoredStep | None = None
    load: StoredStep | None = None
    for one in steps:
        if one.step.kind is StepKind.COMPRESS:
            compressed = _newer(compressed, one)
        elif one.step.kind is StepKind.LOAD:
            load = _newer(load, one)
    results: dict[str, list[StoredStep]] = {}
    for one in steps:
        if one.step.kind is StepKind.EXPORT and exported_weights(paths.exported(one.trial)) != key:
            continue  # the folder was deleted, or holds other weights by now
        if one.step.kind is not StepKind.LOAD and (
            compressed is None or one.weights_hash == compressed.weights_hash
        ):
            results.setdefault(one.step.key or "", []).append(one)
    found = {step_key: StoredResult.of_steps(_oldest_first(those)) for step_key, those in results.items()}
    _set(stored.results, key, Results(found) if found else None)
    _set(stored.loads, key, load)
    _set(stored.weights_hash, key, compressed.weights_hash if compressed is not None else None)


def _oldest_first(steps: list[StoredStep]) -> list[StoredStep]:
    """Return steps in the order in which they count: attempts of one trial are numbered, others have a clock only."""

    def order(one: StoredStep, other: StoredStep) -> int:
        return -1 if _newer(one, other) is other else 1

    return sorted(steps, key=cmp_to_key(order))


def _set(values: dict[str, T], key: str, value: T | None) -> None:
    """Set a value, or remove it."""
    if value is None:
        values.pop(key, None)
    else:
        values[key] = value


def _newer(other: StoredStep | None, step: StoredStep) -> StoredStep:
    """Return the newer of two: attempts of one trial are numbered (a clock may be set back), others have a clock only."""
    if other is None:
        return step
    newer = step.attempt >= other.attempt if step.trial == other.trial else step.at >= other.at
    return step if newer else other

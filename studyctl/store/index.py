"""What the journals hold, by the keys of what was measured: fast enough to ask before and during every run.

Only lines about attempts and stages are parsed (they are found by a search for bytes), and a second look reads only what
was appended since. Where a stage's records lie in its journal is remembered, so that a publisher reads current results only.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from studyctl.files import StudyPaths
from studyctl.store.exports import exported_weights
from studyctl.store.journal import RECORD, Record, check_schema, damaged, decode

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredStage:
    """A stage that was finished, and where its records are."""

    trial: str
    """Trial that ran it; with equal keys the result also counts for another trial."""
    attempt: int
    stage: str
    key: str
    weights_key: str
    weights_hash: str | None
    seconds: float | None
    peak_memory_bytes: int | None
    bits_per_weight: float | None
    sparsity: float | None
    at: str
    """When it finished; UTC, ISO 8601."""
    journal: Path
    begin: int
    """Byte of its first ``stage_started`` line; a stage that is tried again within the attempt begins again."""
    end: int
    """Byte after its ``stage_finished`` line."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a stage of an attempt is not finished."""

    stage: str
    key: str | None
    error: str
    cause: str
    """``error``, ``out_of_memory``, ``killed`` or ``stopped``."""
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
    started: Record
    """Its ``attempt_started`` record."""
    stages: tuple[StoredStage, ...] = ()
    """Finished stages in the order in which they ran, ``load`` included."""
    open_stage: str | None = None
    """Stage that was begun and neither finished nor failed."""
    open_begin: int = 0
    """Byte of the open stage's ``stage_started`` line."""
    failures: tuple[Failure, ...] = ()
    """Stages that failed, oldest first: a failure of one evaluation does not keep the others from being run."""
    finished: Record | None = None
    """Its ``attempt_finished`` record; None while it runs, or when it was killed."""

    @property
    def weights_key(self) -> str:
        """Weights that it makes or measures."""
        return str(self.started.get("weights_key"))

    @property
    def state(self) -> str:
        """``open`` (running, or killed), ``done``, ``failed`` or ``stopped``."""
        return "open" if self.finished is None else str(self.finished["state"])


@dataclass(frozen=True, slots=True)
class Stored:
    """Everything that is acknowledged in the journals of a study."""

    attempts: dict[str, tuple[Attempt, ...]] = field(default_factory=dict)
    """By trial, oldest first."""
    last_attempt: dict[str, int] = field(default_factory=dict)
    """Highest attempt number by trial, also of journals without a whole record."""
    results: dict[str, dict[str, StoredStage]] = field(default_factory=dict)
    """Current results: ``weights_key`` -> stage key -> newest finished stage. Results of weights that the last
    ``compress`` did not reproduce are not here, nor exports whose folder is gone, nor ``load``."""
    weights_hash: dict[str, str] = field(default_factory=dict)
    """Hash of the weights that the last ``compress`` made, by ``weights_key``."""
    loads: dict[str, StoredStage] = field(default_factory=dict)
    """Newest finished ``load`` by ``weights_key``."""

    def has(self, weights_key: str | None) -> dict[str, StoredStage]:
        """Return what is stored for these weights, by stage key; nothing for weights that could not be looked up."""
        return self.results.get(weights_key, {}) if weights_key is not None else {}

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
        """Trials with stages of a ``weights_key``."""
        self._changed: set[str] = set()
        """Trials that were read and not gathered, because a journal after them could not be read."""
        self._stored = Stored()

    def refresh(self, only: Iterable[tuple[str, int]] | None = None) -> Stored:
        """Return what is stored now; the same object as before if no stage or attempt began or ended.

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
            keys |= {stage.weights_key for one in old.attempts.get(trial, ()) for stage in one.stages}
            keys |= self._gather_trial(trial, new)
        for key in sorted(keys):
            owners = sorted(self._owners[key])
            attempts = [attempt for trial in owners for attempt in new.attempts.get(trial, ())]
            stages = [stage for one in attempts for stage in one.stages if stage.weights_key == key]
            _gather_weights(key, stages, new, self._paths)
        return new

    def _gather_trial(self, trial: str, stored: Stored) -> set[str]:
        """Take the attempts of a trial; return the weights that they have stages of."""
        scans = sorted((self._scans[name] for name in self._by_trial[trial]), key=lambda scan: scan.number)
        attempts = tuple(scan.attempt for scan in scans if scan.attempt is not None)
        _set(stored.attempts, trial, attempts or None)
        _set(stored.last_attempt, trial, scans[-1].number if scans else None)
        keys = {stage.weights_key for attempt in attempts for stage in attempt.stages}
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
        self._started: Record | None = None
        self._stages: list[StoredStage] = []
        self._failures: dict[str, Failure] = {}
        self._open_stage: str | None = None
        self._begin, self._key = 0, None
        """Of the open stage."""
        self._ended: Record | None = None

    def read_on(self, size: int) -> bool:
        """Read what was appended; return whether a stage or the attempt began or ended."""
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
                tuple(self._stages),
                self._open_stage,
                self._begin if self._open_stage is not None else 0,
                tuple(self._failures.values()),
                self._ended,
            )
        return found

    def _whole(self, data: bytes) -> int:
        """Return how many bytes are whole records; damage before the last of them is an error.

        Most lines are never parsed, so all are counted by how a record begins.
        """
        whole = data.rfind(b"\n") + 1
        records = (whole > 0 and data.startswith(RECORD)) + data.count(b"\n" + RECORD, 0, whole)
        if records == data.count(b"\n", 0, whole):
            return whole
        begin = 0
        while data.startswith(RECORD, begin):
            begin = data.index(b"\n", begin) + 1
        if data.find(b"\n" + RECORD, begin, whole) >= 0:
            raise damaged(self.path, self._line_number(begin))
        return begin  # the tail of a crash

    def _line_number(self, begin: int) -> int:
        with self.path.open("rb") as file:
            return file.read(self.offset + begin).count(b"\n") + 1

    def _take(self, record: Record, begin: int, end: int) -> bool:
        """Account for a record; return whether it is about a stage or the attempt."""
        kind = record["kind"]
        if kind == "attempt_started":
            check_schema(record, self.path)
            self._started = record
            return True
        if self._started is None:
            return False
        if kind == "stage_started":
            stage = record["stage"]
            if self._open_stage != stage:
                self._begin, self._key = begin, record.get("key")
            self._open_stage = stage
            self._failures.pop(stage, None)
        elif kind == "stage_finished":
            self._open_stage = None
            self._stages.append(self._finished(record, end))
        elif kind == "stage_failed":
            self._open_stage = None
            self._failures[record["stage"]] = _failure(record)
        elif kind == "attempt_finished":
            self._open_stage, self._ended = None, record
        else:
            return False  # the marker was part of a message
        return True

    def _finished(self, record: Record, end: int) -> StoredStage:
        assert self._started is not None  # _take
        return StoredStage(
            trial=self.trial,
            attempt=self.number,
            stage=record["stage"],
            key=str(record.get("key") or self._key),
            weights_key=str(record.get("weights_key") or self._started.get("weights_key")),
            weights_hash=record.get("weights_hash"),
            seconds=record.get("seconds"),
            peak_memory_bytes=record.get("peak_memory_bytes"),
            bits_per_weight=record.get("bits_per_weight"),
            sparsity=record.get("sparsity"),
            at=record["at"],
            journal=self.path,
            begin=self._begin,
            end=end,
        )


def _failure(record: Record) -> Failure:
    return Failure(
        stage=record["stage"],
        key=record.get("key"),
        error=record.get("error") or "",
        cause=record.get("cause") or "error",
        hint=record.get("hint") or "",
        at=record["at"],
        permanent=bool(record.get("permanent")),
    )


def _marked_lines(data: bytes, whole: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end (before its newline) of the lines about stages and attempts, in order."""
    ends: dict[int, int] = {}
    for marker in (b'"stage_', b'"attempt_'):
        at = data.find(marker, 0, whole)
        while at >= 0:
            end = data.index(b"\n", at)
            ends[data.rfind(b"\n", 0, at) + 1] = end
            at = data.find(marker, end, whole)
    yield from sorted(ends.items())


def _gather_weights(key: str, stages: list[StoredStage], stored: Stored, paths: StudyPaths) -> None:
    """Find the current results among the stages of one ``weights_key``, oldest attempts first."""
    compressed: dict[str, StoredStage] = {}
    loads: dict[str, StoredStage] = {}
    for stage in stages:
        if stage.stage == "compress":
            _keep_newer(compressed, key, stage)
        elif stage.stage == "load":
            _keep_newer(loads, key, stage)
    last = compressed.get(key)
    results: dict[str, StoredStage] = {}
    for stage in stages:
        if stage.stage == "export" and exported_weights(paths.exported(stage.trial)) != key:
            continue  # the folder was deleted, or holds other weights by now
        if stage.stage != "load" and (last is None or stage.weights_hash == last.weights_hash):
            _keep_newer(results, stage.key, stage)
    _set(stored.results, key, results or None)
    _set(stored.loads, key, loads.get(key))
    _set(stored.weights_hash, key, last.weights_hash if last is not None else None)


def _set(values: dict[str, T], key: str, value: T | None) -> None:
    """Set a value, or remove it."""
    if value is None:
        values.pop(key, None)
    else:
        values[key] = value


def _keep_newer(newest: dict[str, StoredStage], key: str, stage: StoredStage) -> None:
    """Keep the newer of two: attempts of one trial are numbered (a clock may be set back), others have a clock only."""
    other = newest.get(key)
    if other is None or (
        stage.attempt >= other.attempt if stage.trial == other.trial else stage.at >= other.at
    ):
        newest[key] = stage

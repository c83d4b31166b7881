"""What the journals hold, by the keys of what was measured: fast enough to read before and during every run.

Only lines about attempts and steps are parsed (a search for bytes finds them), and a refresh reads only what was appended
since. The place of a step's records in its journal is remembered, so that the publisher reads only current results.
"""

import errno
import json
import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
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
from studyctl.contract.steps import BATCH_WINDOWS, Step, StepKind
from studyctl.files import StudyPaths, open_plain, read_plain
from studyctl.journal.files import (
    MARKERS,
    RECORDS,
    JournalTail,
    check_schema,
    damaged,
    decode,
    unreadable,
)
from studyctl.journal.stored import Attempt, Results, Stored, StoredResult, StoredStep

ABOUT = "studyctl.json"
"""In every exported folder: the content of its model card, for programs."""

_JOURNAL = re.compile(r"(.+)\.(\d+)\.jsonl")
"""Trial and attempt."""

T = TypeVar("T")


def read_stored(paths: StudyPaths) -> Stored:
    """Read what the journals of a study hold; an empty ``Stored`` if there are none.

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
        """Trials that were read but not gathered, because a later journal could not be read."""
        self._lost: dict[str, dict[int, _Lost]] = defaultdict(dict)
        """What runners recorded of attempts whose workers are gone, by trial and attempt."""
        self._lost_tails: dict[Path, JournalTail] = {}
        self._stored = Stored()

    def refresh(self, only: Iterable[tuple[str, int]] | None = None) -> Stored:
        """Return what is stored now; the same object as before if no step or attempt began or ended.

        Within a new :class:`Stored`, whatever did not change is the same object as before.

        Args:
            only: trials and attempts whose journals may have grown; None: any, and journals may have been added or removed.

        Raises:
            StudyError: a journal is damaged in the middle, or newer than this studyctl.
        """
        sizes = self._sizes(only)
        changed = self._changed
        for name in set() if only is not None else self._scans.keys() - sizes.keys():
            gone = self._scans.pop(name)
            self._by_trial[gone.trial].discard(name)
            changed.add(gone.trial)
        for name, size in sizes.items():
            scan = self._scans.get(name)
            if scan is None or size < scan.offset:
                scan = self._scans[name] = _Scan(self._paths.journal / name)
                self._by_trial.setdefault(scan.trial, set()).add(name)
                changed.add(scan.trial)
            if size != scan.size and scan.read_on(size):
                changed.add(scan.trial)
        self._read_lost(changed)
        if changed:
            self._stored = self._gather(changed)
            self._changed = set()
        return self._stored

    def _read_lost(self, changed: set[str]) -> None:
        """Read what runners recorded of lost attempts since the last call; add their trials to ``changed``."""
        for path in self._paths.all_lost():
            tail = self._lost_tails.setdefault(path, JournalTail(path))
            for record in tail.new_records():
                attempts = self._lost[record.trial]
                if isinstance(record, AttemptStarted):
                    check_schema(record, path)
                    attempts[record.attempt] = _Lost(record)
                elif (lost := attempts.get(record.attempt)) is not None:
                    attempts[record.attempt] = lost.with_record(record)
                changed.add(record.trial)

    def _sizes(self, only: Iterable[tuple[str, int]] | None) -> dict[str, int]:
        if only is not None:
            files = [self._paths.attempt_journal(trial, attempt) for trial, attempt in only]
            return {file.name: size for file in files if (size := _opened_size(file)) is not None}
        if not self._paths.journal.is_dir():
            return {}
        with os.scandir(self._paths.journal) as entries:
            return {entry.name: _size(entry) for entry in entries if _JOURNAL.fullmatch(entry.name)}

    def _gather(self, trials: set[str]) -> Stored:
        """Return what is stored, gathered again for these trials and for all that share weights with them."""
        old = self._stored
        new = Stored(
            dict(old.attempts),
            dict(old.last_attempt),
            dict(old.results),
            dict(old.loads),
        )
        keys: set[str] = set()
        for trial in trials:
            keys |= {step.weights_key for attempt in old.attempts.get(trial, ()) for step in attempt.steps}
            scans = {self._scans[name].number: self._scans[name] for name in self._by_trial.get(trial, ())}
            numbers = sorted({*scans, *self._lost.get(trial, ())})
            attempts = tuple(
                filter(None, (self._attempt(trial, number, scans.get(number)) for number in numbers))
            )
            _set(new.attempts, trial, attempts or None)
            _set(new.last_attempt, trial, numbers[-1] if numbers else None)
            for key in {step.weights_key for attempt in attempts for step in attempt.steps}:
                self._owners.setdefault(key, set()).add(trial)
                keys.add(key)
        for key in sorted(keys):
            owners = sorted(self._owners[key])
            steps = [
                step
                for trial in owners
                for attempt in new.attempts.get(trial, ())
                for step in attempt.steps
                if step.weights_key == key
            ]
            _gather_weights(key, steps, new, self._paths)
        return new

    def _attempt(self, trial: str, number: int, scan: "_Scan | None") -> Attempt | None:
        """Return an attempt as far as its own journal says, and how it ended where only a runner knows that."""
        attempt, lost = scan.attempt if scan is not None else None, self._lost.get(trial, {}).get(number)
        if lost is None or (attempt is not None and attempt.finished is not None):
            return attempt
        if attempt is None:
            attempt = Attempt(trial, number, self._paths.attempt_journal(trial, number), lost.started)
        failures = (*attempt.failures, *([lost.failure] if lost.failure is not None else []))
        return replace(attempt, open_step=None, failures=failures, finished=lost.finished)


class _Lost(NamedTuple):
    """What a runner recorded of an attempt whose worker is gone."""

    started: AttemptStarted
    failure: StepFailed | None = None
    finished: AttemptFinished | None = None

    def with_record(self, record: AnyRecord) -> "_Lost":
        match record:
            case StepFailed():
                return self._replace(failure=record)
            case AttemptFinished():
                return self._replace(finished=record)
        return self


class _Scan:
    """One journal, as far as it has been read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trial, _, number = path.name.removesuffix(".jsonl").rpartition(".")
        self.number = int(number)
        self.offset = 0
        """Bytes that need not be read again."""
        self.size = 0
        """Size of the file when it was read; more than ``offset`` if the last line was not finished."""
        self.attempt: Attempt | None = None
        self._started: AttemptStarted | None = None
        self._steps: list[StoredStep] = []
        self._failures: dict[Step, StepFailed] = {}
        self._open_step: Step | None = None
        self._begin = 0
        """Where the open step begins."""
        self._ended: AttemptFinished | None = None

    def read_on(self, size: int) -> bool:
        """Read what was appended; return whether a step or the attempt began or ended."""
        try:
            with open_plain(self.path) as file:
                file.seek(self.offset)
                data = file.read()
        except OSError as error:
            raise unreadable(self.path, error) from error
        self.size = size
        whole = self._whole(data)
        changed = False
        for begin, end in _marked_lines(data, whole):
            record = decode(data[begin:end])
            if record is None:
                if not data[end:whole].strip(b"\0\n"):
                    whole = begin  # the tail of a crash, or a line that is being written
                    break
                raise damaged(self.path, self._line_number(begin))
            changed |= self._take(record, self.offset + begin, self.offset + end + 1)
        self.offset += whole
        if changed and self._started is not None:
            self.attempt = Attempt(
                self.trial,
                self.number,
                self.path,
                self._started,
                tuple(self._steps),
                self._open_step,
                tuple(self._failures.values()),
                self._ended,
            )
        return changed

    def _whole(self, data: bytes) -> int:
        """Return how many bytes are whole records; damage before the last of them is an error.

        Most lines are never parsed, so damage is found by counting the lines that begin like a record.
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
        if any(data.find(b"\n" + start, begin, whole) >= 0 for start in RECORDS):
            raise damaged(self.path, self._line_number(begin))
        return begin  # the tail of a crash

    def _line_number(self, begin: int) -> int:
        with self.path.open("rb") as file:
            return file.read(self.offset + begin).count(b"\n") + 1

    def _take(self, record: AnyRecord, begin: int, end: int) -> bool:
        """Take a record into account; return whether it is about a step or the attempt."""
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
            case StepFinished(step=step):
                if step.windows is not None and step.windows[1] - step.windows[0] > BATCH_WINDOWS:
                    raise damaged(self.path, self._line_number(begin - self.offset))
                self._open_step = None
                finished = self._finished(record, self._started, end)
                joined = self._steps[-1].followed_by(finished) if self._steps else None
                if joined is not None:
                    self._steps.pop()
                self._steps.append(joined or finished)
            case StepFailed(step=step):
                self._open_step = None
                self._failures[step] = record
            case AttemptFinished():
                self._open_step, self._ended = None, record
            case _:
                return False  # the marker was in another kind of record
        return True

    def _finished(self, record: StepFinished, started: AttemptStarted, end: int) -> StoredStep:
        return StoredStep(
            trial=self.trial,
            attempt=self.number,
            step=record.step,
            weights_key=record.weights_key or started.weights_key,
            weights_hash=record.weights_hash,
            seconds=record.seconds,
            peak_memory_bytes=record.peak_memory_bytes,
            peak_device_bytes=record.peak_device_bytes,
            bits_per_weight=record.bits_per_weight,
            sparsity=record.sparsity,
            available=record.available,
            at=record.at,
            journal=self.path,
            begin=self._begin,
            end=end,
            file=record.file,
        )


def _opened_size(file: Path) -> int | None:
    """Return the size of a journal; None if there is none. It is opened, since only then a network file system asks its server."""
    try:
        with open_plain(file) as opened:
            return os.fstat(opened.fileno()).st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(file, error) from error


def _size(entry: os.DirEntry[str]) -> int:
    try:
        status = entry.stat()
    except OSError as error:
        raise unreadable(Path(entry.path), error) from error
    if not stat.S_ISREG(status.st_mode):  # its size would say that there is nothing to read
        raise unreadable(Path(entry.path), OSError(errno.EINVAL, "it is not a plain file"))
    return status.st_size


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
    """Put the results of one ``weights_key`` into ``stored``; the steps of each trial are oldest first."""
    by_hash: dict[str | None, dict[str, list[StoredStep]]] = {}
    load: StoredStep | None = None
    for step in _oldest_first(steps):
        if step.step.kind is StepKind.LOAD:
            load = step
        elif step.step.kind is not StepKind.EXPORT or exported_weights(paths.exported(step.trial)) == key:
            # Else the folder was deleted, or holds other weights by now.
            by_hash.setdefault(step.weights_hash or None, {}).setdefault(step.step.key or "", []).append(step)
    results = tuple(
        Results({step_key: StoredResult.of_steps(same) for step_key, same in by_key.items()}, weights_hash)
        for weights_hash, by_key in by_hash.items()
    )
    _set(stored.results, key, results or None)
    _set(stored.loads, key, load)


def _oldest_first(steps: list[StoredStep]) -> list[StoredStep]:
    """Return steps sorted by time, those of one trial in their given order.

    A clock may be set back between two attempts: a later step of a trial counts as no older than the one before it.
    """
    times: dict[str, str] = {}

    def time(step: StoredStep) -> str:
        times[step.trial] = max(times.get(step.trial, ""), step.at)
        return times[step.trial]

    return sorted(steps, key=time)


def _set(values: dict[str, T], key: str, value: T | None) -> None:
    """Set a value, or remove it."""
    if value is None:
        values.pop(key, None)
    else:
        values[key] = value


def exported_weights(folder: Path) -> str | None:
    """Return the ``weights_key`` of an exported folder; None if it does not exist, or is no export.

    A folder is complete if it exists at all, so nothing else in it is checked.
    """
    try:
        return str(json.loads(read_plain(folder / ABOUT))["weights_key"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None

"""The journals of a study: one append-only JSON-lines file per attempt, of :mod:`studyctl.contract.records`.

Each has one writer, the worker that runs the attempt. What a runner knows of attempts whose workers are gone is in a file of its
own: a worker that only seems dead may still write.

A crash can leave a last line that is cut short (even inside a UTF-8 sequence), or zero bytes after a power cut. Such a tail was
never acknowledged, so it is skipped. Damage anywhere else is an error that names file and line, never a silently shorter study.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from studyctl.contract import records
from studyctl.contract.records import (
    SCHEMA,
    AnyRecord,
    AttemptStarted,
    BlockDistance,
    ChunkResults,
    Layer,
    Progress,
    Record,
    StepStarted,
    TextBatch,
    Window,
    encode,
)
from studyctl.errors import Problem, StudyError
from studyctl.files import open_plain, read_plain, sync_folder
from studyctl.journal.upgrade import upgraded

RECORDS = (b'{"kind":"', b'{"seq":')
"""How the line of a record begins; the latter in journals from before 0.2."""
MARKERS = (b'"kind":"step_', b'"kind":"attempt_', b'"kind":"stage_')
"""Each line about a step or an attempt contains one of these; the last in journals from before 0.2."""

UNSYNCED = (Progress, StepStarted, Layer, Window, TextBatch, BlockDistance, ChunkResults)
"""Records that are not synced when written: nothing relies on them before the ``step_finished`` that syncs them too
(nor on chunks, which only save work)."""

_sync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


class JournalWriter(AbstractContextManager["JournalWriter"]):
    """Writes a journal; every other process only reads it.

    An existing file is continued after its last whole record; what a crash left after that is cut off first. All records get
    ``trial`` and ``attempt`` of the last ``attempt_started`` record.

    Args:
        path: the file.
        new: the file must not exist: the journal of an attempt has one writer for ever.

    Raises:
        StudyError: the file cannot be written (disk full, no permission), or exists and is to be new.
    """

    def __init__(self, path: Path, *, new: bool = False) -> None:
        self.path = path
        self._lock = Lock()
        self._trial, self._attempt = "", -1
        self._seq = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            created = new or not path.exists()
            records, self._end = ([], 0) if created else parse(read_plain(path), path)
            for record in records:
                self._seq = record.seq + 1
                if isinstance(record, AttemptStarted):
                    self._trial, self._attempt = record.trial, record.attempt
            # A link in a folder that somebody else made could lead anywhere.
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.open(path, flags | (os.O_EXCL if new else 0), 0o666)
            os.ftruncate(self._file, self._end)
            if created:
                sync_folder(path.parent)
        except OSError as error:
            raise _cannot_write(path, error) from error

    def write(self, record: Record) -> None:
        """Append a record, which gets its number, time and origin; it is on the disk when this returns.

        (Those in :data:`UNSYNCED` are on the disk with the next record that is not.)

        Raises:
            StudyError: the disk is full or gone; the file holds whole records only.
        """
        with self._lock:
            if isinstance(record, AttemptStarted):
                self._trial, self._attempt = record.trial, record.attempt
            record.seq, record.at = self._seq, datetime.now(UTC).isoformat(timespec="milliseconds")
            record.trial, record.attempt = self._trial, self._attempt
            line = encode(record)
            try:
                self._append(line)
                self._seq += 1
                if not isinstance(record, UNSYNCED):
                    _sync(self._file)
            except OSError as error:
                raise _cannot_write(self.path, error) from error

    def _append(self, line: bytes) -> None:
        """Write a whole line or nothing: a line cut short by a full disk would swallow the one that follows."""
        written = 0
        try:
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError:
            os.ftruncate(self._file, self._end)
            raise
        self._end += written

    def close(self) -> None:
        """Close the file; a closed writer cannot be used again."""
        os.close(self._file)

    def __exit__(self, *_: object) -> None:
        self.close()


class JournalTail:
    """Follows a journal while it is written: each call returns what is new."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._lines = 0

    def new_records(self) -> list[AnyRecord]:
        """Return the whole records since the last call; a line that is not finished yet waits for the next call.

        A file that does not exist yet has none.

        Raises:
            StudyError: a line in the middle is damaged, or the journal is newer than this studyctl.
        """
        try:
            with open_plain(self.path) as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise unreadable(self.path, error) from error
        new, consumed = parse(data, self.path, first_line=self._lines + 1)
        self._offset += consumed
        self._lines += data.count(b"\n", 0, consumed)
        return new


def read_journal(path: Path) -> Iterator[AnyRecord]:
    """Yield the records of a journal, without a tail that a crash left behind.

    Raises:
        StudyError: a line in the middle is damaged, or the journal is newer than this studyctl.
        OSError: the file cannot be read.
    """
    yield from parse(read_plain(path), path)[0]


def parse(data: bytes, path: Path, first_line: int = 1) -> tuple[list[AnyRecord], int]:
    """Parse whole lines; return the records and how many bytes they took.

    Args:
        data: Bytes of the journal from the beginning of a line on.
        path: Named in errors.
        first_line: Number of the first line of ``data`` in its file.
    """
    lines = data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]
    parsed: list[AnyRecord] = []
    consumed = 0
    for number, line in enumerate(lines):
        record = decode(line)
        if record is None:
            if number == len(lines) - 1 or not data[consumed:].strip(b"\0\n"):
                break  # the tail of a crash
            raise damaged(path, first_line + number)
        if isinstance(record, AttemptStarted):
            check_schema(record, path)
        parsed.append(record)
        consumed += len(line) + 1
    return parsed, consumed


def decode(line: bytes) -> AnyRecord | None:
    """Return the record of a line; None if the line is no record."""
    try:
        return records.decode(line)
    except (ValueError, RecursionError):
        with suppress(ValueError, RecursionError):
            return upgraded(line)
    return None


def check_schema(started: AttemptStarted, path: Path) -> None:
    """Refuse a journal that a later studyctl wrote.

    Raises:
        StudyError: its schema number is higher than :data:`SCHEMA`.
    """
    if started.schema > SCHEMA:
        raise StudyError(
            f"{path.name} was written by studyctl {started.studyctl} "
            f"(journal schema {started.schema}); this one reads schema {SCHEMA}",
            file=path,
            hint="use that version of studyctl or a later one for this study",
        )


def unreadable(path: Path, error: OSError) -> StudyError:
    """Return the error for a journal that cannot be opened or read."""
    return StudyError(
        f"{path} cannot be read: {error.strerror or error}",
        file=path,
        hint=f"make it readable, or move {path.name} out of the journal folder",
    )


def damaged(path: Path, line: int) -> StudyError:
    """Return the error for a line in the middle of a journal that is not a record."""
    return StudyError(
        Problem(
            f"line {line} of {path.name} is damaged: it is not a record",
            file=path,
            line=line,
            hint=f"move {path.name} out of the journal folder; what only this attempt measured is then measured again",
        )
    )


def _cannot_write(path: Path, error: OSError) -> StudyError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "free some space and run again" if full else "make the folder writable and run again"
    message = f"cannot write {path}: {error.strerror or error}"
    return StudyError(message, file=path, hint=f"{hint}; what is stored is kept")

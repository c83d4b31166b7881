"""The reporter of a worker: every record goes to the journal first, then to the runner."""

import time

from studyctl.errors import StudyError
from studyctl.run.channel import Channel
from studyctl.run.protocol import Job
from studyctl.store.journal import JournalWriter

PROGRESS_SECONDS = 0.5
"""Progress is written at most this often; the last of a stage always is."""


class StopRequested(Exception):
    """The user asked to stop now."""


class CannotWriteError(Exception):
    """The study's folder cannot be written: nothing can be acknowledged any more, so the worker ends."""


class Recorder:
    """Writes records of one attempt."""

    def __init__(self, job: Job, journal: JournalWriter | None, channel: Channel) -> None:
        self.stage = "load"
        self._job = job
        self._journal = journal
        self._channel = channel
        self._last_progress = 0.0

    def write(self, kind: str, **fields: object) -> None:
        """Write a record to the journal, if there is one, and tell the runner."""
        try:
            if self._journal is not None:
                self._journal.write(kind, **fields)
        except StudyError as error:
            raise CannotWriteError(str(error)) from error
        self._channel.tell({"kind": kind, "trial": self._job.trial, "attempt": self._job.attempt, **fields})

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        """Write progress, throttled; the last of a stage is never lost."""
        now = time.monotonic()
        if done < total and now - self._last_progress < PROGRESS_SECONDS:
            return
        self._last_progress = now
        self.write("progress", stage=self.stage, done=done, total=total, unit=unit, note=note)

    def record(self, kind: str, **fields: object) -> None:
        """Write a result of the running stage."""
        self.write(kind, stage=self.stage, **fields)

    def warning(self, message: str, **fields: object) -> None:
        """Write a warning of the running stage."""
        self.write("warning", stage=self.stage, message=message, **fields)

    def check_stop(self) -> None:
        """Raise StopRequested if the user asked to stop now."""
        if self._channel.stop == "now":
            raise StopRequested

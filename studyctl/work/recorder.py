"""The reporter of a worker: every record goes to the journal first, then to the runner."""

import time

from studyctl.contract.job import Job
from studyctl.contract.records import Progress, Record, Warned
from studyctl.contract.steps import Step, StepKind
from studyctl.errors import StudyError
from studyctl.journal.files import JournalWriter
from studyctl.work.channel import Channel

PROGRESS_SECONDS = 0.5
"""Progress is written at most this often; the last of a step always is."""


class StopRequested(Exception):
    """The user asked to stop now."""


class CannotWriteError(Exception):
    """The study's folder cannot be written: nothing can be acknowledged any more, so the worker ends."""


class Recorder:
    """Writes records of one attempt."""

    def __init__(self, job: Job, journal: JournalWriter | None, channel: Channel) -> None:
        self.step = Step(StepKind.LOAD)
        """The one that is running."""
        self._job = job
        self._journal = journal
        self._channel = channel
        self._last_progress = 0.0

    def record(self, record: Record) -> None:
        """Write a record to the journal, if there is one, and tell the runner."""
        try:
            if self._journal is not None:
                self._journal.write(record)
            else:
                record.trial, record.attempt = self._job.trial, self._job.attempt
        except StudyError as error:
            raise CannotWriteError(str(error)) from error
        self._channel.tell(record)

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        """Write progress, throttled; the last of a step is never lost."""
        now = time.monotonic()
        if done < total and now - self._last_progress < PROGRESS_SECONDS:
            return
        self._last_progress = now
        self.record(Progress(step=self.step, done=done, total=total, unit=unit, note=note))

    def warning(self, message: str, **details: object) -> None:
        """Write a warning of the running step."""
        self.record(Warned(step=self.step, message=message, details=details))

    def check_stop(self) -> None:
        """Raise StopRequested if the user asked to stop now."""
        if self._channel.stop == "now":
            raise StopRequested

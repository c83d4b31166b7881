"""Chunks of a task that are done while the task is not, on disk, so that an attempt goes on where a killed one was.

They are no results: what a task gave is in its journal when it ends, and this file is deleted then. Torn or lost, it costs the
work of a task.
"""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from studyctl.contract.records import ChunkResults
from studyctl.errors import StudyError
from studyctl.journal.files import JournalWriter, read_journal
from studyctl.work.recorder import CannotWriteError

SAVE_SECONDS = 2.0
"""How much work a kill may cost, a chunk aside that takes longer."""


class ChunkFile:
    """The chunks of one task; what is not on disk yet is written when the context is left."""

    def __init__(self, path: Path, weights: str) -> None:
        self._path = path
        self._weights = weights
        self._plan = ""
        self._unsaved: dict[int, Any] = {}
        self._since = time.monotonic()
        self._file: JournalWriter | None = None
        self.seconds_before = 0.0
        """What the chunks took that were taken up."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._save()
        finally:
            if self._file is not None:
                self._file.close()

    def begin(self, plan: str) -> dict[int, Any]:
        """Return the results of chunks that are stored for the same plan and the same weights."""
        self._save()
        self._plan = f"{self._weights} {plan}"
        self._since = time.monotonic()
        try:
            records = list(read_journal(self._path))
        except FileNotFoundError:
            return {}
        except StudyError:  # damaged in the middle
            self._path.unlink()
            return {}
        stored = [one for one in records if isinstance(one, ChunkResults) and one.plan == self._plan]
        self.seconds_before += sum(record.seconds for record in stored)
        return {number: result for record in stored for number, result in record.chunks.items()}

    def add(self, chunk: int, result: Any) -> None:
        """Keep the result of a chunk; it is on disk when some seconds of work are together.

        A result that is not finite is no JSON, and is computed again.

        Raises:
            CannotWriteError: the disk is full or gone.
        """
        with suppress(ValueError):
            json.dumps(result, allow_nan=False)
            self._unsaved[chunk] = result
        if time.monotonic() - self._since >= SAVE_SECONDS:
            self._save()

    def _save(self) -> None:
        if not self._unsaved:
            return
        try:
            if self._file is None:
                self._file = JournalWriter(self._path)
            seconds = time.monotonic() - self._since
            self._file.write(ChunkResults(plan=self._plan, chunks=self._unsaved, seconds=seconds))
        except StudyError as error:
            raise CannotWriteError(str(error)) from error
        self._unsaved, self._since = {}, time.monotonic()

"""The finished chunks of an unfinished task, on disk, so that an attempt resumes where a killed one stopped.

They are not results: those are journaled when the task ends, and these files are deleted then. If one is torn or lost, its chunks
are scored again. Each attempt writes a file of its own: the one before it may only seem dead.
"""

import json
import time
from pathlib import Path
from typing import Any, Self

from studyctl.contract.records import ChunkResults
from studyctl.errors import StudyError
from studyctl.journal.files import JournalWriter, read_journal
from studyctl.work.recorder import CannotWriteError


class ChunkFile:
    """The answers to the chunks of one task, by the plan that they were computed for (see ``ResumableChunks``)."""

    def __init__(self, folder: Path, attempt: int, weights: str) -> None:
        self._weights = weights
        self._plan = ""
        self._since = time.monotonic()
        self._saved: list[ChunkResults] = []
        self.seconds_before = 0.0
        """Seconds that the saved chunks took in earlier attempts."""
        for path in sorted(folder.glob("*.jsonl")):
            try:
                self._saved += [record for record in read_journal(path) if isinstance(record, ChunkResults)]
            except FileNotFoundError:  # another attempt has just finished the task
                pass
            except StudyError:  # damaged in the middle
                path.unlink(missing_ok=True)
        self._file = JournalWriter(folder / f"{attempt}.jsonl")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def begin(self, plan: str) -> dict[int, Any]:
        """Return the answers of chunks that are saved for the same plan and the same weights."""
        self._plan = f"{self._weights} {plan}"
        self._since = time.monotonic()
        records = [record for record in self._saved if record.plan == self._plan]
        self.seconds_before += sum(record.seconds for record in records)
        return {number: answers for record in records for number, answers in record.chunks.items()}

    def add(self, chunk: int, answers: Any) -> None:
        """Save the answers of a chunk, unless they are not finite, which JSON cannot hold: then they are computed again.

        Raises:
            CannotWriteError: the disk is full or gone.
        """
        try:
            json.dumps(answers, allow_nan=False)
        except ValueError:
            return
        seconds = time.monotonic() - self._since
        self._since += seconds
        try:
            self._file.write(ChunkResults(plan=self._plan, chunks={chunk: answers}, seconds=seconds))
        except StudyError as error:
            raise CannotWriteError(str(error)) from error

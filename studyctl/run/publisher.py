"""Publishing while the study runs, in a separate thread."""

import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from studyctl.errors import StudyError
from studyctl.journal.index import Index
from studyctl.run.hold import Hold
from studyctl.store.publish import Published, publish

LEAST_PAUSE_SECONDS = 5.0
PAUSE_FACTOR = 10
"""Pause as a multiple of the time that publishing takes: rebuilding after every step would be quadratic in a long study."""


class Publisher:
    """Rebuilds the database when there is something new and the last rebuild was long enough ago."""

    def __init__(self, held: Hold) -> None:
        self._new: set[tuple[str, int]] | None = None
        """Attempts whose journals have something new; None: any."""
        self._dirty = False
        self._held = held
        self._index = Index(held.paths)  # not the runner's: it is used in the thread
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="publisher")
        self._at_work: Future[Published] | None = None
        self._next = 0.0

    def changed(self, trial: str = "", attempt: int = 0) -> None:
        """Publish when it is due: an attempt has something new, or without one, anything may have."""
        self._dirty = True
        if not trial:
            self._new = None
        elif self._new is not None:
            self._new.add((trial, attempt))

    def tick(self, running: Iterable[str]) -> None:
        """Start publishing if it is due; ``running``: trials that workers are running.

        Raises:
            HeldError: the study was taken over.
            StudyError: the last publication failed; what comes next is published all the same.
        """
        if self._at_work is not None and self._at_work.done():
            self._collect()
        if self._dirty and self._at_work is None and time.monotonic() >= self._next:
            new, self._new, self._dirty = self._new, set(), False
            self._at_work = self._pool.submit(
                publish, self._held.paths, frozenset(running), self._index, self._held.check, new
            )

    def settle(self) -> None:
        """Wait for the publication that is at work.

        Raises:
            StudyError: it failed.
        """
        self._collect()

    def finish(self) -> None:
        """Publish once more, and wait for it.

        Raises:
            StudyError: it failed.
        """
        self._collect()
        self.changed()
        self._next = 0.0
        self.tick(())
        self._collect()
        self._pool.shutdown()

    def _collect(self) -> None:
        if self._at_work is not None:
            ended, self._at_work = self._at_work, None
            self._next = time.monotonic() + LEAST_PAUSE_SECONDS
            try:
                seconds = ended.result().seconds
            except StudyError:
                self._new = None  # nobody knows how far it came
                raise
            self._next = time.monotonic() + max(LEAST_PAUSE_SECONDS, PAUSE_FACTOR * seconds)

"""Publishes while the study runs, in a thread of its own."""

import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from studyctl.files import StudyPaths
from studyctl.journal.index import Index
from studyctl.store.publish import Published, publish

LEAST_PAUSE_SECONDS = 5.0
PAUSE_FACTOR = 10
"""Rebuilding after every step would be quadratic in a long study: a tenth of the time at most goes into it."""


class Publisher:
    """Rebuilds the database when something was measured and the last time is long enough ago."""

    def __init__(self, paths: StudyPaths) -> None:
        self.dirty = False
        """Whether there is something to publish."""
        self._paths = paths
        self._index = Index(paths)  # its own: it is used in the thread
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="publisher")
        self._at_work: Future[Published] | None = None
        self._next = 0.0

    def tick(self, running: Iterable[str]) -> None:
        """Start to publish if it is time; ``running``: trials that a worker is at.

        Raises:
            StudyError: the last publication failed.
        """
        if self._at_work is not None and self._at_work.done():
            self._collect()
        if self.dirty and self._at_work is None and time.monotonic() >= self._next:
            self.dirty = False
            self._at_work = self._pool.submit(publish, self._paths, frozenset(running), self._index)

    def finish(self) -> None:
        """Publish what is left, and wait for it.

        Raises:
            StudyError: it failed.
        """
        self._collect()
        self.dirty, self._next = True, 0.0
        self.tick(())
        self._collect()
        self._pool.shutdown()

    def _collect(self) -> None:
        if self._at_work is not None:
            published, self._at_work = self._at_work.result(), None
            self._next = time.monotonic() + max(LEAST_PAUSE_SECONDS, PAUSE_FACTOR * published.seconds)

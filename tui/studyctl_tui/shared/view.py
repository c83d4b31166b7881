"""The state of the open study, read in a thread: screens draw it and never wait for a file."""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace

from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.store.live import Live, Snapshot, TrialDetail
from studyctl.store.results import Finding, Standing


@dataclass(frozen=True, slots=True)
class View:
    """The open study at one moment. What did not change since the last moment is the same object."""

    paths: StudyPaths
    snapshot: Snapshot
    standings: Mapping[str, Standing] = field(default_factory=dict)
    """Figures by trial, if it has some; at first only for as many trials as a screen shows."""
    detail: TrialDetail | None = None
    """Of the selected trial."""
    warnings: tuple[Finding, ...] = ()
    """Of all trials as published, the newest first."""
    published_at: str = ""
    """When the database was published; UTC, ISO 8601; empty before the first publication."""
    trouble: StudyError | None = None
    """Why this is not the newest state (a journal of a later version, a damaged file); None when all is well."""


class Watcher:
    """Reads one study; each call of :meth:`look` returns the newest view. Safe to call from any thread."""

    def __init__(self, paths: StudyPaths) -> None:
        self.paths = paths
        self.selected: str | None = None
        """Trial whose details are shown."""
        self._live = Live(paths)
        self._lock = threading.Lock()
        self._last = View(paths, Snapshot(paths.name, "", ()))
        self._early: Future[View | None] | None = None
        self._glanced = False

    def begin(self) -> None:
        """Read the published state in a thread, while the app is still being imported."""
        pool = ThreadPoolExecutor(1)
        self._early = pool.submit(self._glance)
        pool.shutdown(wait=False)

    def seen_early(self) -> View | None:
        """Return the view of :meth:`begin` if it is ready; never waits."""
        return self._early.result() if self._early is not None and self._early.done() else None

    def glances(self) -> Iterator[View]:
        """Yield the last published state without reading the journals, which is slow if there are many.

        First with the figures of as many trials as a screen shows, then with all; later calls yield nothing.
        """
        with self._lock:
            glanced, self._glanced = self._glanced, True
            early, self._early = self._early, None
        if glanced:
            return
        first = self._glance() if early is None else early.result()
        if first is None:
            return
        yield first
        if len(first.standings) < len(first.snapshot.trials):
            with self._lock, suppress(StudyError, OSError):  # the look that follows reports it
                standings = self._live.published_standings()
                self._last = replace(self._last, standings=standings, published_at=self._live.published_at)
            yield self._last

    def _glance(self) -> View | None:
        with self._lock, suppress(StudyError, OSError):  # the look that follows reports it
            if (glance := self._live.as_published()) is not None:
                self._last = View(
                    self.paths, glance.snapshot, glance.standings, published_at=glance.published_at
                )
                return self._last
        return None

    def look(self) -> View:
        """Read what is new. Trouble is part of the view, with what was read before."""
        with self._lock:
            try:
                snapshot = self._live.refresh()
                standings = self._live.standings()
                planned = any(trial.trial == self.selected for trial in snapshot.trials)
                detail = self._live.trial(self.selected) if self.selected and planned else None
                warnings = self._live.newest_warnings
                self._last = View(self.paths, snapshot, standings, detail, warnings, self._live.published_at)
            except StudyError as error:
                self._last = replace(self._last, trouble=error)
            except OSError as error:
                problem = f"cannot read {error.filename or self.paths.root}: {error.strerror}"
                hint = "read again every second: a file system far away may come back"
                self._last = replace(self._last, trouble=StudyError(problem, hint))
            return self._last

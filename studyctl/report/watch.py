"""``studyctl watch`` without a terminal: lines of what happens, until the run ends."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote

from rich.console import Console
from rich.text import Text

from studyctl.contract.records import (
    AnyRecord,
    AttemptFinished,
    AttemptStarted,
    Progress,
    StepFailed,
    StepFinished,
)
from studyctl.files import StudyPaths
from studyctl.journal.files import JournalTail
from studyctl.report.lines import Lines, progress_line
from studyctl.store.holder import Holder
from studyctl.store.live import Live, Snapshot
from studyctl.units import duration_text

LOOK_SECONDS = 1.0
"""How often the journals are read."""
PROGRESS_SECONDS = 60.0
"""How often the progress of a step is printed."""


def watch_plainly(paths: StudyPaths, console: Console) -> None:
    """Print the state of a study, what happens in it until its run ends, and its final state.

    Raises:
        StudyError: a journal is damaged in the middle or newer than this studyctl, or the plan is unreadable.
    """
    live = Live(paths)
    snapshot = live.refresh()
    _print(console, standing_line(snapshot, paths))
    if not snapshot.running:
        return
    watch = _Watch(paths, console)
    watch.begin(snapshot)
    while snapshot.running:
        time.sleep(LOOK_SECONDS)
        # `refresh` looks for the runner before the journals are read here, so its last records are not missed.
        snapshot = live.refresh()
        watch.print_new(snapshot)
    _print(console, standing_line(snapshot, paths))


def standing_line(snapshot: Snapshot, paths: StudyPaths) -> str:
    """Return the state of a study, on one line: ``mine: 14/16 trials done · 1 failed · 12 min left``."""
    parts = [f"{snapshot.study}: {_progress_of(snapshot)}"]
    runner = snapshot.runner
    if runner is not None and snapshot.running:
        parts.append(f"run by {runner}")
    elif runner is not None:
        parts.append(death(runner, paths))
    elif snapshot.count("done") < len(snapshot.trials):
        parts.append(f"nobody runs it; `studyctl run {quote(str(paths.spec))}` goes on")
    return " · ".join(parts)


def death(runner: Holder, paths: StudyPaths) -> str:
    """Return that a runner died, since when it is silent, and what to do."""
    ago = max(0.0, (datetime.now(UTC) - runner.heartbeat).total_seconds())
    died = f"its runner on {runner.host} died, last sign of life {duration_text(ago)} ago"
    return f"{died}; `studyctl run {quote(str(paths.spec))}` goes on"


def _counts(snapshot: Snapshot) -> str:
    done = f"{snapshot.count('done')}/{len(snapshot.trials)} trials done"
    failed = snapshot.count("failed")
    return f"{done} · {failed} failed" if failed else done


def _progress_of(snapshot: Snapshot) -> str:
    runner = snapshot.runner
    if snapshot.running and runner is not None and runner.seconds_left:
        return f"{_counts(snapshot)} · {duration_text(runner.seconds_left)} left"
    return _counts(snapshot)


def _print(console: Console, line: str) -> None:
    console.print(Text(line), soft_wrap=True)


class _Watch:
    """Prints what is appended to the journals from :meth:`begin` on."""

    def __init__(self, paths: StudyPaths, console: Console) -> None:
        self._paths, self._console = paths, console
        self._old: set[Path] = set()
        """Journals of attempts that have ended."""
        self._tails: dict[Path, JournalTail] = {}
        self._positions: dict[str, str] = {}
        """Progress line of the running step, by trial."""
        self._printed: dict[str, float] = {}
        """When a line of a trial was last printed."""
        self._overall = ""
        self._lines = Lines()

    def begin(self, snapshot: Snapshot) -> None:
        """Print what is running, and skip records that were written before."""
        self._overall = _counts(snapshot)
        attempts = snapshot.runner.attempts if snapshot.runner is not None else ()
        running = {self._paths.attempt_journal(attempt["trial"], attempt["attempt"]) for attempt in attempts}
        self._old = set(self._journals()) - running
        for path in running:
            self._tails[path] = JournalTail(path)
            for record in self._tails[path].new_records():
                self._lines.of(record)  # adds up the seconds of the batches so far
        for trial in snapshot.trials:
            if trial.state == "running" and trial.step is not None:
                self._printed[trial.trial] = time.monotonic()
                position = f"  {trial.unit} {trial.done:g}/{trial.total:g}" if trial.total else ""
                _print(self._console, f"▶ {trial.trial}  {trial.step}{position}")

    def _journals(self) -> Iterator[Path]:
        """Yield the journals of attempts, and those of runners about attempts whose workers are gone."""
        yield from self._paths.journal.glob("*.jsonl")
        yield from self._paths.all_lost()

    def print_new(self, snapshot: Snapshot) -> None:
        """Print what is new since the last call."""
        began = set(self._journals()) - self._old - self._tails.keys()
        self._tails |= {path: JournalTail(path) for path in sorted(began)}
        for path, tail in list(self._tails.items()):
            for record in tail.new_records():
                is_own = path.parent == self._paths.journal
                if is_own or not isinstance(record, AttemptStarted):
                    self._take(record)
                if is_own and isinstance(record, AttemptFinished):
                    del self._tails[path]
                    self._old.add(path)
        now = time.monotonic()
        for trial, line in self._positions.items():
            if now - self._printed.setdefault(trial, now) >= PROGRESS_SECONDS:
                self._printed[trial] = now
                _print(self._console, line)
        if snapshot.running and (counts := _counts(snapshot)) != self._overall:
            self._overall = counts
            _print(self._console, f"{snapshot.study}: {_progress_of(snapshot)}")

    def _take(self, record: AnyRecord) -> None:
        if isinstance(record, Progress):
            self._positions[record.trial] = progress_line(record)
        elif isinstance(record, AttemptStarted | StepFinished | StepFailed | AttemptFinished):
            self._positions.pop(record.trial, None)
            if not isinstance(record, StepFinished) or record.is_last:
                self._printed[record.trial] = time.monotonic()
        if (text := self._lines.of(record)) is not None:
            _print(self._console, text)
        if isinstance(record, StepFailed) and record.hint:
            _print(self._console, f"  hint: {record.hint}")

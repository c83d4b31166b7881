"""The output of a run: live bars in a terminal, plain lines elsewhere."""

import json
import sys
import time
from enum import Enum, auto
from typing import Any

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from studyctl.contract.job import Job
from studyctl.contract.records import (
    AnyRecord,
    AttemptFinished,
    AttemptStarted,
    Progress,
    StepFailed,
    StepFinished,
    StepStarted,
    Warned,
)
from studyctl.contract.steps import StepId, StepKind
from studyctl.plan.compare import Comparison
from studyctl.plan.estimate import Clock
from studyctl.printable import escaped_json
from studyctl.report.lines import Lines, position_of, progress_line
from studyctl.units import count_text, duration_text
from studyctl.workers.pool import Worker

PROGRESS_SECONDS = 60.0


class Output(Enum):
    """What a run prints."""

    AUTO = auto()
    """Bars in a terminal, lines elsewhere."""
    LINES = auto()
    QUIET = auto()
    JSON = auto()


class Display:
    """Prints lines, for logs and pipes: one per finished step, and one per minute of progress within a step."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.clock: Clock | None = None
        self.trials = self.done = self.failures = 0
        self.timing = ""
        """What is timed now; empty: nothing."""
        self._lines = Lines()
        self._last: dict[str, float] = {}
        """When progress was last printed, by trial."""
        self._printed: set[tuple[str, str]] = set()
        """Failures that were printed already: trial and error."""

    def begin(self, study: str, comparison: Comparison, clock: Clock) -> None:
        """Print how much there is to run; called again for an edited spec."""
        self.clock = clock
        self.trials, self.done, self.failures = len(comparison.todo), 0, 0
        self.message(
            f"{study}: {count_text(self.trials, 'trial')}, {count_text(comparison.steps_to_run, 'step')} to run"
        )

    def started(self, job: Job, worker: Worker) -> None:
        """Print that a trial was given to a worker."""
        where = f"{worker.name} on {worker.host}" if worker.host else worker.name
        self.message(f"▶ {job.trial} on {where} (attempt {job.attempt})")

    def record(self, record: AnyRecord) -> None:
        """Print the end of steps and attempts, warnings, and now and then progress."""
        match record:
            case Progress():
                self._progress(record)
            case AttemptFinished(state="done"):
                self.done += 1
                self.message(f"{self._lines.of(record)}  ({self.overall()})")
            case StepFinished() | StepFailed() | Warned():
                if text := self._lines.of(record):
                    self.message(text)
                if isinstance(record, StepFailed):
                    self._printed.add((record.trial, f"{record.step}: {record.error}"))

    def _progress(self, record: Progress) -> None:
        now = time.monotonic()
        if now - self._last.setdefault(record.trial, now) >= PROGRESS_SECONDS:
            self._last[record.trial] = now
            self.message(progress_line(record))

    def failed(self, trial: str, error: str, hint: str, *, again: bool) -> None:
        """Print why an attempt failed; ``again``: the trial is tried again."""
        if (trial, error) not in self._printed:
            self.message(f"✗ {trial}  {error}")
        if again:
            self.message(f"  {trial} is tried again")
            return
        self.failures += 1
        if hint:
            self.message(f"  hint: {hint}")

    def overall(self) -> str:
        """Return the progress of the whole run."""
        parts = [f"{self.done}/{self.trials} trials", *([self.timing] if self.timing else [])]
        if self.failures:
            parts.append(f"{self.failures} failed")
        if self.clock is not None and (left := self.clock.seconds_left()) is not None:
            parts.append(f"{duration_text(left)} left")
        return " · ".join(parts)

    def message(self, text: str) -> None:
        """Print something that the user should know."""
        self.console.print(Text(text), soft_wrap=True)

    def tick(self) -> None:
        """Called a few times a second; does nothing here."""

    def end(self) -> None:
        """Called at the end; does nothing here."""


class QuietDisplay(Display):
    """Prints failures and what the user must know."""

    def begin(self, study: str, comparison: Comparison, clock: Clock) -> None:
        """Take the clock."""
        self.clock = clock

    def started(self, job: Job, worker: Worker) -> None:
        """Print nothing."""

    def record(self, record: AnyRecord) -> None:
        """Print failures of steps."""
        if isinstance(record, StepFailed):
            super().record(record)


class JsonDisplay(Display):
    """Writes an event a line to stdout: the records of journals without their figures, and what the user must know."""

    EVENTS = (AttemptStarted, StepStarted, StepFinished, StepFailed, Warned, Progress, AttemptFinished)

    def begin(self, study: str, comparison: Comparison, clock: Clock) -> None:
        """Write how much there is to run."""
        self._write(
            {"kind": "run", "study": study, "trials": len(comparison.todo), "steps": comparison.steps_to_run}
        )

    def started(self, job: Job, worker: Worker) -> None:
        """Write nothing: the attempt's own record follows."""

    def record(self, record: AnyRecord) -> None:
        """Write a record as it is in the journal."""
        if isinstance(record, self.EVENTS):
            self._write(msgspec.to_builtins(record))

    def failed(self, trial: str, error: str, hint: str, *, again: bool) -> None:
        """Write why an attempt failed."""
        self._write({"kind": "failed", "trial": trial, "error": error, "hint": hint, "again": again})

    def message(self, text: str) -> None:
        """Write something that the user should know."""
        self._write({"kind": "message", "text": text})

    def ended(self, **about: object) -> None:
        """Write how the run ended."""
        self._write({"kind": "ended", **about})

    def _write(self, event: dict[str, Any]) -> None:
        sys.stdout.write(escaped_json(json.dumps(event, ensure_ascii=True)) + "\n")
        sys.stdout.flush()


class LiveDisplay(Display):
    """Shows bars of the study and of each running step, and prints lines above them."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        note = TextColumn("{task.fields[note]}", markup=False)
        name = TextColumn("{task.description}", markup=False)
        self._study = Bars(name, BarColumn(bar_width=None), note, console=console, expand=True)
        name = TextColumn("▶ {task.description}", markup=False)
        self._steps = Bars(name, BarColumn(bar_width=20), note, console=console)
        self._total = self._study.add_task("", total=None, note="")
        self._bars: dict[str, TaskID] = {}
        """By trial."""
        self._shown: dict[str, StepId] = {}
        """Step that the bar of a trial shows."""
        self._live = Live(Group(self._study, self._steps), console=console, refresh_per_second=4)

    def begin(self, study: str, comparison: Comparison, clock: Clock) -> None:
        """Start the bars."""
        super().begin(study, comparison, clock)
        self._study.reset(self._total, total=max(1, comparison.steps_to_run), description=study)
        self._live.start()

    def started(self, job: Job, worker: Worker) -> None:
        """Add a bar, in place of one that an attempt which did not begin has left."""
        self._remove(job.trial)
        self._shown.pop(job.trial, None)
        self._bars[job.trial] = self._steps.add_task(f"{job.trial}  load", total=None, note="")

    def record(self, record: AnyRecord) -> None:
        """Move the bars; print everything except finished steps."""
        trial = record.trial
        if not isinstance(record, StepFinished):
            super().record(record)
        elif record.step.kind is not StepKind.LOAD and record.is_last:
            self._study.advance(self._total)
        match record:
            case StepStarted(step=step) if trial in self._bars and step.id != self._shown.get(trial):
                # The next batch of a text keeps the bar of the last one.
                self._shown[trial] = step.id
                self._steps.reset(self._bars[trial], total=None, description=f"{trial}  {step}", note="")
            case Progress() if trial in self._bars:
                note = position_of(record)
                self._steps.update(self._bars[trial], completed=record.done, total=record.total, note=note)
            case AttemptFinished():
                self._remove(trial)

    def failed(self, trial: str, error: str, hint: str, *, again: bool) -> None:
        """Print the cause and remove the bar, which a dead worker leaves."""
        super().failed(trial, error, hint, again=again)
        self._remove(trial)

    def _remove(self, trial: str) -> None:
        if (bar := self._bars.pop(trial, None)) is not None:
            self._steps.remove_task(bar)

    def _progress(self, record: Progress) -> None:
        """Do nothing: the bars show it."""

    def tick(self) -> None:
        """Update the time that is left."""
        self._study.update(self._total, note=self.overall())

    def end(self) -> None:
        """Leave the terminal as it was."""
        self.tick()
        for trial in list(self._bars):
            self._remove(trial)
        self._live.stop()

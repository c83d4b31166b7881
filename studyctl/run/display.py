"""What a run shows: live bars in a terminal, plain lines elsewhere. Everything goes to stderr."""

import time
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from studyctl.contract.records import (
    AnyRecord,
    AttemptFinished,
    Progress,
    StepFailed,
    StepFinished,
    StepStarted,
    Warned,
)
from studyctl.contract.steps import StepId, StepKind
from studyctl.plan.compare import Comparison
from studyctl.plan.estimate import Clock
from studyctl.report.lines import Lines, position_of, progress_line
from studyctl.run.workers import Worker
from studyctl.units import duration_text


class Display(Protocol):
    """What the runner tells a face of itself."""

    def begin(self, study: str, comparison: Comparison, clock: Clock) -> None:
        """A study is to be brought up to date; called again when an edited spec is taken up."""

    def started(self, worker: Worker) -> None:
        """A worker was given an attempt."""

    def record(self, worker: Worker, record: AnyRecord) -> None:
        """A worker wrote this record."""

    def failed(self, trial: str, error: str, hint: str, *, again: bool) -> None:
        """A trial failed; ``again`` says whether it will be tried once more."""

    def message(self, text: str) -> None:
        """Something the user should know."""

    def tick(self) -> None:
        """Called a few times a second."""

    def end(self) -> None:
        """Nothing more will come."""


class PlainDisplay:
    """Lines, for logs and pipes: one a step that ended, one a minute of progress inside a step."""

    PROGRESS_SECONDS = 60.0

    def __init__(self, console: Console) -> None:
        self.console = console
        self.clock: Clock | None = None
        self.lines = Lines()
        self.name = ""
        self.trials = self.done = self.failures = 0
        self._last: dict[str, float] = {}
        self._told: set[tuple[str, str]] = set()
        """Failures of steps that were printed when they happened."""

    def begin(self, study: str, comparison: Comparison, clock: Clock) -> None:
        """Say what is to be done."""
        self.name, self.clock = study, clock
        self.trials, self.done, self.failures = len(comparison.todo), 0, 0
        self._line(f"{self.name}: {len(comparison.todo)} trials, {comparison.steps_to_run} stages to run")

    def started(self, worker: Worker) -> None:
        """Name the trial."""
        if worker.job:
            self._line(f"▶ {worker.job.trial} on {worker.device} (attempt {worker.job.attempt})")

    def record(self, worker: Worker, record: AnyRecord) -> None:
        """Print what ended, and warnings at once."""
        match record:
            case Progress():
                self._progress(record)
            case AttemptFinished(state="done"):
                self.done += 1
                self._line(f"{self.lines.of(record)}  ({self.overall()})")
            case StepFinished() | StepFailed() | Warned():
                if text := self.lines.of(record):
                    self._line(text)
                if isinstance(record, StepFailed):
                    self._told.add((record.trial, f"{record.step}: {record.error}"))

    def _progress(self, record: Progress) -> None:
        last = self._last.setdefault(record.trial, time.monotonic())
        if time.monotonic() - last >= self.PROGRESS_SECONDS:
            self._last[record.trial] = time.monotonic()
            self._line(progress_line(record))

    def failed(self, trial: str, error: str, hint: str, *, again: bool) -> None:
        """Print the cause."""
        if not again:
            self.failures += 1
        if (trial, error) not in self._told:
            self._line(f"✗ {trial}  {error}")
        if again:
            self._line(f"  {trial} is tried again")
        if hint and not again:
            self._line(f"  hint: {hint}")

    def overall(self) -> str:
        """Return how far the study is."""
        parts = [f"{self.done}/{self.trials} trials"]
        if self.failures:
            parts.append(f"{self.failures} failed")
        if self.clock is not None and (left := self.clock.seconds_left()) is not None:
            parts.append(f"{duration_text(left)} left")
        return " · ".join(parts)

    def message(self, text: str) -> None:
        """Print it."""
        self._line(text)

    def tick(self) -> None:
        """Lines come with events only."""

    def end(self) -> None:
        """Everything is printed already."""

    def _line(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)


class LiveDisplay(PlainDisplay):
    """Bars of the study and of each running step; what ended scrolls away above them."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._study = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            expand=True,
        )
        self._steps = Bars(
            TextColumn("▶ {task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
        )
        self._total = self._study.add_task("", total=None, note="")
        self._bars: dict[str, TaskID] = {}
        self._shown: dict[str, StepId] = {}
        """Step that the bar of a device is about."""
        self._live = Live(Group(self._study, self._steps), console=console, refresh_per_second=4)

    def begin(self, study: str, comparison: Comparison, clock: Clock) -> None:
        """Start the bars."""
        super().begin(study, comparison, clock)
        self._study.reset(self._total, total=max(1, comparison.steps_to_run), description=self.name)
        self._live.start()

    def started(self, worker: Worker) -> None:
        """Add a bar."""
        if worker.job:
            self._shown.pop(worker.device, None)
            self._bars[worker.device] = self._steps.add_task(f"{worker.job.trial}  load", total=None, note="")

    def record(self, worker: Worker, record: AnyRecord) -> None:
        """Move the bars; print only what ended a trial, and warnings."""
        bar = self._bars.get(worker.device)
        if isinstance(record, StepFinished):
            if record.step.kind is not StepKind.LOAD and record.is_last:
                self._study.advance(self._total)
        else:
            super().record(worker, record)
        if bar is None:
            return
        match record:
            case StepStarted(step=step) if step.id != self._shown.get(worker.device):
                self._shown[worker.device] = (
                    step.id
                )  # the next batch of a text goes on where the last one was
                self._steps.reset(bar, total=None, description=f"{record.trial}  {step}", note="")
            case Progress():
                self._steps.update(bar, completed=record.done, total=record.total, note=position_of(record))
            case AttemptFinished():
                self._steps.remove_task(self._bars.pop(worker.device))

    def failed(self, trial: str, error: str, hint: str, *, again: bool) -> None:
        """Print the cause; a worker that died left its bar."""
        super().failed(trial, error, hint, again=again)
        for device, bar in list(self._bars.items()):
            if self._steps.tasks and any(
                t.id == bar and t.description.startswith(trial + " ") for t in self._steps.tasks
            ):
                self._steps.remove_task(self._bars.pop(device))

    def _progress(self, record: Progress) -> None:
        """The bars show it."""

    def tick(self) -> None:
        """Redraw the time that is left."""
        self._study.update(self._total, note=self.overall())

    def end(self) -> None:
        """Leave the terminal as it was."""
        self.tick()
        for bar in self._bars.values():
            self._steps.remove_task(bar)
        self._live.stop()


def make_display(console: Console) -> Display:
    """Return live bars on a terminal, plain lines elsewhere."""
    live = console.is_terminal and not console.is_dumb_terminal
    return LiveDisplay(console) if live else PlainDisplay(console)

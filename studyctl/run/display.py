"""What a run shows: live bars in a terminal, plain lines elsewhere. Everything goes to stderr."""

import time
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from studyctl.plan.compare import Comparison
from studyctl.plan.estimate import Clock
from studyctl.report.lines import Record, line_of, position_of
from studyctl.run.workers import Worker
from studyctl.units import duration_text


class Display(Protocol):
    """What the runner tells a face of itself."""

    def begin(self, study: str, comparison: Comparison, clock: Clock) -> None:
        """A study is to be brought up to date; called again when an edited spec is taken up."""

    def started(self, worker: Worker) -> None:
        """A worker was given an attempt."""

    def record(self, worker: Worker, record: Record) -> None:
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
    """Lines, for logs and pipes: one a stage that ended, one a minute of progress inside a stage."""

    PROGRESS_SECONDS = 60.0

    def __init__(self, console: Console) -> None:
        self.console = console
        self.clock = Clock()
        self.name = ""
        self.trials = self.done = self.failures = 0
        self._last: dict[str, float] = {}
        self._told: set[tuple[str, str]] = set()
        """Failures of stages that were printed when they happened."""

    def begin(self, study: str, comparison: Comparison, clock: Clock) -> None:
        """Say what is to be done."""
        self.name, self.clock = study, clock
        self.trials, self.done, self.failures = len(comparison.todo), 0, 0
        self._line(f"{self.name}: {len(comparison.todo)} trials, {comparison.stages_to_run} stages to run")

    def started(self, worker: Worker) -> None:
        """Name the trial."""
        if worker.job:
            self._line(f"▶ {worker.job.trial} on {worker.device} (attempt {worker.job.attempt})")

    def record(self, worker: Worker, record: Record) -> None:
        """Print what ended, and warnings at once."""
        kind = record["kind"]
        if kind == "progress":
            self._progress(record)
        elif kind == "attempt_finished" and record["state"] == "done":
            self.done += 1
            self._line(f"{line_of(record)}  ({self.overall()})")
        elif kind in ("stage_finished", "stage_failed", "warning") and (text := line_of(record)):
            self._line(text)
            if kind == "stage_failed":
                self._told.add((record["trial"], f"{record['stage']}: {record['error']}"))

    def _progress(self, record: Record) -> None:
        last = self._last.setdefault(record["trial"], time.monotonic())
        if time.monotonic() - last >= self.PROGRESS_SECONDS:
            self._last[record["trial"]] = time.monotonic()
            self._line(f"  {record['trial']}  {record['stage']}  {position_of(record)}")

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
        if (left := self.clock.seconds_left()) is not None:
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
    """Bars of the study and of each running stage; what ended scrolls away above them."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._study = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            expand=True,
        )
        self._stages = Progress(
            TextColumn("▶ {task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
        )
        self._total = self._study.add_task("", total=None, note="")
        self._bars: dict[str, TaskID] = {}
        self._live = Live(Group(self._study, self._stages), console=console, refresh_per_second=4)

    def begin(self, study: str, comparison: Comparison, clock: Clock) -> None:
        """Start the bars."""
        super().begin(study, comparison, clock)
        self._study.reset(self._total, total=max(1, comparison.stages_to_run), description=self.name)
        self._live.start()

    def started(self, worker: Worker) -> None:
        """Add a bar."""
        if worker.job:
            self._bars[worker.device] = self._stages.add_task(
                f"{worker.job.trial}  load", total=None, note=""
            )

    def record(self, worker: Worker, record: Record) -> None:
        """Move the bars; print only what ended a trial, and warnings."""
        kind = record["kind"]
        bar = self._bars.get(worker.device)
        if kind == "stage_finished":
            if record["stage"] != "load":
                self._study.advance(self._total)
        else:
            super().record(worker, record)
        if bar is None:
            return
        if kind == "stage_started":
            self._stages.reset(bar, total=None, description=f"{record['trial']}  {record['stage']}", note="")
        elif kind == "progress":
            self._stages.update(
                bar, completed=record["done"], total=record["total"], note=position_of(record)
            )
        elif kind == "attempt_finished":
            self._stages.remove_task(self._bars.pop(worker.device))

    def failed(self, trial: str, error: str, hint: str, *, again: bool) -> None:
        """Print the cause; a worker that died left its bar."""
        super().failed(trial, error, hint, again=again)
        for device, bar in list(self._bars.items()):
            if self._stages.tasks and any(
                t.id == bar and t.description.startswith(trial + " ") for t in self._stages.tasks
            ):
                self._stages.remove_task(self._bars.pop(device))

    def _progress(self, record: Record) -> None:
        """The bars show it."""

    def tick(self) -> None:
        """Redraw the time that is left."""
        self._study.update(self._total, note=self.overall())

    def end(self) -> None:
        """Leave the terminal as it was."""
        self.tick()
        for bar in self._bars.values():
            self._stages.remove_task(bar)
        self._live.stop()


def make_display(console: Console) -> Display:
    """Return live bars on a terminal, plain lines elsewhere."""
    live = console.is_terminal and not console.is_dumb_terminal
    return LiveDisplay(console) if live else PlainDisplay(console)

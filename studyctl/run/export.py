"""``studyctl export``: one trial's weights as a folder, made by a worker beside the study.

The study is only read (but for its cache), so this is allowed while a runner is at work on it.
"""

import os
import queue
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.status import Status
from rich.text import Text

from studyctl.contract.job import Job
from studyctl.contract.plan import read_plan
from studyctl.contract.records import (
    AnyRecord,
    AttemptFinished,
    ExportFacts,
    Progress,
    StepFailed,
    StepFinished,
    StepStarted,
    Warned,
    WorkerFatal,
)
from studyctl.contract.steps import Step, StepKind
from studyctl.errors import ExitCode, Problem, SpecError, StudyError
from studyctl.files import StudyPaths, remove_leftovers
from studyctl.journal.index import read_stored
from studyctl.journal.stored import Stored
from studyctl.plan.compare import Cause, Reason, Todo, what_changed
from studyctl.plan.planner import StudyPlan, make_plan
from studyctl.plan.trials import Trial
from studyctl.report.lines import Lines, progress_line
from studyctl.run.jobs import make_job
from studyctl.run.workers import Event, Worker, start_worker
from studyctl.signals import how_it_ended
from studyctl.spec.loading import load_spec
from studyctl.store.holder import living_runner
from studyctl.store.studies import find_trial
from studyctl.units import bytes_text

TICK_SECONDS = 0.25
KILL_AFTER_SECONDS = 5.0
"""Grace of a worker that was asked to stop."""


@dataclass(frozen=True, slots=True)
class ExportedTrial:
    """What came of an export."""

    folder: Path
    message: str
    """What was written, for people."""


class StoppedError(StudyError):
    """The user stopped it."""

    exit_code = ExitCode.STOPPED


def export_trial(paths: StudyPaths, beginning: str, target: Path, console: Console) -> ExportedTrial:
    """Export a trial's weights.

    Args:
        paths: the study.
        beginning: of the trial's name, unambiguous.
        target: the folder to make; missing or empty.
        console: where progress is shown.

    Raises:
        SpecError: the trial cannot be exported, or not to this folder; nothing was done.
        StudyError: it failed, or was stopped; ``target`` is as it was.
    """
    target = target.resolve()
    _check_target(target)
    try:
        name = find_trial(paths, beginning)
    except StudyError as error:
        raise SpecError(error.problems) from error
    job = _make_job(paths, name, target)
    if (holder := living_runner(paths)) is not None:
        console.print(
            f"{paths.name} is being run ({holder}): the export shares the machine with it", soft_wrap=True
        )
    return _Export(paths, job, console).run()


def _check_target(target: Path) -> None:
    """Find out before anything is loaded that the folder cannot be made."""
    if target.exists() and not target.is_dir():
        raise SpecError(Problem(f"{target} is a file", hint="name a folder that does not exist yet"))
    if target.is_dir() and any(target.iterdir()):
        raise SpecError(
            Problem(
                f"{target} is not empty",
                hint="name a folder that does not exist yet, or empty this one first",
            )
        )
    parent = next(folder for folder in target.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise SpecError(Problem(f"{parent} cannot be written", hint="name a folder elsewhere"))


def _make_job(paths: StudyPaths, name: str, target: Path) -> Job:
    if not paths.spec.is_file():
        raise SpecError(Problem(f"study `{paths.name}` was never run", hint="run its spec first"))
    plan = make_plan(load_spec(paths.spec))
    trial = next((trial for trial in plan.trials if trial.id == name), None)
    if trial is None:
        raise SpecError(Problem(f"{paths.spec} does not ask for `{name}` any more", hint=_run_again(paths)))
    stored = read_stored(paths)
    _check_trial(paths, plan, trial, stored)
    dense = next(one for one in plan.trials if one.is_dense and one.model.index == trial.model.index)
    todo = Todo(trial, (), Reason(Cause.NEW))
    job = make_job(paths, plan, todo, stored, plan.devices[0], dense.weights_key)
    # Attempt 0: the runner's are numbered from 1, and their logs with them.
    steps = (Step(StepKind.EXPORT, key=""),)
    return job.model_copy(update={"attempt": 0, "steps": steps, "export_to": target})


def _check_trial(paths: StudyPaths, plan: StudyPlan, trial: Trial, stored: Stored) -> None:
    """Refuse a trial whose weights cannot be had, or are not those that were measured."""
    if trial.weights_key is None or not plan.devices:
        # Warnings say what could not be looked up, errors what is missing; problems of other parts do not matter here.
        raise SpecError(plan.problems or Problem(f"the sources of `{trial.id}` could not be looked up"))
    saved = read_plan(paths)
    before = next((one.parts for one in saved.trials if one.trial == trial.id), None) if saved else None
    if before and (changed := what_changed(before, trial.parts())):
        raise SpecError(
            Problem(f"`{trial.id}` is not what was run: {changed}", hint=f"{_run_again(paths)}, then export")
        )
    if not trial.is_dense and trial.weights_key not in stored.weights_hash:
        hint = f"studyctl run {paths.spec} --only {trial.id}"
        raise SpecError(Problem(f"`{trial.id}` was not compressed yet", hint=hint))


def _run_again(paths: StudyPaths) -> str:
    return f"studyctl run {paths.spec}"


class _Export:
    """One worker with one job, from its start to its end."""

    def __init__(self, paths: StudyPaths, job: Job, console: Console) -> None:
        self.paths, self.job, self.console = paths, job, console
        self._events: queue.Queue[Event] = queue.Queue()
        self._stops = 0
        self._lines = Lines()
        self._exported: ExportFacts | None = None
        self._failure: StudyError | None = None

    def run(self) -> ExportedTrial:
        """Run the worker, showing what it does.

        Raises:
            StudyError: it failed or was stopped.
        """
        assert self.job.export_to is not None
        worker = start_worker(self.job.device, self.paths.runner_log, self._events)
        worker.start(self.job)
        try:
            with self._signals(), self.console.status(f"{self.job.trial}  load") as status:
                self._listen(worker, status)
        finally:
            worker.close()
            worker.process.wait(timeout=30)
            remove_leftovers(self.job.export_to)
        if self._failure is not None:
            raise self._failure
        assert self._exported is not None
        return ExportedTrial(self.job.export_to, _told(self._exported))

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM stop the worker; it gets a few seconds to clean up."""

        def stop(number: int, frame: FrameType | None) -> None:
            self._stops += 1

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _listen(self, worker: Worker, status: Status) -> None:
        asked, waited = False, 0.0
        while True:
            try:
                record = self._events.get(timeout=TICK_SECONDS).record
            except queue.Empty:
                waited += TICK_SECONDS if asked else 0.0
            else:
                if record is None:
                    self._failure = self._failure or self._death(worker)
                    return
                if self._take(record, status):
                    return
            if self._stops and not asked:
                asked = True
                worker.stop("now")
            if self._stops > 1 or waited > KILL_AFTER_SECONDS:
                worker.kill()

    def _death(self, worker: Worker) -> StudyError:
        if self._stops:
            return StoppedError(_STOPPED)
        log = self.paths.attempt_log(self.job.trial, self.job.attempt)
        return StudyError(
            f"the export failed: {how_it_ended('the worker', worker.process.returncode)}", hint=f"see {log}"
        )

    def _take(self, record: AnyRecord, status: Status) -> bool:
        """Show a record; return whether it is the last."""
        match record:
            case StepStarted(step=step):
                status.update(f"{self.job.trial}  {step}")
            case Progress():
                status.update(progress_line(record).strip())
            case StepFinished() | Warned():
                if isinstance(record, StepFinished):
                    self._exported = record.exported or self._exported
                if text := self._lines.of(record):
                    self.console.print(Text(text), soft_wrap=True)
            case StepFailed(step=step):
                self._failure = StudyError(f"{step}: {record.error}", hint=record.hint)
            case WorkerFatal(error=error):
                self._failure = StudyError(error, hint="make room or make the folder writable")
            case AttemptFinished(state=state):
                if state == "stopped":
                    self._failure = StoppedError(_STOPPED)
                return True
        return False


_STOPPED = "the export was stopped; nothing was written"


def _told(facts: ExportFacts) -> str:
    size, bits = bytes_text(facts.weight_bytes), facts.stored_bits_per_weight
    how = f"packed at {facts.packed_bits} bits" if facts.packed_bits else "plain"
    text = f"exported and read back: {size}, {how}, {bits:.2f} bits a weight of the blocks as stored"
    return f"{text}\nnot packed: {facts.why_plain}" if facts.why_plain else text

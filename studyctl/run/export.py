"""``studyctl export``: one trial's weights as a folder, written by a separate worker.

The study is only read (except for its cache), so this is allowed while it is being run.
"""

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from shlex import quote

from rich.console import Console
from rich.status import Status
from rich.text import Text

from studyctl.contract.exports import Embeddings, ExportFormat
from studyctl.contract.job import Job
from studyctl.contract.plan import Planned, read_plan
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
from studyctl.errors import ExitCode, SpecError, StudyError
from studyctl.files import StudyPaths, remove_leftovers
from studyctl.journal.index import read_stored
from studyctl.journal.stored import Stored
from studyctl.plan.compare import Todo, what_changed
from studyctl.plan.planner import StudyPlan, make_plan
from studyctl.plan.trials import Trial
from studyctl.report.lines import Lines, progress_line
from studyctl.run.jobs import make_job
from studyctl.signals import on_stop_signal
from studyctl.spec.loading import Document, load_spec
from studyctl.spec.models import Evaluation
from studyctl.store.holder import Pulse
from studyctl.store.studies import find_trial
from studyctl.units import bytes_text
from studyctl.workers.local import LocalPool
from studyctl.workers.pool import Ended, Worker

_STOPPED = "the export was stopped; nothing was written"


class StoppedError(StudyError):
    """The user stopped the export."""

    exit_code = ExitCode.STOPPED


def export_trial(
    paths: StudyPaths,
    named: str,
    target: Path,
    console: Console,
    to: ExportFormat = ExportFormat.FOLDER,
    embeddings: Embeddings | None = None,
) -> str:
    """Export a trial's weights; return a message that says what was written.

    Args:
        paths: the study.
        named: the trial or its variant, or the beginning of its name; only one may match.
        target: the folder to make; missing or empty.
        console: where progress is shown.
        to: what to write.
        embeddings: how a GGUF file stores embeddings and head; None: as they are.

    Raises:
        SpecError: the trial cannot be exported, or not to this folder; nothing was changed.
        StudyError: it failed, or was stopped; ``target`` is as it was.
    """
    target = target.resolve()
    if embeddings is not None and to is not ExportFormat.GGUF:
        raise SpecError("`--embeddings` is for GGUF files only", hint="add `--to gguf`")
    _check_target(target)
    try:
        name = find_trial(paths, named)
    except StudyError as error:
        raise SpecError(error.problems) from error
    job = _make_job(paths, name, target).model_copy(
        update={"export_format": to, "export_embeddings": embeddings}
    )
    if (holder := Pulse(paths).look()) is not None:
        console.print(
            f"{paths.name} is being run ({holder}): the export shares the machine with it", soft_wrap=True
        )
    facts = _Export(paths, job, console).run()
    size, bits = bytes_text(facts.weight_bytes), facts.stored_bits_per_weight
    how = f"packed at {facts.packed_bits} bits" if facts.packed_bits else "plain"
    if to is ExportFormat.GGUF:
        how = "one GGUF file"
    text = f"exported and read back: {size}, {how}, {bits:.2f} bits a weight of the blocks as stored"
    notes = [f"not packed: {facts.why_plain}"] if facts.why_plain else []
    return "\n".join([text, *notes, *facts.notes])


def _check_target(target: Path) -> None:
    """Raise an error, before anything is loaded, if the folder cannot be made."""
    hint = "name a folder that does not exist yet"
    if target.suffix == ".gguf":
        raise SpecError(
            f"{target} is named like a file, and a folder is made",
            hint=f"name it {target.with_suffix('')}; `--to gguf` writes the file, named like the trial, and its card into it",
        )
    if target.exists() and not target.is_dir():
        raise SpecError(f"{target} is a file", hint=hint)
    if target.is_dir() and any(target.iterdir()):
        raise SpecError(f"{target} is not empty", hint=f"{hint}, or empty this one first")
    parent = next(folder for folder in target.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise SpecError(f"{parent} cannot be written", hint="name a folder elsewhere")


def _make_job(paths: StudyPaths, name: str, target: Path) -> Job:
    saved = read_plan(paths)
    if saved is None or not paths.spec.is_file():
        raise SpecError(f"study `{paths.name}` was never run", hint="run its spec first")
    plan = _plan_of_weights(load_spec(paths.spec))
    trial = next((trial for trial in plan.trials if trial.id == name), None)
    if trial is None:
        hint = f"studyctl run {quote(str(paths.spec))}"
        raise SpecError(f"{paths.spec} does not ask for `{name}` any more", hint=hint)
    stored = read_stored(paths)
    _check_trial(paths, plan, trial, stored, saved)
    dense = next(other for other in plan.trials if other.is_dense and other.model.index == trial.model.index)
    job = make_job(paths, plan, Todo(trial, (), ""), stored, plan.devices[0], dense.weights_key)
    # Attempt 0, so that its log has a name of its own: attempts of runs are numbered from 1.
    steps = (Step(StepKind.EXPORT, key=""),)
    # The card shows what was measured, even if a text or task is gone since.
    measured = tuple(planned.step for planned in saved.evaluations.get(trial.model.spec.id, ()))
    changes = {"attempt": 0, "steps": steps, "evaluations": measured, "export_to": target}
    return job.model_copy(update=changes)


def _plan_of_weights(document: Document) -> StudyPlan:
    """Plan a spec without what it measures: texts and tasks that are gone do not matter to weights."""
    spec = document.spec.model_copy(update={"evaluation": Evaluation(), "hypotheses": ()})
    return make_plan(replace(document, spec=spec))


def _check_trial(paths: StudyPaths, plan: StudyPlan, trial: Trial, stored: Stored, saved: Planned) -> None:
    """Refuse a trial whose weights cannot be made, or would not be those that were measured."""
    if trial.weights_key is None or not plan.devices:
        # The plan's problems say why. Otherwise they do not matter: they are about other parts of the spec.
        raise SpecError(plan.errors or plan.problems or f"the sources of `{trial.id}` could not be looked up")
    again = f"studyctl run {quote(str(paths.spec))}"
    parts = {planned.trial: planned.parts for planned in saved.trials}
    if (before := parts.get(trial.id)) and (changed := what_changed(before, trial.parts())):
        raise SpecError(f"`{trial.id}` has changed since it was run: {changed}", hint=f"{again}, then export")
    if not trial.is_dense and stored.results_of(trial.weights_key, trial.steps).weights_hash is None:
        raise SpecError(f"`{trial.id}` has not been compressed yet", hint=f"{again} --only {quote(trial.id)}")


class _Export:
    """Runs one job on a worker of its own."""

    def __init__(self, paths: StudyPaths, job: Job, console: Console) -> None:
        self.job, self.console = job, console
        self.log = paths.attempt_log(job.trial, job.attempt)
        self.pool = LocalPool([job.device], paths.runner_log)
        self._lines = Lines()
        self._exported: ExportFacts | None = None
        self._failure: StudyError | None = None

    def run(self) -> ExportFacts:
        """Run the worker and show its progress.

        Raises:
            StudyError: it failed or was stopped.
        """
        assert self.job.export_to is not None
        try:
            with (
                closing(self.pool),
                on_stop_signal(self._stop),
                self.console.status(Text(f"{self.job.trial}  load")) as status,
            ):
                (worker,) = self.pool.free(1)
                self.pool.start(worker, self.job)
                while worker.job is not None:
                    for _, event in self.pool.events():
                        if not isinstance(event, Ended):
                            self._take(worker, event, status)
                        elif worker.job is not None:
                            worker.job = None
                            self._failure = self._failure or self._death(event)
                    self.pool.pass_on_stop()
        finally:
            remove_leftovers(self.job.export_to)
        if self._failure is not None:
            raise self._failure
        assert self._exported is not None
        return self._exported

    def _stop(self, _: int) -> None:
        self.pool.stop = "now"

    def _death(self, end: Ended) -> StudyError:
        if self.pool.stop is not None:
            return StoppedError(_STOPPED)
        return StudyError(f"the export failed: {end.how}", hint=f"see {self.log}")

    def _take(self, worker: Worker, record: AnyRecord, status: Status) -> None:
        """Show a record, and keep the result or the failure of the export."""
        match record:
            case StepStarted():
                status.update(Text(f"{self.job.trial}  {record.step}"))
            case Progress():
                status.update(Text(progress_line(record).strip()))
            case StepFinished() | Warned():
                if isinstance(record, StepFinished):
                    self._exported = record.exported or self._exported
                if text := self._lines.of(record):
                    self.console.print(Text(text), soft_wrap=True)
            case StepFailed():
                self._failure = StudyError(f"{record.step}: {record.error}", hint=record.hint)
            case WorkerFatal():
                self._failure = StudyError(record.error, hint="make room or make the folder writable")
            case AttemptFinished(state=state):
                worker.job = None
                if state == "stopped":
                    self._failure = StoppedError(_STOPPED)

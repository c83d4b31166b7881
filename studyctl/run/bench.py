"""``studyctl bench``: times the files of a study once more, on the machine where it is called."""

import signal
import time
from datetime import UTC, datetime
from shlex import quote

from rich.console import Console

from studyctl.contract.job import StopWhen
from studyctl.contract.plan import Planned, read_plan
from studyctl.errors import ExitCode, SpecError
from studyctl.files import StudyPaths
from studyctl.journal.index import read_stored
from studyctl.plan.planner import make_plan
from studyctl.plan.timing import Deployable, DeployedFile, deployed_files
from studyctl.run.control import Request, take_requests
from studyctl.run.display import Display
from studyctl.run.hold import Hold, hold, write_heartbeat
from studyctl.run.runner import HEARTBEAT_SECONDS, Runner
from studyctl.run.selection import Selection, matches
from studyctl.run.speed import StoppedError, Timer
from studyctl.signals import on_stop_signal
from studyctl.spec.loading import load_spec
from studyctl.spec.models import Speed
from studyctl.store.publish import publish
from studyctl.workers.pool import PoolState


def bench(paths: StudyPaths, only: tuple[str, ...], threads: tuple[int, ...], console: Console) -> ExitCode:
    """Time the files of a study that is not being run; what was timed before stays.

    Args:
        paths: the study.
        only: patterns of variants or trials beside dense; empty: all.
        threads: of the runtime; empty: as the spec says.
        console: where progress is shown.

    Raises:
        SpecError: the study was never run, or none of its trials has a file.
        HeldError: it is being run.
        StudyError: llama.cpp is not here, a file cannot be written, or dense cannot be timed.
    """
    planned = read_plan(paths)
    if planned is None or not paths.spec.is_file():
        raise SpecError(f"study `{paths.name}` was never run", hint="run its spec first")
    speed = load_spec(paths.spec).spec.evaluation.speed or Speed()
    if threads:
        speed = speed.model_copy(update={"threads": threads})
    models = _files_of(paths, planned, only)
    if not models:
        hint = f"`studyctl sql {quote(paths.name)} 'SELECT trial_id, why_no_file FROM trials'` says why"
        raise SpecError("none of these trials has a GGUF file", hint=hint)
    with hold(paths) as held:
        gone = [file.trial for files in models.values() for file in files if not file.path.exists()]
        if gone:
            plan = make_plan(load_spec(paths.spec))
            plan.raise_errors()
            Runner(held, plan, Selection(tuple(gone)), Display(console), only_files=True).run()
        run = _Run(held)
        timer = Timer(paths, speed, run.wait, lambda text: console.print(text, soft_wrap=True, markup=False))
        with on_stop_signal(run.ask_to_stop):
            try:
                for model, files in models.items():
                    timer.time(model, files)
            except StoppedError:
                console.print("stopped: this session does not count", soft_wrap=True)
            finally:
                publish(paths, before_replacing=held.check)
    return ExitCode.STOPPED if run.stop is not None else ExitCode.DONE


def _files_of(paths: StudyPaths, planned: Planned, only: tuple[str, ...]) -> dict[str, list[DeployedFile]]:
    """Return the files to time, dense first, of each model that has one beside it."""
    stored = read_stored(paths)
    variants = {trial.trial: trial.variant for trial in planned.trials}
    models = {}
    for model in dict.fromkeys(trial.model for trial in planned.trials):
        trials = [
            Deployable(trial.trial, trial.weights_key, planned.steps(trial), trial.variant == "dense")
            for trial in planned.trials
            if trial.model == model
        ]
        files = [
            file
            for file in deployed_files(paths, stored, trials)
            if file.is_dense or matches(only, (file.trial, variants[file.trial]))
        ]
        if len(files) > 1 and files[0].is_dense:
            models[model] = files
    return models


class _Run:
    """Keeps the study alive in the eyes of others while files are timed, and hears who asks to stop."""

    def __init__(self, held: Hold) -> None:
        self.stop: StopWhen | None = None
        self._held, self._since, self._next = held, datetime.now(UTC), 0.0

    def ask_to_stop(self, number: int) -> None:
        """Stop on a signal: after the file that is timed on a first Ctrl-C, else at once."""
        self.stop = "after_step" if number == signal.SIGINT and self.stop is None else "now"

    def wait(self, timing: str) -> StopWhen | None:
        """Show what is timed; return whether to stop."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + HEARTBEAT_SECONDS
            self._held.check()
            write_heartbeat(self._held.paths, self._since, PoolState(), timing=timing)
            for request in take_requests(self._held.paths):
                if isinstance(request, Request) and request.kind == "stop":
                    self.stop = request.when
        return self.stop

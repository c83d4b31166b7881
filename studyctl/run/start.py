"""``studyctl run``: foreground, detached, or handed to the runner that is at work already."""

import importlib.util
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console

from studyctl.contract.plan import read_plan
from studyctl.errors import ExitCode, HeldError, StudyError
from studyctl.files import StudyPaths, digest, runs_folder
from studyctl.journal.index import read_stored
from studyctl.plan.compare import compare
from studyctl.plan.planner import StudyPlan, make_plan
from studyctl.run.control import Request, send
from studyctl.run.display import make_display
from studyctl.run.finish import run_on_finish
from studyctl.run.hold import hold
from studyctl.run.outcome import Outcome
from studyctl.run.runner import Runner, check_looked_up
from studyctl.run.selection import Selection
from studyctl.spec.loading import Document, load_spec, self_contained
from studyctl.store.holder import living_runner
from studyctl.store.publish import publish

DETACH_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Started:
    """What came of ``studyctl run``."""

    paths: StudyPaths
    outcome: Outcome | None
    """None: nothing was run here (handed over, or detached)."""
    message: str
    code: ExitCode


def study_of(document: Document) -> StudyPaths:
    """Return the folder of a spec's study."""
    return StudyPaths(runs_folder() / document.spec.study.name)


def run_study(
    path: Path,
    selection: Selection,
    console: Console,
    *,
    detach: bool = False,
    root: StudyPaths | None = None,
) -> Started:
    """Bring the results of a spec up to date.

    Args:
        path: the spec.
        selection: the part of the study to run.
        console: where progress is shown.
        detach: run in a process that outlives the shell.
        root: the study's folder; None: by its name, under runs/.

    Raises:
        SpecError: the spec or what it names cannot be run.
        HeldError: another runner holds the study, and the spec is what it runs.
        StudyError: the study's folder cannot be written, or the engine is not installed.
    """
    document = load_spec(path)
    paths = root or study_of(document)
    if living_runner(paths) is not None:
        return _hand_over(document, paths, selection)
    plan = make_plan(document)
    plan.raise_errors()
    selection.check(plan.trials)
    _need_engine()
    check_looked_up(plan)
    if detach and _something_to_do(plan, paths, selection):
        return _detach(path, paths, selection)
    with hold(paths):
        return _run_held(plan, paths, selection, console)


def _something_to_do(plan: StudyPlan, paths: StudyPaths, selection: Selection) -> bool:
    comparison = compare(plan, read_stored(paths), read_plan(paths))
    return any(todo.trial in selection for todo in comparison.todo)


def _run_held(plan: StudyPlan, paths: StudyPaths, selection: Selection, console: Console) -> Started:
    runner = Runner(paths, plan, selection, make_display(console))
    with _signals(runner):
        outcome = runner.run()
    message = outcome.summary(paths.name)
    command = plan.document.spec.execution.on_finish
    if command and outcome.tried:
        trouble = run_on_finish(command, message)
        message += f"\n{trouble}" if trouble else ""
    if outcome.stopped:
        return Started(paths, outcome, message, ExitCode.STOPPED)
    code = ExitCode.FAILED if outcome.failed or outcome.unavailable else ExitCode.DONE
    return Started(paths, outcome, message, code)


def _need_engine() -> None:
    missing = [
        name
        for name in ("torch", "transformers", "lm_eval", "datasets")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise StudyError(f"running a study needs {', '.join(missing)}", hint="pip install 'studyctl[engine]'")


@contextmanager
def _signals(runner: Runner) -> Iterator[None]:
    """Ctrl-C once stops after the running stages, twice at once; so does SIGTERM."""

    def stop(number: int, frame: FrameType | None) -> None:
        runner.request_stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _hand_over(document: Document, paths: StudyPaths, selection: Selection) -> Started:
    """Give an edited spec to the runner that holds the study."""
    text = self_contained(document)
    saved = read_plan(paths)
    if saved is not None and digest(text) == saved.spec_hash:
        with hold(paths):  # raises, and says who holds it
            pass
        raise HeldError(f"the runner of `{paths.name}` has just ended", hint="run again")
    plan = make_plan(document)
    plan.raise_errors()
    selection.check(plan.trials)
    holder = living_runner(paths)
    send(paths, Request("spec", spec=text, only=[*selection.only], model=[*selection.model]))
    message = (
        f"handed the edited spec to the runner of `{paths.name}` ({holder}): it takes it up between trials"
    )
    return Started(paths, None, message, ExitCode.DONE)


def _detach(path: Path, paths: StudyPaths, selection: Selection) -> Started:
    """Start a runner that outlives this shell, and wait until it holds the study."""
    paths.logs.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "studyctl", "run", str(path), *selection.arguments()]
    with paths.runner_log.open("ab") as log:
        position = log.tell()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    until = time.monotonic() + DETACH_SECONDS
    while time.monotonic() < until:
        holder = living_runner(paths)
        if holder is not None and holder.pid == process.pid:
            name = paths.name
            message = (
                f"{name} runs in the background (process {process.pid})\n"
                f"  studyctl watch {name}   look in\n"
                f"  studyctl show {name}    results so far\n"
                f"  studyctl stop {name}    stop it"
            )
            return Started(paths, None, message, ExitCode.DONE)
        if process.poll() is not None:
            break
        time.sleep(0.05)
    said = paths.runner_log.read_bytes()[position:].decode(errors="replace").strip()
    code = process.poll()
    if code == ExitCode.DONE:
        return Started(paths, None, said, ExitCode.DONE)
    raise StudyError(
        f"the detached runner did not start: {said or 'it said nothing'}", hint=f"see {paths.runner_log}"
    )


def rebuild(paths: StudyPaths) -> str:
    """Build the database from the journals anew.

    Raises:
        HeldError: a runner is at work: it publishes by itself.
    """
    with hold(paths):
        published = publish(paths, running=set())
    return f"built {paths.database} from the journals in {published.seconds:.2f} s"

"""Requests to a living runner: small files in ``control/``, which it reads between events."""

import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import uuid4

import msgspec

from studyctl.contract.job import StopWhen
from studyctl.errors import HeldError, StudyError
from studyctl.files import StudyPaths, write_atomic
from studyctl.journal.notes import write_note
from studyctl.run.hold import hold
from studyctl.store.holder import living_runner, needed_runner


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the runner."""

    kind: Literal["stop", "retry", "first", "publish", "spec", "drain"]
    when: StopWhen = "after_step"
    trial: str = ""
    """For ``retry`` and ``first``: the trial; for ``retry``, empty for every failed one."""
    spec: str = ""
    """For ``spec``: text of the edited spec, self-contained."""
    only: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    """For ``spec``: the additional part of the study to run; see :class:`~studyctl.run.selection.Selection`."""
    worker: str = ""
    """For ``drain``: the worker that leaves after its attempt."""


def send(paths: StudyPaths, request: Request) -> None:
    """Leave a request for the runner.

    Raises:
        StudyError: the folder cannot be written.
    """
    try:
        write_atomic(paths.control / f"{request.kind}-{uuid4().hex[:8]}.json", msgspec.json.encode(request))
    except OSError as error:
        raise StudyError(
            f"{paths.control} cannot be written ({error.strerror})",
            hint="only users who can write there can control the run",
        ) from error


def take_requests(paths: StudyPaths) -> list[Request | str]:
    """Return the waiting requests, oldest first, and remove them; a text for each file that is none."""
    requests: list[Request | str] = []
    waiting = (path for path in paths.control.glob("*.json") if path.is_file())
    for path in sorted(waiting, key=lambda path: path.stat().st_mtime):
        try:
            requests.append(msgspec.json.decode(path.read_bytes(), type=Request))
        except (msgspec.DecodeError, RecursionError, OSError) as error:
            requests.append(f"{path} is no request and was removed: {error}")
        path.unlink()
    return requests


def ask_to_stop(paths: StudyPaths, when: StopWhen) -> str:
    """Ask the runner of a study to stop; return a message that says so.

    Raises:
        StudyError: nobody runs it, or the folder cannot be written.
    """
    holder = needed_runner(paths)
    send(paths, Request("stop", when=when))
    return f"asked the runner of {paths.name} ({holder}) to stop {'now' if when == 'now' else 'after the running steps'}"


def ask_to_retry(paths: StudyPaths, trial: str = "") -> str | None:
    """Ask the runner of a study to retry a failed trial, or all of them; return a message that says so, None without a runner.

    Raises:
        StudyError: the folder cannot be written.
    """
    if living_runner(paths) is None:
        return None
    send(paths, Request("retry", trial=trial))
    return f"asked the runner of {paths.name} to try {trial or 'what failed'} again"


def ask_to_put_first(paths: StudyPaths, trial: str) -> str:
    """Ask the runner of a study to run a waiting trial before all others; return a message that says so.

    Raises:
        StudyError: nobody runs it, or the folder cannot be written.
    """
    needed_runner(paths)
    send(paths, Request("first", trial=trial))
    return f"asked the runner of {paths.name} to run {trial} next"


def note(paths: StudyPaths, trial: str, text: str) -> str:
    """Write a note about a trial and have it published; return a message that says so.

    Args:
        paths: files of the study.
        trial: its name.
        text: the note; empty: remove the one that is there.

    Raises:
        StudyError: the folder cannot be written.
    """
    write_note(paths, trial, text)
    if living_runner(paths) is not None:
        send(paths, Request("publish"))
    elif paths.database.is_file():
        from studyctl.store.publish import publish  # with pyarrow, which takes 40 MB

        with suppress(HeldError), hold(paths) as held:  # who holds it now publishes, or is about to delete it
            publish(paths, before_replacing=held.check)
    return f"the note of {trial} {'was written' if text else 'was removed'}"


def ask_to_drain(paths: StudyPaths, worker: str) -> str:
    """Ask the runner of a study to let a worker leave after its attempt; return a message that says so.

    Raises:
        StudyError: nobody runs it, or the folder cannot be written.
    """
    holder = needed_runner(paths)
    names = [state.name for state in holder.workers]
    if worker not in names:
        hint = f"workers are {', '.join(names)}" if names else "it has no workers now"
        raise StudyError(f"study `{paths.name}` has no worker `{worker}`", hint=hint)
    send(paths, Request("drain", worker=worker))
    return f"asked worker {worker} of {paths.name} to leave after its trial"


def start_in_background(spec: Path, only: str = "") -> str:
    """Run ``studyctl run SPEC --detach --yes``, for a process that must not plan by itself; return what it printed.

    The app has shown the plan, and with it whether the study was made from another spec.

    Args:
        spec: its file.
        only: a trial to run; empty: all.

    Raises:
        StudyError: it did not start.
    """
    options = ["--only", only] if only else []
    command = [sys.executable, "-P", "-m", "studyctl", "run", str(spec), *options, "--detach", "--yes"]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    message = ended.stderr.strip() or ended.stdout.strip()
    if ended.returncode:
        raise StudyError(message or f"`{' '.join(command)}` ended with exit code {ended.returncode}")
    return message

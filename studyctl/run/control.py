"""Requests to a living runner: small files in ``control/``, taken up between events."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from uuid import uuid4

from studyctl.errors import StudyError
from studyctl.files import StudyPaths, write_atomic
from studyctl.store.holder import living_runner

StopWhen = Literal["after_stage", "now"]


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks of the runner."""

    kind: Literal["stop", "retry", "spec"]
    when: StopWhen = "after_stage"
    trial: str = ""
    """For ``retry``: the trial; empty for every failed one."""
    spec: str = ""
    """For ``spec``: text of the edited spec, complete in itself."""
    only: list[str] = field(default_factory=list)
    model: list[str] = field(default_factory=list)
    """For ``spec``: the part of it to run as well, as :class:`~studyctl.run.selection.Selection` has it."""


def send(paths: StudyPaths, request: Request) -> None:
    """Leave a request for the runner.

    Raises:
        StudyError: the folder cannot be written.
    """
    fields = {name: getattr(request, name) for name in request.__slots__}
    try:
        write_atomic(paths.control / f"{request.kind}-{uuid4().hex[:8]}.json", json.dumps(fields))
    except OSError as error:
        raise StudyError(
            f"{paths.control} cannot be written ({error.strerror})",
            hint="only who may write there can control the run",
        ) from error


def ask_to_stop(paths: StudyPaths, when: StopWhen) -> str:
    """Ask the runner of a study to stop; return what was asked of whom.

    Raises:
        StudyError: nobody runs it, or the folder cannot be written.
    """
    holder = living_runner(paths)
    if holder is None:
        raise StudyError(f"study `{paths.name}` is not being run", hint="`studyctl list` shows what is")
    send(paths, Request("stop", when=when))
    return f"asked the runner of {paths.name} ({holder}) to stop {'now' if when == 'now' else 'after the running stages'}"


def ask_to_retry(paths: StudyPaths, trial: str = "") -> str | None:
    """Ask the runner of a study to try a failed trial again, or all that failed; None if nobody runs it.

    Raises:
        StudyError: the folder cannot be written.
    """
    if living_runner(paths) is None:
        return None
    send(paths, Request("retry", trial=trial))
    return f"asked the runner of {paths.name} to try {trial or 'what failed'} again"


def start_in_background(spec: Path, only: str = "") -> str:
    """Run a spec as ``studyctl run SPEC --detach`` does, from a process that must not plan by itself; return what it said.

    Args:
        spec: its file.
        only: a trial; empty: all.

    Raises:
        StudyError: it did not start.
    """
    chosen = ["--only", only] if only else []
    command = [sys.executable, "-m", "studyctl", "run", str(spec), *chosen, "--detach"]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    said = ended.stderr.strip() or ended.stdout.strip()
    if ended.returncode:
        raise StudyError(said or f"`{' '.join(command)}` ended with exit code {ended.returncode}")
    return said


def take_requests(paths: StudyPaths) -> list[Request]:
    """Return the requests that wait, oldest first, and remove them."""
    if not paths.control.is_dir():
        return []
    requests = []
    for path in sorted(paths.control.glob("*.json"), key=_age):
        requests.append(Request(**json.loads(path.read_text())))
        path.unlink()
    return requests


def _age(path: Path) -> float:
    return path.stat().st_mtime

"""Requests to a living runner: small files in ``control/``, taken up between events."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import uuid4

from studyctl.errors import StudyError
from studyctl.files import StudyPaths, write_atomic

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

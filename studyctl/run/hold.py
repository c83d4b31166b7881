"""Who runs a study: a kernel lock on this host, a heartbeat for everybody else.

The lock is free at once when its process dies, so a killed run can be started again at once. A lock does not reach other
hosts on every network file system; there the heartbeat in ``runner.json`` judges.
"""

import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
import psutil

from studyctl.errors import HeldError, Problem, StudyError
from studyctl.files import StudyPaths

STALE_SECONDS = 60
"""A heartbeat older than this is of a runner that is gone (on another host)."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The runner that wrote ``runner.json`` last."""

    host: str
    pid: int
    created: float
    """When its process began, in seconds since the epoch: process numbers are used again."""
    since: datetime
    heartbeat: datetime
    attempts: tuple[dict[str, Any], ...]

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since.astimezone():%Y-%m-%d %H:%M:%S}"


def read_holder(paths: StudyPaths) -> Holder | None:
    """Return who wrote ``runner.json``, alive or not; None if nobody did."""
    try:
        data = json.loads(paths.runner.read_text())
        since, heartbeat = (datetime.fromisoformat(data[key]) for key in ("since", "heartbeat"))
        return Holder(data["host"], data["pid"], data["created"], since, heartbeat, tuple(data["attempts"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError) as error:
        raise StudyError(
            f"{paths.runner} is damaged ({error})", hint="delete it if no runner is at work"
        ) from error


def living_runner(paths: StudyPaths) -> Holder | None:
    """Return the runner that holds the study now, or None."""
    holder = read_holder(paths)
    if holder is None:
        return None
    if holder.host != socket.gethostname():
        age = (datetime.now(UTC) - holder.heartbeat).total_seconds()
        return holder if age < STALE_SECONDS else None
    # Not by trying the lock: a reader that holds it for a moment could turn a starting runner away.
    try:
        same = abs(psutil.Process(holder.pid).create_time() - holder.created) < 1
    except psutil.NoSuchProcess:
        return None
    return holder if same else None


@contextmanager
def hold(paths: StudyPaths) -> Iterator[None]:
    """Hold the study for this process.

    Raises:
        HeldError: another runner holds it; the problem says who and since when.
        StudyError: the folder cannot be written.
    """
    lock = filelock.FileLock(paths.lock, blocking=False)
    try:
        paths.root.mkdir(parents=True, exist_ok=True)
        elsewhere = living_runner(paths)
        if elsewhere is not None:
            raise HeldError(_held(paths, elsewhere))
        lock.acquire()
    except filelock.Timeout as error:
        raise HeldError(_held(paths, read_holder(paths))) from error
    except OSError as error:
        raise StudyError(
            f"the study's folder {paths.root} cannot be written ({error.strerror})",
            hint="make it writable, or start in another folder",
        ) from error
    try:
        yield
        paths.runner.unlink(missing_ok=True)
    finally:
        lock.release()


def _held(paths: StudyPaths, holder: Holder | None) -> Problem:
    who = f"by {holder}" if holder else "by a runner that is just starting"
    return Problem(
        f"study `{paths.name}` is run already {who}",
        hint=f"`studyctl logs {paths.name} -f` looks in, `studyctl stop {paths.name}` stops it",
    )


def write_heartbeat(paths: StudyPaths, since: datetime, attempts: Sequence[dict[str, object]]) -> None:
    """Say that this runner is alive and what it is running."""
    content = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "created": psutil.Process().create_time(),
        "since": since.isoformat(),
        "heartbeat": datetime.now(UTC).isoformat(),
        "attempts": list(attempts),
    }
    # Not synced: a heartbeat that a power cut takes is of a dead runner anyway.
    temporary = Path(f"{paths.runner}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content))
    temporary.replace(paths.runner)

"""Who runs a study now: judged by the runner's process on its own host, elsewhere by its heartbeat in ``runner.json``."""

import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import psutil

from studyctl.errors import StudyError
from studyctl.files import StudyPaths

STALE_SECONDS = 60
"""On another host, a runner whose heartbeat is older than this counts as dead."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The runner that wrote ``runner.json`` last."""

    host: str
    pid: int
    created: float
    """When its process started, in seconds since the epoch: process ids are reused."""
    since: datetime
    heartbeat: datetime
    attempts: tuple[dict[str, Any], ...]
    """Those that run: ``trial``, ``attempt``, ``device``, ``pid``, ``memory_bytes``."""
    seconds_left: float | None = None
    """Its estimate; None before it has one."""
    memory_bytes: int | None = None
    """Memory in use on its host, by any process."""
    load: float | None = None
    """Load average of its host over one minute."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since.astimezone():%Y-%m-%d %H:%M:%S}"


def read_holder(paths: StudyPaths) -> Holder | None:
    """Return who wrote ``runner.json``, alive or not; None if there is no such file."""
    try:
        return msgspec.json.decode(paths.runner.read_bytes(), type=Holder)
    except FileNotFoundError:
        return None
    except ValueError as error:
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
    # Not by trying the lock: a reader that holds it for a moment could keep a runner from starting.
    try:
        same = abs(psutil.Process(holder.pid).create_time() - holder.created) < 1
    except psutil.NoSuchProcess:
        return None
    return holder if same else None

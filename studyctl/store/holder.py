"""Who runs a study now: judged by the runner's process on its own host, elsewhere by its heartbeat in ``runner.json``."""

import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, TypedDict

import msgspec
import psutil
from msgspec import Meta

from studyctl.contract.plan import Short, TrialName
from studyctl.errors import StudyError
from studyctl.files import StudyPaths, read_plain

STALE_SECONDS = 60
"""On another host, a runner whose heartbeat is older than this counts as dead."""


Moment = Annotated[datetime, Meta(tz=True)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class RunningAttempt(TypedDict):
    """An attempt that runs."""

    trial: TrialName
    attempt: Count


@dataclass(frozen=True, slots=True)
class Holder:
    """The runner that wrote ``runner.json`` last."""

    host: Short
    pid: Annotated[int, Meta(ge=1, lt=2**31)]
    created: float
    """When its process started, in seconds since the epoch: process ids are reused."""
    since: Moment
    heartbeat: Moment
    attempts: tuple[RunningAttempt, ...]
    seconds_left: Annotated[float, Meta(ge=0, le=1e12)] | None = None
    """Its estimate; None before it has one."""
    memory_bytes: Count | None = None
    """Memory in use on its host, by any process."""
    load: float | None = None
    """Load average of its host over one minute."""

    def __post_init__(self) -> None:
        for moment in (self.since, self.heartbeat):
            if not 2000 < moment.year < 3000:
                raise ValueError(f"{moment} is no time of a run")

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since.astimezone():%Y-%m-%d %H:%M:%S}"


def read_holder(paths: StudyPaths) -> Holder | None:
    """Return who wrote ``runner.json``, alive or not; None if there is no such file."""
    try:
        return msgspec.json.decode(read_plain(paths.runner), type=Holder)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
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

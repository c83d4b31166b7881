"""Who holds a study now: its runner, or a command that changes it.

On one machine the holder's process says whether it lives, at once. Of a process elsewhere nothing is certain but change: it counts
up in ``runner.lease``, and who reads the file waits, by their own monotonic clock, whether the count moves. No two clocks are
compared. (The soft lease of ``filelock`` takes machines with the same name for one, and cannot be watched by others.)
"""

import os
import socket
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, TypedDict

import msgspec
import psutil
from msgspec import Meta

from studyctl.contract.plan import Short, TrialName
from studyctl.errors import StudyError
from studyctl.files import StudyPaths, machine, read_plain

BEAT_SECONDS = 5.0
"""How often a holder counts up."""
SILENT_BEATS = 3
"""A holder on another machine that does not count for so many beats is dead."""
LOOK_SECONDS = 0.25
"""How often :meth:`Pulse.wait` looks."""


Moment = Annotated[datetime, Meta(tz=True)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class RunningAttempt(TypedDict):
    """An attempt that runs."""

    trial: TrialName
    attempt: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """A worker of the runner."""

    name: Short
    host: Short = ""
    """Empty: that of the runner."""
    device: Short = ""
    pid: Count | None = None
    trial: str = ""
    """That it runs; empty: none."""
    attempt: Count = 0
    memory_bytes: Count | None = None
    """Resident; None where that cannot be asked."""
    device_bytes: Count | None = None
    """Memory that torch holds on its GPU, as of its newest progress; None on a CPU."""
    leaves: bool = False
    """Whether it takes no further trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A worker that was asked for and has not begun."""

    name: Short
    job: Short
    """Its id at the scheduler."""
    reason: Short = ""
    """Why it waits, as the scheduler says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Memory in use during a run: the largest value in each of some spans of equal length, oldest first."""

    seconds: Annotated[float, Meta(gt=0, le=1e12)]
    """Length of a span."""
    memory_bytes: tuple[Count, ...] = ()
    """In use on the host, by any process."""
    device_bytes: tuple[Count, ...] = ()
    """Held by torch on the GPUs of all workers together; 0 on CPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process that held a study."""

    host: Short
    """For people: machines can share a name."""
    machine: Short = ""
    """Where its process id means something; empty in files of earlier versions."""
    pid: Annotated[int, Meta(ge=1, lt=2**31)]
    created: float
    """When its process started: process ids are reused."""
    since: Moment
    token: Short = ""
    """Of its lease: no two are equal."""

    def __post_init__(self) -> None:
        if not 2000 < self.since.year < 3000:
            raise ValueError(f"{self.since} is no time of a run")

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since.astimezone():%Y-%m-%d %H:%M:%S}"

    @property
    def is_here(self) -> bool:
        """Return whether its process id can be looked up on this machine."""
        return self.machine == machine() if self.machine else self.host == socket.gethostname()

    @property
    def has_process(self) -> bool:
        """Return whether its process lives, if it is here."""
        try:
            process = psutil.Process(self.pid)
            started = process_started(self.pid) if self.machine else process.create_time()
            return abs(started - self.created) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, FileNotFoundError):
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease(Owner):
    """The content of ``runner.lease``."""

    count: Short
    """Counts the beats; of a fixed length, so that it is written in place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder(Owner):
    """The runner that wrote ``runner.json`` last."""

    heartbeat: Moment
    """By the clock of its host, for people."""
    attempts: tuple[RunningAttempt, ...]
    workers: tuple[WorkerState, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    """Workers of a cluster that have not begun."""
    timing: Short = ""
    """What it times now, alone on its host; empty: nothing."""
    seconds_left: Annotated[float, Meta(ge=0, le=1e12)] | None = None
    """Its estimate; None before it has one."""
    memory_bytes: Count | None = None
    """Memory in use on its host, by any process."""
    memory_total_bytes: Count | None = None
    memory_use: MemoryUse | None = None
    """Since it began; None: not recorded."""
    load: float | None = None
    """Load average of its host over one minute."""


def process_started(pid: int) -> float:
    """Return when a process started, in seconds since the machine did; where the system does not say, since the epoch.

    Seconds since the epoch change when the machine's clock is set.

    Raises:
        psutil.NoSuchProcess, FileNotFoundError: there is none with this id.
    """
    if not psutil.LINUX:
        return psutil.Process(pid).create_time()
    after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2]
    return int(after_name.split()[19]) / os.sysconf("SC_CLK_TCK")  # field 22 in proc(5)


def read_holder(paths: StudyPaths) -> Holder | None:
    """Return who wrote ``runner.json``, alive or not; None if there is no such file."""
    try:
        content = _content(paths.runner)
        return None if content is None else msgspec.json.decode(content, type=Holder)
    except (OSError, ValueError, RecursionError) as error:
        raise StudyError(
            f"{paths.runner} is damaged ({error})", hint="delete it if no runner is at work"
        ) from error


def read_lease(paths: StudyPaths) -> Lease | None:
    """Return who holds the study, or held it and was killed; None if nobody can be made out."""
    try:
        return msgspec.json.decode(_content(paths.lease) or b"", type=Lease)
    except (ValueError, RecursionError):
        return None


def _content(path: Path) -> bytes | None:
    try:
        return read_plain(path)
    except FileNotFoundError:
        return None


class Pulse:
    """Judges whether the holder of a study lives, over successive looks. For one thread at a time."""

    def __init__(self, paths: StudyPaths) -> None:
        self._paths = paths
        self._seen: object = None
        self._since = 0.0

    def look(self) -> Holder | None:
        """Return the runner that holds the study, or None; does not wait.

        A runner on another machine counts as alive until it was seen silent over :data:`SILENT_BEATS`.
        """
        holder = read_holder(self._paths)
        return holder if holder is not None and self.lives(holder) is not False else None

    def wait(self) -> Holder | None:
        """Return the runner that holds the study, or None; waits until that is certain: at once for one on this machine."""
        while (holder := read_holder(self._paths)) is not None:
            if (lives := self.lives(holder)) is not None:
                return holder if lives else None
            time.sleep(LOOK_SECONDS)
        return None

    def lives(self, owner: Owner | None) -> bool | None:
        """Return whether an owner of ``runner.lease`` or ``runner.json`` lives.

        Args:
            owner: who is named there; None: nobody can be made out.

        Returns:
            None: not certain yet, look again.
        """
        lease = read_lease(self._paths)
        if owner is not None and owner.token and (lease is None or lease.token != owner.token):
            return False  # it let go, or somebody else holds the study
        if owner is not None and owner.is_here:
            return owner.has_process
        # Both files: a runner of an earlier version has no lease.
        seen, now = (_content(self._paths.lease), _content(self._paths.runner)), time.monotonic()
        if seen != self._seen:
            first, self._seen, self._since = self._seen is None, seen, now
            return None if first else True
        return False if now - self._since >= SILENT_BEATS * BEAT_SECONDS else None


def dead_runner(paths: StudyPaths) -> Holder | None:
    """Return the runner of a study if it is certain that it died; does not wait."""
    try:
        holder = read_holder(paths)
    except StudyError:  # who it was is not known, and results can be read without it
        return None
    return holder if holder is not None and Pulse(paths).lives(holder) is False else None


def needed_runner(paths: StudyPaths) -> Holder:
    """Return the runner that holds the study now.

    Raises:
        StudyError: there is none.
    """
    if (runner := living_runner(paths)) is None:
        raise StudyError(f"study `{paths.name}` is not being run", hint="`studyctl list` shows what is")
    return runner


def living_runner(paths: StudyPaths) -> Holder | None:
    """Return the runner that holds the study now, or None; waits until that is certain (:meth:`Pulse.wait`)."""
    return Pulse(paths).wait()

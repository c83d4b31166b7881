"""One runner per study: a kernel lock where there is one, and a lease that counts up, for other machines.

Whoever holds the study makes ``runner.lease`` and counts up in it. On the same machine the holder's process says whether it lives;
elsewhere a lease that does not change for some beats is dead and is replaced (see :mod:`studyctl.store.holder`). A holder that was
only asleep finds another lease in place of its own, and ends.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from uuid import uuid4

import msgspec
import psutil
from filelock import Timeout

from studyctl.errors import HeldError, StudyError
from studyctl.files import StudyPaths, file_lock, machine, write_atomic
from studyctl.store import holder
from studyctl.store.holder import Lease, MemoryUse, Owner, Pulse, process_started, read_holder, read_lease
from studyctl.workers.pool import PoolState

SPAN_SECONDS = 4.0
"""Length of a span of :class:`MemoryMeter` at the beginning; it doubles as often as the run needs."""
MOST_SPANS = 64


class Hold:
    """A study that this process holds."""

    def __init__(self, paths: StudyPaths) -> None:
        self.paths = paths
        self.note = ""
        """What the user should know about how it is held; empty: nothing."""
        self._lease = Lease(
            host=socket.gethostname(),
            machine=machine(),
            pid=os.getpid(),
            created=process_started(os.getpid()),
            since=datetime.now(UTC),
            token=uuid4().hex,
            count=f"{0:012}",
        )
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._count, name="lease", daemon=True)

    @property
    def token(self) -> str:
        """Return the name of this hold; no two are equal."""
        return self._lease.token

    def take(self, pulse: Pulse) -> None:
        """Make the lease, or replace that of a holder that is dead.

        Raises:
            HeldError: its holder lives.
            OSError: the folder cannot be written.
        """
        path, content = self.paths.lease, msgspec.json.encode(self._lease)
        while True:
            try:
                with path.open("xb") as file:
                    try:
                        os.write(file.fileno(), content)
                    except OSError:
                        path.unlink()
                        raise
                break
            except FileExistsError:
                lease = read_lease(self.paths)
            if (lives := pulse.lives(lease)) is None:
                time.sleep(holder.LOOK_SECONDS)
            elif lives:
                raise _held(self.paths, lease)
            elif read_lease(self.paths) == lease:
                write_atomic(
                    path, content
                )  # of two who do this at once, the first finds the lease of the second
                break
        self._thread.start()

    def check(self) -> None:
        """See that the study is still held.

        Raises:
            HeldError: it is not: this process did not count for some beats, and another one took it for dead.
            OSError: the folder is gone.
        """
        lease = read_lease(self.paths)
        if lease is None or lease.token != self._lease.token:
            seconds = holder.SILENT_BEATS * holder.BEAT_SECONDS
            raise HeldError(
                f"study `{self.paths.name}` was taken over by {lease or 'another process'}: this one did not show "
                f"for {seconds:.0f} s that it lives",
                hint=f"everything that was measured is stored; `studyctl watch {quote(self.paths.name)}` shows how it goes on",
            )

    def release(self) -> None:
        """Let go of the study."""
        self._ended.set()
        self._thread.join()
        with suppress(HeldError, OSError):
            self.check()
            self.paths.lease.unlink()

    def _count(self) -> None:
        count = 0
        while not self._ended.wait(holder.BEAT_SECONDS):
            # A disk that cannot be written now and then only looks silent. In place, opened and closed each time: other hosts of
            # a network file system see that sooner than a new file.
            with suppress(OSError), self.paths.lease.open("r+b") as file:
                if self._lease.token.encode() not in file.read():
                    return
                count += 1
                file.seek(0)
                file.write(msgspec.json.encode(replace(self._lease, count=f"{count:012}")))


@contextmanager
def hold(paths: StudyPaths, pulse: Pulse | None = None) -> Iterator[Hold]:
    """Hold the study for this process, so that no other runner starts.

    Args:
        paths: files of the study.
        pulse: one that has looked at the study before, so that nothing is waited for twice; None: a new one.

    Raises:
        HeldError: another runner holds it; the problem says who and since when.
        StudyError: the folder cannot be written.
    """
    held, pulse = Hold(paths), pulse or Pulse(paths)
    with ExitStack() as stack:
        try:
            paths.root.mkdir(parents=True, exist_ok=True)
            if (runner := pulse.wait()) is not None:
                raise _held(paths, runner)
            if not stack.enter_context(file_lock(paths.lock, timeout=0)):
                held.note = (
                    f"the disk of {paths.root} has no locks: other runners notice this one by its lease alone"
                )
            held.take(pulse)
        except Timeout as error:
            raise _held(paths, read_lease(paths) or read_holder(paths)) from error
        except OSError as error:
            raise StudyError(
                f"the study's folder {paths.root} cannot be written ({error.strerror})",
                hint="make it writable, or start in another folder",
            ) from error
        stack.callback(held.release)
        yield held
        paths.runner.unlink(missing_ok=True)


def _held(paths: StudyPaths, owner: Owner | None) -> HeldError:
    return HeldError(
        f"study `{paths.name}` is already being run by {owner or 'a runner that is just starting'}",
        hint=f"`studyctl logs {quote(paths.name)} -f` follows it, `studyctl stop {quote(paths.name)}` stops it",
    )


class MemoryMeter:
    """Keeps a run's memory over time in bounded space: when it is full, two spans become one, with the larger value of both."""

    def __init__(self) -> None:
        self.use = MemoryUse(seconds=SPAN_SECONDS)
        self._began: float | None = None

    def add(self, at: float, memory_bytes: int, device_bytes: int) -> None:
        """Take the memory that is in use at a time in seconds of a clock that only rises."""
        self._began = at if self._began is None else self._began
        while (span := int((at - self._began) // self.use.seconds)) >= MOST_SPANS:
            self.use = MemoryUse(
                seconds=2 * self.use.seconds,
                memory_bytes=_halved(self.use.memory_bytes),
                device_bytes=_halved(self.use.device_bytes),
            )
        self.use = replace(
            self.use,
            memory_bytes=_put(self.use.memory_bytes, span, memory_bytes),
            device_bytes=_put(self.use.device_bytes, span, device_bytes),
        )


def _halved(values: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(max(values[first : first + 2]) for first in range(0, len(values), 2))


def _put(values: tuple[int, ...], span: int, value: int) -> tuple[int, ...]:
    """Return the values with another one in a span; in spans without any, as while the machine slept, the last one stands."""
    if span < len(values):
        return (*values[:-1], max(values[-1], value))
    return (*values, *values[-1:] * (span - len(values)), value)


def write_heartbeat(
    paths: StudyPaths,
    since: datetime,
    pool: PoolState,
    seconds_left: float | None = None,
    timing: str = "",
    meter: "MemoryMeter | None" = None,
) -> None:
    """Write ``runner.json``: what the runner of this process runs, and the load of its host. The study is held."""
    memory, lease = psutil.virtual_memory(), read_lease(paths)
    if meter is not None:
        held = sum(worker.device_bytes or 0 for worker in pool.workers if worker.trial)
        meter.add(time.monotonic(), memory.total - memory.available, held)
    content = {
        "host": socket.gethostname(),
        "machine": machine(),
        "pid": os.getpid(),
        "created": process_started(os.getpid()),
        "since": since.isoformat(),
        "token": lease.token if lease else "",
        "heartbeat": datetime.now(UTC).isoformat(),
        "attempts": [
            {"trial": worker.trial, "attempt": worker.attempt} for worker in pool.workers if worker.trial
        ],
        "workers": [asdict(worker) for worker in pool.workers],
        "waiting": [asdict(worker) for worker in pool.waiting],
        "timing": timing,
        "seconds_left": seconds_left,
        "memory_bytes": memory.total - memory.available,
        "memory_total_bytes": memory.total,
        "memory_use": asdict(meter.use) if meter is not None else None,
        "load": psutil.getloadavg()[0],
        "cores": psutil.cpu_count(),
    }
    # Not synced: after a power cut the runner is dead anyway.
    temporary = Path(f"{paths.runner}.{machine()}-{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content))
    temporary.replace(paths.runner)

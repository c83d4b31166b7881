"""One runner per study: a kernel lock on this host, a heartbeat for other hosts.

The lock is released when its process dies, so a killed run can be restarted at once. On some network file systems a lock is not
seen by other hosts; they judge by the heartbeat in ``runner.json``.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import filelock
import psutil

from studyctl.errors import HeldError, StudyError
from studyctl.files import StudyPaths
from studyctl.store.holder import Holder, living_runner, read_holder


@contextmanager
def hold(paths: StudyPaths) -> Iterator[None]:
    """Hold the study for this process, so that no other runner starts.

    Raises:
        HeldError: another runner holds it; the problem says who and since when.
        StudyError: the folder cannot be written.
    """
    lock = filelock.FileLock(paths.lock, blocking=False)
    try:
        paths.root.mkdir(parents=True, exist_ok=True)
        if (holder := living_runner(paths)) is not None:
            raise _held(paths, holder)
        lock.acquire()
    except filelock.Timeout as error:
        raise _held(paths, read_holder(paths)) from error
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


def _held(paths: StudyPaths, holder: Holder | None) -> HeldError:
    return HeldError(
        f"study `{paths.name}` is already being run by {holder or 'a runner that is just starting'}",
        hint=f"`studyctl logs {paths.name} -f` follows it, `studyctl stop {paths.name}` stops it",
    )


def write_heartbeat(
    paths: StudyPaths,
    since: datetime,
    attempts: list[dict[str, object]],
    seconds_left: float | None = None,
) -> None:
    """Write ``runner.json``: that this runner is alive, what it runs, and the load of its host."""
    memory = psutil.virtual_memory()
    content = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "created": psutil.Process().create_time(),
        "since": since.isoformat(),
        "heartbeat": datetime.now(UTC).isoformat(),
        "attempts": attempts,
        "seconds_left": seconds_left,
        "memory_bytes": memory.total - memory.available,
        "memory_total_bytes": memory.total,
        "load": psutil.getloadavg()[0],
        "cores": psutil.cpu_count(),
    }
    # Not synced: after a power cut the runner is dead anyway.
    temporary = Path(f"{paths.runner}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content))
    temporary.replace(paths.runner)

"""A worker: a process that runs one attempt after another and keeps its model loaded in between.

It ends with its runner: the runner's death closes the pipe that the worker reads.
"""

import faulthandler
import os
import sys
from contextlib import suppress
from typing import NoReturn

from studyctl.compress import sweep
from studyctl.contract.job import Job
from studyctl.contract.records import WorkerFatal, WorkerReady
from studyctl.files import SPARE_CACHE, StudyPaths, cache_entry
from studyctl.signals import leave_stopping_to_parent
from studyctl.work.memory import keep_freed_memory
from studyctl.work.recorder import CannotWriteError, Channel

CANNOT_WRITE = 71
"""Exit code of a worker that could not write to the study's folder."""


def _log_to(job: Job) -> None:
    """Append everything that this process prints to the attempt's log."""
    path = StudyPaths(job.root).attempt_log(job.trial, job.attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def _import_engine() -> None:
    """Import torch and the engine, which takes seconds, before the first job."""
    # An import that fails does so again with the first job, whose log is where people look.
    with suppress(Exception):
        import studyctl.work.attempt
        import studyctl.work.engine  # noqa: F401


def _cannot_write(channel: Channel, error: str) -> NoReturn:
    channel.send(WorkerFatal(error=error))
    os._exit(CANNOT_WRITE)


def main() -> None:
    """Run jobs until the runner closes the pipe."""
    leave_stopping_to_parent()
    channel = Channel(os.dup(0), os.dup(1), leased="--leased" in sys.argv)
    # From now on libraries print to stderr and read an empty stdin.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    faulthandler.enable()
    keep_freed_memory()
    # Numba keeps compiled code beside the kernels, and refuses to begin if it cannot: then a job's study says where.
    is_writable = os.access(sweep.__path__[0], os.W_OK)
    if is_writable:
        _import_engine()
    channel.send(WorkerReady(pid=os.getpid()))
    engine = None
    while True:
        job = channel.jobs.get()
        try:
            _log_to(job)
        except OSError as error:
            _cannot_write(channel, f"cannot write {error.filename}: {error.strerror}")
        os.environ[SPARE_CACHE] = str(StudyPaths(job.root).spare_cache)
        if not is_writable:
            os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_entry("numba")))
        from studyctl.work.attempt import Attempt
        from studyctl.work.engine import Engine

        engine = engine or Engine()
        try:
            Attempt(job, engine, channel).run()
        except CannotWriteError as error:
            _cannot_write(channel, str(error))


if __name__ == "__main__":
    main()

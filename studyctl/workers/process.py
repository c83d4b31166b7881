"""A worker process of this machine from its parent's side: starting it, listening to it, ending it."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from studyctl.contract.job import Job, Lease, StopRequest
from studyctl.signals import held_back, how_it_ended
from studyctl.work.memory import OomKills
from studyctl.workers.pool import Ended

OPENMP_SPINS = "10000"
"""How often idle OpenMP threads look for work before they sleep. By default they spin for milliseconds and keep a core busy that
other threads need, ours or another program's, while the rest of a matrix product waits for it."""


class WorkerProcess:
    """A worker process and its pipes. It ends when the pipe that it reads is closed."""

    def __init__(
        self,
        log: Path | None,
        report: Callable[[bytes], None],
        end: Callable[[Ended], None],
        *,
        leased: bool = False,
    ) -> None:
        """Start it.

        Args:
            log: what it prints before its first attempt is appended here; None: printed as this process prints.
            report: is called in a thread with each record, a line of JSON.
            end: is called in that thread when the process has ended.
            leased: whether it must not record a result without a fresh lease (:class:`~studyctl.contract.job.Lease`).
        """
        self._report, self._end = report, end
        self._writing = threading.Lock()
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") if log is not None else nullcontext() as file, held_back():
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "studyctl.work.worker", *(["--leased"] if leased else [])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env={"GOMP_SPINCOUNT": OPENMP_SPINS}
                | os.environ
                | {"TOKENIZERS_PARALLELISM": "true", "PYTHONUNBUFFERED": "1"},
            )
        self._kills = OomKills(self._process.pid)
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._process.pid

    def send(self, message: Job | StopRequest | Lease) -> None:
        """Give it a job, ask it to stop, or renew its lease."""
        assert self._process.stdin is not None
        try:
            with self._writing:
                self._process.stdin.write(message.model_dump_json().encode() + b"\n")
                self._process.stdin.flush()
        except (BrokenPipeError, ValueError):  # it is dying, or its pipe was closed: its end is reported
            self._process.kill()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._report(line)
        code = self._process.wait()
        if code < 0 and self._kills.count():
            self._end(Ended("the kernel killed the worker: out of memory", out_of_memory=True))
        else:
            self._end(Ended(how_it_ended("the worker", code)))

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def close(self) -> None:
        """Close its pipe, so that it ends by itself; :meth:`wait` waits for that."""
        assert self._process.stdin is not None
        try:
            with self._writing:
                self._process.stdin.close()
        except BrokenPipeError:
            self._process.kill()

    def wait(self, seconds: float) -> None:
        """Wait for its end; a process that does not end in time is killed."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

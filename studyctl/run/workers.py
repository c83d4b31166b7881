"""Worker processes as the runner sees them."""

import os
import queue
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

import psutil

from studyctl.contract.job import Job, StopRequest
from studyctl.contract.records import AnyRecord, decode
from studyctl.contract.steps import Step, StepKind

OPENMP_SPINS = "10000"
"""How often idle OpenMP threads look for work before they sleep. By default they do for milliseconds, and keep a processor from
our own threads, and from whatever else runs on the machine, while the other half of a product waits for that one."""


_LOAD = Step(StepKind.LOAD)


class Event(NamedTuple):
    """Something that a worker said, or its end (``record`` is None)."""

    worker: "Worker"
    record: AnyRecord | None


@dataclass(eq=False)
class Worker:
    """One worker process on one device."""

    device: str
    process: subprocess.Popen[str]
    job: Job | None = None
    model_key: str | None = None
    """The model that it holds in memory."""
    step: Step = _LOAD
    """The one that is running."""
    _pipe: IO[str] = field(init=False)

    def __post_init__(self) -> None:
        assert self.process.stdin is not None
        self._pipe = self.process.stdin

    def memory_bytes(self) -> int | None:
        """Return the memory that its process holds now, or None when it is gone."""
        try:
            return psutil.Process(self.process.pid).memory_info().rss
        except psutil.NoSuchProcess:
            return None

    def start(self, job: Job) -> None:
        """Give it an attempt to run."""
        self.job, self.model_key, self.step = job, job.model.key, _LOAD
        self._send(job.model_dump_json())

    def stop(self, when: str) -> None:
        """Ask it to stop."""
        self._send(StopRequest.model_validate({"stop": when}).model_dump_json())

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()

    def close(self) -> None:
        """Close the pipe: the process ends by itself."""
        try:
            self._pipe.close()
        except BrokenPipeError:
            self.process.kill()

    def _send(self, line: str) -> None:
        try:
            self._pipe.write(line + "\n")
            self._pipe.flush()
        except BrokenPipeError:
            self.process.kill()  # it is dying: its end of file is the event that counts


def start_worker(device: str, log: Path, events: "queue.Queue[Event]") -> Worker:
    """Start a worker process; what it says arrives as events.

    Args:
        device: ``cpu``, ``cuda:0``, ...
        log: file for what it prints before its first attempt.
        events: where its records and its end are put.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", "studyctl.work.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=printed,
            text=True,
            encoding="utf-8",
            env={"GOMP_SPINCOUNT": OPENMP_SPINS}
            | os.environ
            | {"TOKENIZERS_PARALLELISM": "true", "PYTHONUNBUFFERED": "1"},
        )
    worker = Worker(device, process)
    threading.Thread(target=_listen, args=(worker, events), name=f"worker {device}", daemon=True).start()
    return worker


def _listen(worker: Worker, events: "queue.Queue[Event]") -> None:
    assert worker.process.stdout is not None
    for line in worker.process.stdout:
        try:
            record = decode(line.encode())
        except ValueError:  # the last line of a worker that was killed while it wrote
            break
        events.put(Event(worker, record))
    worker.process.wait()
    events.put(Event(worker, None))

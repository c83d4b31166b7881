"""Worker processes from the runner's side: starting them, listening to them, stopping them."""

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from studyctl.contract.job import Job, StopRequest
from studyctl.contract.records import AnyRecord, decode
from studyctl.contract.steps import Step, StepKind
from studyctl.run.control import StopWhen
from studyctl.signals import held_back

TICK_SECONDS = 0.25
KILL_AFTER_SECONDS = 5.0
"""Grace period of a worker that was asked to stop now."""
OPENMP_SPINS = "10000"
"""How often idle OpenMP threads look for work before they sleep. By default they spin for milliseconds and keep a core busy that
other threads need, ours or another program's, while the rest of a matrix product waits for it."""
_LOAD = Step(StepKind.LOAD)


@dataclass(eq=False)
class Worker:
    """One worker process on one device."""

    device: str
    process: subprocess.Popen[str]
    job: Job | None = None
    model_key: str | None = None
    """Key of the model that it holds in memory."""
    step: Step = _LOAD
    """The running step."""

    def send(self, message: Job | StopRequest) -> None:
        """Give it a job, or ask it to stop."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(message.model_dump_json() + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self.process.kill()  # it is dying; its end is reported as an event

    def close(self) -> None:
        """Close the pipe; the process then ends by itself."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            self.process.kill()


Event = tuple[Worker, AnyRecord | None]
"""A record that a worker reports, or None for its end."""


class Workers:
    """The workers of this process, one per device."""

    def __init__(self, log: Path) -> None:
        self.log = log
        """Log of what workers print before their first attempt."""
        self.stop: StopWhen | None = None
        """The user's request to stop; may be set in a signal handler."""
        self._passed_on: StopWhen | None = None
        self._kill_at = 0.0
        self._by_device: dict[str, Worker] = {}
        self._events: queue.Queue[Event] = queue.Queue()

    @property
    def running(self) -> dict[str, Worker]:
        """Return the workers that run an attempt, by trial."""
        return {worker.job.trial: worker for worker in self._by_device.values() if worker.job is not None}

    def on(self, device: str) -> Worker | None:
        """Return the worker of a device, if one was started."""
        return self._by_device.get(device)

    def start(self, job: Job) -> None:
        """Give a job to the worker of its device, which is started if there is none."""
        worker = self.on(job.device)
        if worker is None:
            worker = self._by_device[job.device] = Worker(job.device, self._process())
            threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
        worker.job, worker.model_key, worker.step = job, job.model.key, _LOAD
        worker.send(job)

    def _process(self) -> subprocess.Popen[str]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log, held_back():
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "studyctl.work.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                env={"GOMP_SPINCOUNT": OPENMP_SPINS}
                | os.environ
                | {"TOKENIZERS_PARALLELISM": "true", "PYTHONUNBUFFERED": "1"},
            )

    def _listen(self, worker: Worker) -> None:
        assert worker.process.stdout is not None
        with suppress(ValueError):  # the last line of a worker that was killed while it wrote
            for line in worker.process.stdout:
                self._events.put((worker, decode(line.encode())))
        worker.process.wait()
        self._events.put((worker, None))

    def events(self) -> Iterator[Event]:
        """Yield what the workers reported; wait at most :data:`TICK_SECONDS` for the first event."""
        with suppress(queue.Empty):
            worker, record = self._events.get(timeout=TICK_SECONDS)
            while True:
                if record is None:
                    del self._by_device[worker.device]
                yield worker, record
                worker, record = self._events.get_nowait()

    def pass_on_stop(self) -> bool:
        """Tell the workers to stop, and kill those that do not; return whether the request is new."""
        is_new = self.stop is not None and self.stop != self._passed_on
        if self.stop is not None and is_new:
            self._passed_on, self._kill_at = self.stop, time.monotonic() + KILL_AFTER_SECONDS
            for worker in self.running.values():
                worker.send(StopRequest(stop=self.stop))
        elif self.stop == "now" and time.monotonic() > self._kill_at:
            for worker in self.running.values():
                worker.process.kill()
        return is_new

    def describe(self) -> list[dict[str, object]]:
        """Return the running attempts, for ``runner.json``."""
        return [
            {
                "trial": worker.job.trial,
                "attempt": worker.job.attempt,
                "device": worker.device,
                "pid": worker.process.pid,
                "memory_bytes": _memory_bytes(worker.process.pid),
            }
            for worker in self._by_device.values()
            if worker.job is not None
        ]

    def close(self) -> None:
        """Ask the workers to end, and wait for that."""
        for worker in self._by_device.values():
            worker.close()
        for worker in self._by_device.values():
            worker.process.wait(timeout=30)


def _memory_bytes(pid: int) -> int | None:
    """Return the memory that a process holds now; None when it is gone."""
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.NoSuchProcess:
        return None

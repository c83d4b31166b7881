"""The workers of this machine: one process for each device of the spec."""

import queue
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from studyctl.contract.job import Job, StopRequest, StopWhen
from studyctl.errors import StudyError
from studyctl.journal.files import decode
from studyctl.signals import last_lines
from studyctl.workers.pool import MOST_FALSE_STARTS, TICK_SECONDS, Ended, Event, Pool, Worker
from studyctl.workers.process import WorkerProcess

KILL_AFTER_SECONDS = 5.0
"""Grace period of a worker that was asked to stop now."""
END_SECONDS = 30.0
"""Grace period of a worker whose pipe was closed."""


@dataclass(eq=False, kw_only=True)
class LocalWorker(Worker):
    """A worker of this machine, which has a process once it was needed."""

    process: WorkerProcess | None = None

    @property
    def memory_bytes(self) -> int | None:
        """Return the memory that its process holds now; None when that is gone."""
        with suppress(psutil.NoSuchProcess):
            return int(psutil.Process(self.pid).memory_info().rss) if self.pid is not None else None
        return None


class LocalPool(Pool):
    """One worker for each device; a process begins to import the engine as soon as there is a trial for it."""

    def __init__(self, devices: Sequence[str], log: Path) -> None:
        """Take the devices; ``log`` is where workers print before their first attempt."""
        super().__init__()
        self._log = log
        self._kill_at = 0.0
        self._events: queue.Queue[Event] = queue.Queue()
        self._workers: list[LocalWorker] = []
        self._false_starts = 0
        """Workers in a row that ended before they had a job."""
        self.use(devices)

    def use(self, devices: Sequence[str]) -> None:
        """Run on these devices from now on, as an edited spec asks for; a worker of another one ends when it is free."""
        names: Counter[str] = Counter()
        free = list(self._workers)
        self._workers = []
        for device in devices:
            names[device] += 1
            name = device if names[device] == 1 else f"{device} #{names[device]}"
            worker = next((worker for worker in free if worker.name == name), None)
            if worker is not None:
                free.remove(worker)
            self._workers.append(worker or LocalWorker(name=name, device=device))
        self._leaving = free

    @property
    def workers(self) -> list[Worker]:
        """Return the workers, with those that were never needed."""
        return [*self._workers, *self._leaving]

    def free(self, trials: int) -> list[Worker]:
        """Return the workers without a job; start as many processes as there are trials."""
        for worker in self._leaving:
            if worker.job is None and worker.process is not None:
                worker.process.close()
        self._leaving = [worker for worker in self._leaving if worker.job is not None]
        free = [worker for worker in self._workers if worker.job is None]
        for worker in free[:trials]:
            if worker.process is None:
                self._start(worker)
        return [worker for worker in free if worker.process is not None]

    def _start(self, worker: LocalWorker) -> None:
        worker.model_key = None

        def report(line: bytes) -> None:
            if (record := decode(line)) is not None:  # else its last line, cut short as it was killed
                self._events.put((worker, record))

        def end(ended: Ended) -> None:
            self._events.put((worker, ended))

        worker.process = WorkerProcess(self._log, report, end)
        worker.pid = worker.process.pid

    def start(self, worker: Worker, job: Job) -> None:
        """Give a job to a free worker."""
        assert isinstance(worker, LocalWorker)
        assert worker.process is not None
        self._false_starts = 0
        worker.begin(job)
        worker.process.send(job)

    def events(self) -> Iterator[Event]:
        """Yield what workers reported; wait at most :data:`TICK_SECONDS` for the first event."""
        with suppress(queue.Empty):
            worker, event = self._events.get(timeout=TICK_SECONDS)
            while True:
                if isinstance(event, Ended) and isinstance(worker, LocalWorker):
                    worker.process = worker.pid = None
                    if worker.job is None and worker in self._workers:
                        self._false_start(event)
                yield worker, event
                worker, event = self._events.get_nowait()

    def _false_start(self, end: Ended) -> None:
        """Give up if worker after worker ends before it had a job."""
        self._false_starts += 1
        if self._false_starts >= MOST_FALSE_STARTS:
            printed = last_lines(self._log)[-5:] if self._log.exists() else []
            what = "\n  ".join([f"no worker starts: {end.how}", *printed])
            raise StudyError(what, hint=f"see {self._log}")

    def pass_on_stop(self) -> bool:
        """Tell the workers to stop, and kill those that do not; return whether the request is new."""
        is_new = super().pass_on_stop()
        if is_new:
            self._kill_at = time.monotonic() + KILL_AFTER_SECONDS
        elif self.stop == "now" and time.monotonic() > self._kill_at:
            for worker in self._processes():
                worker.kill()
        return is_new

    def ask_to_stop(self, worker: Worker, when: StopWhen) -> None:
        """Ask a worker to end its attempt."""
        assert isinstance(worker, LocalWorker)
        if worker.process is not None:
            worker.process.send(StopRequest(stop=when))

    def _processes(self) -> list[WorkerProcess]:
        return [worker.process for worker in (*self._workers, *self._leaving) if worker.process is not None]

    def rest(self) -> None:
        """Let the workers without a job go, and wait for that."""
        idle = [worker for worker in self._workers if worker.job is None and worker.process is not None]
        self._workers = [
            LocalWorker(name=worker.name, device=worker.device) if worker in idle else worker
            for worker in self._workers
        ]
        _end([worker.process for worker in idle if worker.process is not None])

    def close(self) -> None:
        """Let every worker end, and wait for that."""
        _end(self._processes())


def _end(processes: Sequence[WorkerProcess]) -> None:
    for process in processes:
        process.close()
    for process in processes:
        process.wait(END_SECONDS)

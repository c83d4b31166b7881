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
from studyctl.contract.records import decode
from studyctl.store.holder import WorkerState
from studyctl.workers.pool import TICK_SECONDS, Ended, Event, Pool, PoolState, Worker
from studyctl.workers.process import WorkerProcess

KILL_AFTER_SECONDS = 5.0
"""Grace period of a worker that was asked to stop now."""
END_SECONDS = 30.0
"""Grace period of a worker whose pipe was closed."""


@dataclass(eq=False, kw_only=True)
class LocalWorker(Worker):
    """A worker of this machine, which has a process once it was needed."""

    process: WorkerProcess | None = None


class LocalPool(Pool):
    """One worker for each device; a process begins to import the engine as soon as there is a trial for it."""

    def __init__(self, devices: Sequence[str], log: Path) -> None:
        """Take the devices; ``log`` is where workers print before their first attempt."""
        super().__init__()
        self._log = log
        self._kill_at = 0.0
        self._events: queue.Queue[Event] = queue.Queue()
        self._workers: list[LocalWorker] = []
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
            with suppress(ValueError):  # the last line of a worker that was killed while it wrote
                self._events.put((worker, decode(line)))

        def end(ended: Ended) -> None:
            self._events.put((worker, ended))

        worker.process = WorkerProcess(self._log, report, end)
        worker.pid = worker.process.pid

    def start(self, worker: Worker, job: Job) -> None:
        """Give a job to a free worker."""
        assert isinstance(worker, LocalWorker)
        assert worker.process is not None
        worker.begin(job)
        worker.process.send(job)

    def events(self) -> Iterator[Event]:
        """Yield what workers reported; wait at most :data:`TICK_SECONDS` for the first event."""
        with suppress(queue.Empty):
            worker, event = self._events.get(timeout=TICK_SECONDS)
            while True:
                if isinstance(event, Ended) and isinstance(worker, LocalWorker):
                    worker.process = worker.pid = None
                yield worker, event
                worker, event = self._events.get_nowait()

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

    def state(self) -> PoolState:
        """Return the workers that have a process."""
        return PoolState(
            [
                WorkerState(
                    name=worker.name,
                    host=worker.host,
                    device=worker.device,
                    pid=worker.pid,
                    trial=worker.job.trial if worker.job else "",
                    attempt=worker.job.attempt if worker.job else 0,
                    memory_bytes=_memory_bytes(worker.pid),
                )
                for worker in self.workers
                if worker.pid is not None
            ]
        )

    def close(self) -> None:
        """Let every worker end, and wait for that."""
        processes = self._processes()
        for process in processes:
            process.close()
        for process in processes:
            process.wait(END_SECONDS)


def _memory_bytes(pid: int | None) -> int | None:
    """Return the memory that a process holds now; None when it is gone."""
    with suppress(psutil.NoSuchProcess):
        return int(psutil.Process(pid).memory_info().rss) if pid is not None else None
    return None

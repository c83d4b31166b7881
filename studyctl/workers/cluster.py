"""The workers of a cluster: a Dask scheduler in the runner's process, and an agent on each node (:mod:`studyctl.workers.agent`).

Dask carries messages, knows who lives, and says within a second that a worker is gone. Which trial runs next, and what a failure means,
the runner decides: an attempt is a task for one worker only, and is never run again by Dask.
"""

import logging
import queue
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask
from distributed import Client, Future, Scheduler
from distributed.deploy.spec import SpecCluster
from distributed.scheduler import KilledWorker

from studyctl.contract.job import Job, StopWhen
from studyctl.contract.records import AttemptFinished, StepFinished, WorkerFatal
from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.journal.files import decode
from studyctl.spec.profiles import ProfileFile
from studyctl.store.holder import Waiting
from studyctl.workers import agent
from studyctl.workers.allocations import Allocations, scheduler_of
from studyctl.workers.contact import Contact, new_security, read_contact, write_contact
from studyctl.workers.pool import MOST_FALSE_STARTS, TICK_SECONDS, Ended, Event, Pool, Worker

SILENT_SECONDS = 15.0
"""A worker that gives no sign of life for so long is taken for lost."""
LOOK_SECONDS = 1.0
"""How often the pool looks which workers have joined or left."""
END_SECONDS = 10.0
"""How long workers have to leave at the end of a run."""
LEAST_SHARE = 0.5
"""A worker with less of its time left than this takes only trials that it can finish."""


@dataclass(eq=False, kw_only=True)
class ClusterWorker(Worker):
    """A worker on a node."""

    address: str
    deadline: float | None = None
    """When its allocation ends, by the monotonic clock; None: not known."""
    lifetime: float | None = None
    """Seconds that it had when it came."""
    future: Future[Any] | None = None
    """Of the running attempt."""
    free_since: float = 0.0


class ClusterPool(Pool):
    """Workers that a scheduler starts, or those of a Dask cluster that exists."""

    def __init__(
        self, paths: StudyPaths, file: ProfileFile, token: str, device: str, say: Callable[[str], None]
    ) -> None:
        """Begin to listen for workers.

        Args:
            paths: the study.
            file: the profile.
            token: of the runner's hold.
            device: of every worker.
            say: is told what the user should know.

        Raises:
            StudyError: the address cannot be listened at, or the cluster cannot be reached.
        """
        super().__init__()
        self._paths, self._file, self._token, self._device, self._say = paths, file, token, device, say
        self._profile = file.profile
        self._events: queue.Queue[tuple[str, Any]] = queue.Queue()
        """Records with their trial, and tasks that ended with the address of their worker."""
        self._workers: dict[str, ClusterWorker] = {}
        """By address."""
        self._asked: dict[str, Future[Any]] = {}
        """Workers that were asked who they are, by address."""
        self._refused: set[str] = set()
        self._cannot_write = 0
        """Workers in a row that could not write to the study's folder."""
        self._next_look = 0.0
        self._is_closed = False
        self._messages = ThreadPoolExecutor(4, thread_name_prefix="messages")
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        dask.config.set(
            {
                "distributed.scheduler.allowed-failures": 0,  # the runner decides what is tried again
                "distributed.scheduler.worker-ttl": f"{SILENT_SECONDS:g}s",
                "distributed.scheduler.work-stealing": False,
                "distributed.admin.system-monitor.gil.enabled": False,
            }
        )
        self._cluster: SpecCluster | None = None
        self._allocations: Allocations | None = None
        if self._profile.dask is not None:
            self._client = self._connect(self._profile.dask.address)
        else:
            certificate, key = new_security()
            contact = Contact("", token, certificate, key)
            self._cluster = self._listen(contact)
            self._client = Client(self._cluster, set_as_default=False)
            write_contact(paths.contact, Contact(self._cluster.scheduler_address, token, certificate, key))
        self._client.subscribe_topic(agent.RECORDS, self._receive)
        if (scheduler := scheduler_of(file)) is not None:
            self._allocations = Allocations(paths, scheduler, say)

    def _connect(self, address: str) -> Client:
        try:
            client = Client(address, set_as_default=False, timeout="30s")
            client.register_plugin(agent.AgentPlugin())
        except (OSError, TimeoutError, ValueError) as error:
            problem = self._file.problem(
                f"no Dask scheduler answers at {address}: {error}", ("dask", "address")
            )
            raise StudyError(problem) from error
        return client

    def _listen(self, contact: Contact) -> SpecCluster:
        options: dict[str, Any] = {
            "protocol": "tls://",
            "security": contact.security,
            "dashboard": False,
            "dashboard_address": None,
            "port": 0,
        }
        if self._profile.host:
            options["host"] = self._profile.host
        try:
            return SpecCluster(
                workers={},
                scheduler={"cls": Scheduler, "options": options},
                security=contact.security,
                silence_logs=logging.CRITICAL,
            )
        except (OSError, RuntimeError, ValueError) as error:
            host = self._profile.host or socket.gethostname()
            problem = self._file.problem(f"cannot listen for workers at `{host}`: {error}", ("host",))
            raise StudyError(problem) from error

    # -- what Dask's threads call

    def _receive(self, event: tuple[float, Any]) -> None:
        self._events.put(("record", event[1]))

    def _task_ended(self, address: str, key: str, future: Future[Any]) -> None:
        self._events.put(("task", (address, key, future)))

    # -- the pool

    @property
    def workers(self) -> list[Worker]:
        """Return the workers that have joined."""
        return list(self._workers.values())

    @property
    def waiting(self) -> list[Waiting]:
        """Return the workers that were asked for and have not joined."""
        return self._allocations.waiting if self._allocations is not None else []

    def use(self, devices: Sequence[str]) -> None:
        """Change nothing: the profile says what workers run on, not the spec."""

    def free(self, trials: int) -> list[Worker]:
        """Return the workers that can take a job, and ask for more if there are trials for them."""
        if self._allocations is not None:
            self._allocations.tick()
            self._allocations.provide(len(self.running) + trials)
        free = [worker for worker in self._workers.values() if worker.job is None and not worker.leaves]
        if self._allocations is not None and not trials:
            for worker in free:
                if time.monotonic() - worker.free_since > self._profile.worker.idle:
                    self._dismiss(worker)
        return [worker for worker in free if not worker.leaves]

    def has_time_for(self, worker: Worker, seconds: float) -> bool:
        """Return whether a worker may take a trial: it can finish it, or has most of its time left and will do a good part of it."""
        assert isinstance(worker, ClusterWorker)
        if worker.deadline is None or worker.lifetime is None:
            return True
        left = worker.deadline - time.monotonic()
        if left > min(seconds, LEAST_SHARE * worker.lifetime):
            return True
        self._dismiss(worker)
        return False

    def start(self, worker: Worker, job: Job) -> None:
        """Give a job to a free worker."""
        assert isinstance(worker, ClusterWorker)
        worker.begin(job)
        key = f"{job.trial}.{job.attempt}"
        worker.future = self._client.submit(
            agent.run_attempt,
            key,
            job.model_dump_json(),
            key=key,
            workers=[worker.address],
            allow_other_workers=False,
            retries=0,
            pure=False,
        )
        worker.future.add_done_callback(partial(self._task_ended, worker.address, key))

    def events(self) -> Iterator[Event]:
        """Yield what workers reported; wait at most :data:`TICK_SECONDS` for the first event."""
        with suppress(queue.Empty):
            kind, event = self._events.get(timeout=TICK_SECONDS)
            while True:
                yield from self._of_record(event) if kind == "record" else self._of_task(*event)
                kind, event = self._events.get_nowait()
        yield from self._look()

    def _of_record(self, line: bytes) -> Iterator[Event]:
        record = decode(line)
        worker = self.running.get(record.trial) if record is not None else None
        # What a worker that was taken for lost reports late is in its journal; it is not part of this run.
        if (
            record is not None
            and worker is not None
            and worker.job is not None
            and worker.job.attempt == record.attempt
        ):
            yield worker, record
            assert isinstance(worker, ClusterWorker)
            if isinstance(record, StepFinished):
                self._cannot_write = 0
            if worker.job is None:
                worker.free_since = time.monotonic()
                if isinstance(record, AttemptFinished) and record.state == "stopped" and not self.stop:
                    # It was not asked to stop by this runner, so its allocation ends.
                    worker.leaves = True
                    self._say(
                        f"! worker {worker.name} on {worker.host} was told to end (time limit, preemption, or "
                        f"cancelled): {record.trial} goes on in another"
                    )

    def _of_task(self, address: str, key: str, future: Future[Any]) -> Iterator[Event]:
        worker = self._workers.get(address)
        error, result = (future.exception(), None) if future.status == "error" else (None, None)
        if future.status == "finished":
            with suppress(Exception):  # its worker is gone with the result; the journal has the rest
                result = future.result(timeout=END_SECONDS)
        future.release()
        job = worker.job if worker is not None else None
        if worker is None or job is None or f"{job.trial}.{job.attempt}" != key:
            return
        if isinstance(error, KilledWorker):
            yield from self._lost(worker)
        elif error is not None:
            yield worker, Ended(f"the agent on {worker.host} failed: {error!r}")
        else:
            worker.leaves |= result is not None and not result.begun
            if result is not None and result.cannot_write:
                self._cannot_write += 1
                if self._cannot_write >= MOST_FALSE_STARTS:
                    yield worker, WorkerFatal(error=result.how)
                self._say(f"! worker {worker.name} on {worker.host} leaves: {result.how}")
                self._dismiss(worker)
            worker.model_key = None  # its process ended, or its last record was lost
            worker.free_since = time.monotonic()
            yield worker, result or Ended("the worker did not report the end of its attempt")

    def _lost(self, worker: ClusterWorker) -> Iterator[Event]:
        """Yield the end of a worker that is gone."""
        self._workers.pop(worker.address, None)
        self._say(f"- worker {worker.name} on {worker.host} {'left' if worker.leaves else 'is gone'}")
        if self._allocations is not None:
            self._allocations.ended(worker.name)
        if worker.future is not None and worker.job is not None:
            worker.future.cancel()
        if worker.job is not None:
            yield worker, Ended(f"the worker on {worker.host} is gone")

    def _look(self) -> Iterator[Event]:
        """Take in workers that came, and yield the end of those that are gone."""
        if time.monotonic() < self._next_look:
            return
        there = self._client.scheduler_info(n_workers=-1)["workers"]
        for address in there.keys() - self._workers.keys() - self._refused:
            if address not in self._asked:
                self._asked[address] = self._client.submit(
                    agent.introduce, str(self._paths.root.resolve()), workers=[address], pure=False, retries=0
                )
        for address, future in list(self._asked.items()):
            if address not in there:
                del self._asked[address]
            elif future.status == "error":
                del self._asked[address]
                self._refused.add(address)
                self._say(f"! the worker at {address} cannot be used: {future.exception()}")
            elif future.status == "finished":
                del self._asked[address]
                self._take_in(address, there[address]["name"], future.result(timeout=END_SECONDS))
        # Who was asked answers soon.
        self._next_look = time.monotonic() + (0.0 if self._asked else LOOK_SECONDS)
        for address, worker in list(self._workers.items()):
            if address not in there:
                yield from self._lost(worker)

    def _take_in(self, address: str, name: str, about: dict[str, Any]) -> None:
        """Take in a worker that said who it is, unless it would compute something else than this runner planned."""
        if (why := self._unfit(about)) is not None:
            self._refused.add(address)
            self._say(f"! worker {name} on {about['host']} is refused: {why}")
            self._tell(address, agent.ask_to_leave)
            if self._allocations is not None:
                self._allocations.refused(name, why)
            return
        left = about["seconds_left"]
        self._workers[address] = ClusterWorker(
            name=name,
            device=self._device,
            host=about["host"],
            pid=about["pid"],
            address=address,
            deadline=None if left is None else time.monotonic() + left,
            lifetime=left,
            free_since=time.monotonic(),
        )
        self._say(f"+ worker {name} on {about['host']}")
        if self._allocations is not None:
            self._allocations.reached(name)

    def _unfit(self, about: dict[str, Any]) -> str | None:
        """Return why a worker cannot work for this study; None if it can."""
        if not about["sees_study"]:
            return (
                f"it does not see {self._paths.root.resolve()}: the folder must be one that all nodes share"
            )
        for name, here in agent.versions().items():
            there = about["versions"][name]
            if not there:
                return f"{name} is not installed there ({self._file.path}: `setup`, `python`)"
            if here and there != here:
                return f"it has {name} {there}, the runner has {here}"
        return None

    def _tell(self, address: str, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function on a worker, without waiting: it may be suspended."""
        self._messages.submit(self._client.run, function, *arguments, workers=[address], on_error="ignore")

    def ask(self, worker: ClusterWorker, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function on a free worker, and return what it returns."""
        future = self._client.submit(
            function, *arguments, workers=[worker.address], allow_other_workers=False, retries=0, pure=False
        )
        return future.result()

    def _dismiss(self, worker: ClusterWorker) -> None:
        worker.leaves = True
        if self._profile.dask is None:  # else the worker is not the study's, and stays for others
            self._tell(worker.address, agent.ask_to_leave)

    def drain(self, name: str) -> str:
        """Let a worker leave after its attempt; return what was done, or why not, for the user."""
        worker = next((worker for worker in self._workers.values() if worker.name == name), None)
        if worker is None:
            return f"there is no worker {name}"
        self._dismiss(worker)
        return f"worker {name} on {worker.host} leaves" + (f" after {worker.job.trial}" if worker.job else "")

    def ask_to_stop(self, worker: Worker, when: StopWhen) -> None:
        """Ask a worker to end its attempt."""
        assert isinstance(worker, ClusterWorker)
        self._tell(worker.address, agent.ask_to_stop, when)

    def close(self) -> None:
        """Let every worker leave, end the jobs of those that wait, and stop listening."""
        if self._is_ours():
            for address in list(self._workers):
                self._tell(address, agent.ask_to_leave if self._profile.dask is None else agent.release)
            if self._allocations is not None:
                self._allocations.close()
            until = time.monotonic() + END_SECONDS
            while self._cluster is not None and time.monotonic() < until:
                if not self._client.scheduler_info(n_workers=-1)["workers"]:
                    break
                time.sleep(TICK_SECONDS)
            self._paths.contact.unlink(missing_ok=True)
        self._disconnect()

    def abandon(self) -> None:
        """Let go of the workers: another runner has them."""
        self._disconnect()

    def _is_ours(self) -> bool:
        if self._profile.dask is not None:
            return True
        contact = read_contact(self._paths.contact)
        return contact is not None and contact.token == self._token

    def _disconnect(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._messages.shutdown(wait=self._profile.dask is not None)
        self._client.close(timeout=END_SECONDS)
        if self._cluster is not None:
            self._cluster.close(timeout=END_SECONDS)

"""A cluster's worker from inside: an agent, which talks to the runner, and a process of its own that holds the model and runs attempts.

The agent is a Dask worker with one thread and without torch, so that it answers while the other process computes. The other
process is the same that runs attempts on the runner's machine. It may record results only with a lease, and the agent renews that only
after the scheduler said that the attempt is still this worker's: a worker that was suspended, or whose network was cut, ends
before its next result, since the runner has perhaps begun another attempt.
"""

import asyncio
import os
import queue
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from distributed import Worker as DaskWorker
from distributed import get_worker
from distributed.diagnostics.plugin import WorkerPlugin

from studyctl import __version__
from studyctl.contract.job import Job, Lease, StopRequest, StopWhen
from studyctl.contract.records import AttemptFinished, WorkerFatal
from studyctl.journal.files import decode
from studyctl.workers.pool import Ended
from studyctl.workers.process import WorkerProcess

PLUGIN = "studyctl"
RECORDS = "studyctl-records"
"""Topic of the records that workers report."""
LEASE_SECONDS = 10.0
"""Less than the scheduler waits for a sign of life (:data:`~studyctl.workers.cluster.SILENT_SECONDS`)."""
BEAT_SECONDS = 2.0
VERSIONS = ("torch", "transformers")
"""Packages that the runner and its workers must have in the same version, beside this one."""


class Agent:
    """Runs jobs in a worker process, one at a time, and passes on what it reports."""

    def __init__(self) -> None:
        self.leaves = False
        """Whether the worker was asked to leave; the last attempt may still run."""
        self.attempt = ""
        """Key of the running attempt's task; empty: none runs."""
        self._process: WorkerProcess | None = None
        self._events: queue.Queue[bytes | Ended] = queue.Queue()

    def run(self, key: str, job: str, worker: DaskWorker) -> Ended | None:
        """Run a job until its attempt or its process ends; return how the process ended, None if it lives."""
        if self.leaves:
            return Ended("the worker leaves", begun=False)
        self.attempt = key
        try:
            if self._process is None:
                self._events = events = queue.Queue[bytes | Ended]()
                self._process = WorkerProcess(None, events.put, events.put, leased=True)
            self.renew()
            self._process.send(Job.model_validate_json(job))
            return self._pass_on(worker)
        finally:
            self.attempt = ""

    def _pass_on(self, worker: DaskWorker) -> Ended | None:
        fatal = ""
        while True:
            event = self._events.get()
            if isinstance(event, Ended):
                self._process = None
                return Ended(fatal, cannot_write=True) if fatal else event
            worker.log_event(RECORDS, event)
            if b'"worker_fatal"' in event and isinstance(record := decode(event), WorkerFatal):
                fatal = record.error
            if b'"attempt_finished"' in event and isinstance(decode(event), AttemptFinished):
                return None

    def renew(self) -> None:
        """Let the process record results for another while."""
        if self._process is not None:
            self._process.send(Lease(lease=LEASE_SECONDS))

    def stop(self, when: StopWhen) -> None:
        """Ask the running attempt to end."""
        if self._process is not None:
            self._process.send(StopRequest(stop=when))

    def abandon(self) -> None:
        """End the process if it runs an attempt, at once: this is no longer the worker's."""
        if self._process is not None and self.attempt:
            self._process.kill()

    def release(self) -> None:
        """Let the process end, and with it the model."""
        if self._process is not None:
            self._process.close()

    def close(self) -> None:
        """End the process, and wait for that."""
        if (process := self._process) is not None:
            process.close()
            process.wait(LEASE_SECONDS)

    @property
    def pid(self) -> int:
        """Return the id of the process that holds the model, or of the agent before there is one."""
        return self._process.pid if self._process is not None else os.getpid()


class AgentPlugin(WorkerPlugin):
    """Gives a Dask worker an agent, and renews the lease of its attempt."""

    name = PLUGIN
    idempotent = True

    def __init__(self, agent: Agent | None = None) -> None:
        self.agent = agent

    def __getstate__(self) -> dict[str, Any]:
        """Return what is sent to the workers of a cluster that exists already: each makes an agent of its own."""
        return {"agent": None}

    def setup(self, worker: DaskWorker) -> None:
        """Begin with a worker."""
        self.agent = self.agent or Agent()
        self._beats = asyncio.get_running_loop().create_task(self._beat(worker))

    def teardown(self, worker: DaskWorker) -> None:
        """End with the worker, whose scheduler is gone or let it go."""
        self._beats.cancel()
        assert self.agent is not None
        self.agent.abandon()

    async def _beat(self, worker: DaskWorker) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            assert self.agent is not None
            if key := self.agent.attempt:
                with suppress(OSError, TimeoutError):  # no answer, no lease
                    states = await asyncio.wait_for(
                        worker.scheduler.get_task_status(keys=[key]), LEASE_SECONDS
                    )
                    if states.get(key) == "processing":
                        self.agent.renew()
                    elif self.agent.attempt == key:
                        self.agent.abandon()


def _agent_of(worker: DaskWorker) -> Agent:
    plugin = worker.plugins[PLUGIN]
    assert isinstance(plugin, AgentPlugin)
    assert plugin.agent is not None
    return plugin.agent


# -- what the runner calls on a worker


def run_attempt(key: str, job: str) -> Ended | None:
    """Run a job; a task of Dask."""
    worker = get_worker()
    return _agent_of(worker).run(key, job, worker)


def ask_to_stop(when: StopWhen, dask_worker: DaskWorker) -> None:
    """Ask the worker's attempt to end."""
    _agent_of(dask_worker).stop(when)


def ask_to_leave(dask_worker: DaskWorker) -> None:
    """Let the worker end after its attempt."""
    _agent_of(dask_worker).leaves = True


def release(dask_worker: DaskWorker) -> None:
    """Free what the study holds on a worker that is not the study's own."""
    _agent_of(dask_worker).release()


def introduce(root: str) -> dict[str, Any]:
    """Return what the runner needs to know of a worker; a task of Dask."""
    agent = _agent_of(get_worker())
    return {
        "host": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        "pid": agent.pid,
        "versions": versions(),
        "seconds_left": seconds_left(),
        "sees_study": Path(root).is_dir(),
    }


def versions() -> dict[str, str]:
    """Return the versions of studyctl and :data:`VERSIONS` here; empty for a package that is not installed."""
    return {"studyctl": __version__} | {name: _version(name) for name in VERSIONS}


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


@cache
def _deadline() -> float | None:
    """Return when Slurm ends this job, by the monotonic clock; None: not known, or never."""
    job, squeue = os.environ.get("SLURM_JOB_ID"), shutil.which("squeue")
    if job is None or squeue is None:
        return None
    # Slurm 22.05 has no SLURM_JOB_END_TIME; the time that is left is asked for once.
    with suppress(subprocess.SubprocessError):
        asked = subprocess.run(
            [squeue, "--noheader", f"--jobs={job}", "--format=%L"],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        if (left := slurm_seconds(asked.stdout.strip())) is not None:
            return time.monotonic() + left
    return None


def seconds_left() -> float | None:
    """Return how long this process may live; None: not known."""
    deadline: float | None = _deadline()
    return None if deadline is None else deadline - time.monotonic()


def slurm_seconds(text: str) -> float | None:
    """Return the seconds of a time as Slurm writes it, ``[days-][[hours:]minutes:]seconds``; None if it is none (``UNLIMITED``)."""
    days, _, rest = text.rpartition("-")
    try:
        parts = [int(part) for part in rest.split(":")]
        seconds = sum(part * int(60**place) for place, part in enumerate(reversed(parts)))
        return seconds + 86400 * int(days or 0)
    except ValueError:
        return None

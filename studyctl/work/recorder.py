"""The worker's pipes to its runner, and its reporter, which writes every record to the journal before sending it."""

import json
import math
import os
import platform
import queue
import socket
import threading
import time
from collections.abc import Callable
from importlib.metadata import distributions, version
from importlib.util import find_spec
from typing import Any

from studyctl import __version__
from studyctl.backends import OWN
from studyctl.backends.catalog import BACKENDS
from studyctl.contract.job import Job, Lease, StopRequest
from studyctl.contract.limits import device_kind
from studyctl.contract.records import SCHEMA, AttemptStarted, Progress, Record, Warned, encode
from studyctl.contract.steps import Step, StepKind
from studyctl.errors import StudyError
from studyctl.journal.files import UNSYNCED, JournalWriter

ORPHANED = 70
"""Exit code of a worker whose runner is gone."""
PROGRESS_SECONDS = 0.5
"""Progress is written at most this often, except the last of a step, which always is."""
PACKAGES = ("torch", "transformers", "lm_eval", "datasets", "numpy")
"""Packages that results can depend on, beside this one."""
UNPACKERS = ("compressed-tensors", "gptqmodel", "optimum", "gguf")
"""Packages that a checkpoint's weights can depend on, if they are installed."""


class StopRequested(Exception):
    """The user asked to stop now."""


class CannotWriteError(Exception):
    """The study's folder cannot be written: no result can be stored any more, so the worker ends."""


class Channel:
    """The worker's end of the pipes to its parent: the runner, or the agent of a cluster's worker."""

    def __init__(self, requests: int, records: int, *, leased: bool = False) -> None:
        self.jobs: queue.Queue[Job] = queue.Queue()
        self.stop: str | None = None
        """None, ``after_step`` or ``now``."""
        self._requests = requests
        self._records = records
        self._leased_until = 0.0 if leased else math.inf
        self._renewed = threading.Condition()
        threading.Thread(target=self._listen, name="requests", daemon=True).start()

    def send(self, record: Record) -> None:
        """Send one record to the runner."""
        try:
            line = encode(record)
            while line:
                line = line[os.write(self._records, line) :]
        except BrokenPipeError:
            os._exit(ORPHANED)

    def wait_for_lease(self) -> None:
        """Wait until a result may be recorded: a runner that took this attempt for lost has perhaps begun another.

        Processes are suspended and networks split, so an agent renews the lease only when it has just heard that the attempt is
        still its own.
        """
        with self._renewed:
            self._renewed.wait_for(lambda: time.monotonic() < self._leased_until)

    def _listen(self) -> None:
        with os.fdopen(self._requests, encoding="utf-8") as lines:
            for line in lines:
                message: dict[str, Any] = json.loads(line)
                if "lease" in message:
                    with self._renewed:
                        self._leased_until = time.monotonic() + Lease.model_validate(message).lease
                        self._renewed.notify_all()
                elif "stop" in message:
                    self.stop = StopRequest.model_validate(message).stop
                else:
                    self.jobs.put(Job.model_validate(message))
        # The runner is gone. End at once: unfinished steps will be run again.
        os._exit(ORPHANED)


class Recorder:
    """Writes the records of one attempt."""

    def __init__(
        self,
        job: Job,
        journal: JournalWriter | None,
        channel: Channel,
        device_bytes: Callable[[], int | None] = lambda: None,
    ) -> None:
        """Take the attempt.

        Args:
            job: what the attempt does.
            journal: where it is written; None: nowhere, it is only sent.
            channel: the way to the runner.
            device_bytes: returns the memory that torch holds on the GPU, for :class:`Progress`.
        """
        self.step = Step(StepKind.LOAD)
        """The running step."""
        self._job = job
        self._journal = journal
        self._channel = channel
        self._device_bytes = device_bytes
        self._last_progress = 0.0

    def record(self, record: Record) -> None:
        """Write a record to the journal, if there is one, and send it to the runner."""
        if not isinstance(record, UNSYNCED):
            self._channel.wait_for_lease()
        try:
            if self._journal is not None:
                self._journal.write(record)
            else:
                record.trial, record.attempt = self._job.trial, self._job.attempt
        except StudyError as error:
            raise CannotWriteError(str(error)) from error
        self._channel.send(record)

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        """Write progress, throttled; the last of a step is always written."""
        now = time.monotonic()
        if done < total and now - self._last_progress < PROGRESS_SECONDS:
            return
        self._last_progress = now
        held = self._device_bytes()
        self.record(Progress(step=self.step, done=done, total=total, unit=unit, note=note, device_bytes=held))

    def warning(self, message: str, **details: object) -> None:
        """Write a warning of the running step."""
        self.record(Warned(step=self.step, message=message, details=details))

    def check_stop(self) -> None:
        """Raise StopRequested if the user asked to stop now."""
        if self._channel.stop == "now":
            raise StopRequested


def describe_attempt(job: Job) -> AttemptStarted:
    """Return the first record of an attempt. The worker writes it, or the runner if the worker died before it could."""
    versions = {"studyctl": __version__} | {name: version(name) for name in PACKAGES if find_spec(name)}
    if job.is_checkpoint:
        installed = {distribution.name.lower() for distribution in distributions()}
        versions |= {name: version(name) for name in UNPACKERS if name in installed}
    return AttemptStarted(
        trial=job.trial,
        attempt=job.attempt,
        schema=SCHEMA,
        studyctl=__version__,
        study=job.root.name,
        host=socket.gethostname(),
        pid=os.getpid(),
        python=platform.python_version(),
        versions=versions,
        model=job.model.id,
        model_key=job.model.key,
        method=job.method,
        variant=job.variant,
        backend=job.backend,
        backend_version=__version__ if job.backend == OWN else BACKENDS[job.backend].version,
        settings=job.settings.model_dump(mode="json"),
        calibration=job.calibration_settings,
        seed=job.seed,
        weights_key=job.weights_key,
        device=job.device,
        device_kind=device_kind(job.device),
        dtype=job.dtype,
        threads=job.threads,
    )

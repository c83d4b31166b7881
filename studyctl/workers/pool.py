"""What a runner knows of workers, wherever they run."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from studyctl.contract.job import Job, StopWhen
from studyctl.contract.records import AnyRecord
from studyctl.contract.steps import Step, StepKind
from studyctl.store.holder import Waiting, WorkerState

TICK_SECONDS = 0.25
"""How long :meth:`Pool.events` waits for the first event."""
MOST_FALSE_STARTS = 3
"""Workers in a row that ended before they could take a job: then something is wrong with all of them."""
_LOAD = Step(StepKind.LOAD)


@dataclass(eq=False, kw_only=True)
class Worker:
    """A process that runs one attempt after another."""

    name: str
    """For people, and unique in its pool."""
    device: str
    host: str = ""
    """Empty: this machine."""
    pid: int | None = None
    job: Job | None = None
    model_key: str | None = None
    """Key of the model that it holds in memory."""
    step: Step = _LOAD
    """The running step."""
    leaves: bool = False
    """Whether it takes no further trial."""
    device_bytes: int | None = None
    """Memory that torch holds on its GPU, as of its newest progress; None on a CPU."""

    @property
    def memory_bytes(self) -> int | None:
        """Return the memory that it holds now; None where that cannot be asked."""
        return None

    def begin(self, job: Job) -> None:
        """Take note of the job that it was given."""
        self.job, self.model_key, self.step = job, job.model.key, _LOAD


@dataclass(frozen=True, slots=True)
class Ended:
    """A worker is gone, or cannot go on with its attempt."""

    how: str
    """``the worker was killed by SIGKILL``."""
    out_of_memory: bool = False
    """Whether the kernel killed it for that."""
    begun: bool = True
    """Whether the attempt had begun; False: its worker has to go, and another one runs it."""
    cannot_write: bool = False
    """Whether it ended because it cannot write to the study's folder; then ``how`` says why."""


Event = tuple[Worker, AnyRecord | Ended]


@dataclass(frozen=True, slots=True)
class PoolState:
    """The workers of a runner, for ``runner.json``."""

    workers: list[WorkerState] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)


class Pool(ABC):
    """The workers of a runner. Its methods are called by one thread; ``stop`` may be set in a signal handler."""

    def __init__(self) -> None:
        self.stop: StopWhen | None = None
        """The user's request to stop."""
        self._passed_on: StopWhen | None = None

    @property
    @abstractmethod
    def workers(self) -> list[Worker]:
        """Return the workers that there are."""

    @property
    def waiting(self) -> Sequence[Waiting]:
        """Return the workers that were asked for and have not begun."""
        return ()

    @property
    def running(self) -> dict[str, Worker]:
        """Return the workers that run an attempt, by trial."""
        return {worker.job.trial: worker for worker in self.workers if worker.job is not None}

    @abstractmethod
    def use(self, devices: Sequence[str]) -> None:
        """Run on these devices from now on, as an edited spec asks for."""

    @abstractmethod
    def free(self, trials: int) -> list[Worker]:
        """Return the workers that can take a job; start more where that helps.

        Args:
            trials: how many trials wait for a worker.

        Raises:
            StudyError: workers cannot be started.
        """

    def has_time_for(self, worker: Worker, seconds: float) -> bool:
        """Return whether a free worker may live long enough for a trial; if not, it leaves and takes no other."""
        return True

    @abstractmethod
    def start(self, worker: Worker, job: Job) -> None:
        """Give a job to a free worker."""

    @abstractmethod
    def events(self) -> Iterator[Event]:
        """Yield what workers reported; wait at most :data:`TICK_SECONDS` for the first event."""

    def pass_on_stop(self) -> bool:
        """Tell the workers to stop; return whether the request is new."""
        if self.stop is None or self.stop == self._passed_on:
            return False
        self._passed_on = self.stop
        for worker in self.running.values():
            self.ask_to_stop(worker, self.stop)
        return True

    @abstractmethod
    def ask_to_stop(self, worker: Worker, when: StopWhen) -> None:
        """Ask a worker to end its attempt."""

    def state(self) -> PoolState:
        """Return the workers that have begun, and those that wait, as people see them."""
        begun = (worker for worker in self.workers if worker.pid is not None)
        return PoolState([_state(worker) for worker in begun], list(self.waiting))

    def drain(self, name: str) -> str:
        """Let a worker leave after its attempt; return what was done, or why not, for the user."""
        return f"workers of this machine do not leave; `studyctl stop` ends the run (asked for: {name})"

    @abstractmethod
    def close(self) -> None:
        """Let every worker end, and wait for those of this machine."""

    def abandon(self) -> None:
        """Let go of the workers, since another runner has the study."""
        self.close()


def _state(worker: Worker) -> WorkerState:
    return WorkerState(
        name=worker.name,
        host=worker.host,
        device=worker.device,
        pid=worker.pid,
        trial=worker.job.trial if worker.job else "",
        attempt=worker.job.attempt if worker.job else 0,
        memory_bytes=worker.memory_bytes,
        device_bytes=worker.device_bytes,
        leaves=worker.leaves,
    )

"""A runner with 64 simulated workers and a study of 100,000 trials: what it takes of a core and of memory while they work.

Then real workers: how soon one is there, and how soon it is known that one was killed.
"""

import heapq
import os
import resource
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, Queue
from tempfile import TemporaryDirectory
from typing import NamedTuple
from unittest.mock import patch

import psutil
from rich.console import Console

from benchmarks.page import note, table
from benchmarks.planning import MODELS, SPEC, SWEEPS, make_models
from studyctl.contract.job import Job, StopWhen
from studyctl.contract.records import AttemptFinished, Record, StepFinished, StepStarted, TextBatch, Window
from studyctl.contract.steps import Step, StepKind, batch_spans
from studyctl.files import StudyPaths
from studyctl.journal.files import JournalWriter
from studyctl.plan.planner import make_plan
from studyctl.run.display import Display
from studyctl.run.hold import hold
from studyctl.run.runner import Runner
from studyctl.run.selection import Selection
from studyctl.spec.loading import load_spec
from studyctl.work.recorder import describe_attempt
from studyctl.workers.pool import TICK_SECONDS, Event, Pool, Worker

WORKERS = 64
TRIAL_SECONDS = 30.0
"""Of a trial on one worker: with all of them, two trials end each second."""
SETTLE_SECONDS, MEASURED_SECONDS = 45.0, 120.0
CORE_GOAL, MEMORY_GOAL = 0.2, 1 << 30


class Taken(NamedTuple):
    """What a runner took of its machine while its workers worked."""

    core: float
    """CPU seconds a second."""
    memory: int
    """Its largest resident memory so far, in bytes."""
    trials: int
    """That ended in that time."""
    opened: float
    """Journals that it opened for each of them."""


def main() -> None:
    with TemporaryDirectory() as name, patch.dict(os.environ, STUDYCTL_CACHE=f"{name}/cache"):
        taken, seconds = measure(Path(name), MEASURED_SECONDS)
    table(
        ("64 workers, 100,000 trials", "measured", "goal"),
        [
            ("plan and start", f"{seconds:.1f} s", ""),
            ("of a core", f"{taken.core:.1%}", f"≤ {CORE_GOAL:.0%}"),
            ("memory", f"{taken.memory / (1 << 20):.0f} MiB", f"≤ {MEMORY_GOAL >> 20} MiB"),
            ("trials that ended", f"{taken.trials}", ""),
            ("journals opened for each", f"{taken.opened:.1f}", "no full scan"),
        ],
    )
    note(
        f"over {MEASURED_SECONDS:.0f} s; a trial takes {TRIAL_SECONDS:.0f} s on its worker; a process of its own writes the journals, "
        "as workers do, and its time is not counted"
    )
    from benchmarks.joining import show  # with torch, whose memory is not the runner's

    show()


def measure(folder: Path, seconds: float) -> tuple[Taken, float]:
    """Run the study for a while; return what the runner took, and the seconds until its workers worked."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        process.submit(make_models, folder).result()
    languages = ["l00", "l01"]
    (folder / "text").mkdir()
    for language in languages:
        (folder / "text" / f"{language}.txt").write_text(f"one text in {language}\n" * 1000)
    models = "".join(f'[[models]]\nid = "./model-{number}"\ndtype = "float32"\n' for number in range(MODELS))
    spec = folder / "large.toml"
    spec.write_text(SPEC.format(languages=languages, models=models, sweep=next(iter(SWEEPS.values()))))
    begun = time.perf_counter()
    plan = make_plan(load_spec(spec))
    plan.raise_errors()
    paths = StudyPaths(folder / "runs" / "large")
    opened = count()
    with hold(paths) as held, (folder / "printed").open("w") as printed, SimulatedPool() as pool:
        runner = Runner(held, plan, Selection(), Display(Console(file=printed)), pool)
        results: list[Taken] = []
        meter = threading.Thread(target=_meter, args=(runner, pool, seconds, opened, results))
        meter.start()
        with patch("studyctl.journal.index.open_plain", _counting(opened)):
            runner.run()
        meter.join()
    return results[0], pool.began - begun


def _counting(opened: "count[int]") -> object:
    from studyctl.files import open_plain

    def counted(path: Path) -> object:
        next(opened)
        return open_plain(path)

    return counted


def _meter(
    runner: Runner, pool: "SimulatedPool", seconds: float, opened: "count[int]", results: list[Taken]
) -> None:
    """Measure once the workers work, and end the run."""
    while not pool.began:
        time.sleep(0.1)
    time.sleep(SETTLE_SECONDS)
    used = psutil.Process().cpu_times()
    trials, before = runner.outcome.done, next(opened)
    time.sleep(seconds)
    now = psutil.Process().cpu_times()
    ended = runner.outcome.done - trials
    core = (now.user + now.system - used.user - used.system) / seconds
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    results.append(Taken(core, memory, ended, (next(opened) - before - 1) / max(1, ended)))
    runner.pool.stop = "now"


@dataclass(eq=False, kw_only=True)
class SimulatedWorker(Worker):
    """A worker that computes nothing."""

    number: int


class SimulatedPool(Pool):
    """Workers in one process, which writes what workers write when they would, and reports it."""

    def __init__(self) -> None:
        super().__init__()
        self.began = 0.0
        self._workers = [
            SimulatedWorker(name=f"w{number}", device="cuda:0", host=f"node{number}", pid=1, number=number)
            for number in range(WORKERS)
        ]
        self._ours, theirs = Pipe()
        self._process = get_context("spawn").Process(target=simulate, args=(theirs,), daemon=True)
        self._process.start()
        self._reports: Queue[tuple[int, Record]] = Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> "SimulatedPool":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()

    def _listen(self) -> None:
        while True:
            try:
                self._reports.put(self._ours.recv())
            except (EOFError, OSError):
                return

    @property
    def workers(self) -> list[Worker]:
        """Return all of them."""
        return list(self._workers)

    def use(self, devices: Sequence[str]) -> None:
        """Change nothing."""

    def free(self, trials: int) -> list[Worker]:
        """Return those without a job."""
        return [worker for worker in self._workers if worker.job is None]

    def start(self, worker: Worker, job: Job) -> None:
        """Let the process write its journal from now on."""
        assert isinstance(worker, SimulatedWorker)
        self.began = self.began or time.perf_counter()
        worker.begin(job)
        self._ours.send((worker.number, job.model_dump_json()))

    def events(self) -> Iterator[Event]:
        """Yield what the process reported."""
        try:
            number, record = self._reports.get(timeout=TICK_SECONDS)
            while True:
                yield self._workers[number], record  # type: ignore[misc]
                number, record = self._reports.get_nowait()
        except Empty:
            return

    def ask_to_stop(self, worker: Worker, when: StopWhen) -> None:
        """Let its attempt end at once, for the runner."""
        self._reports.put((worker.number, AttemptFinished(state="stopped")))  # type: ignore[attr-defined]

    def close(self) -> None:
        """Do nothing: the process ends with this object."""


def simulate(runner: Connection) -> None:
    """Write the journals of all workers, each record when it is due."""
    due: list[tuple[float, int, int, list[Record], JournalWriter]] = []
    order = count()
    while True:
        wait = max(0.0, due[0][0] - time.monotonic()) if due else None
        if runner.poll(wait):
            number, text = runner.recv()
            job = Job.model_validate_json(text)
            journal = JournalWriter(StudyPaths(job.root).attempt_journal(job.trial, job.attempt), new=True)
            journal.write(describe_attempt(job))
            # The first ones begin at different times, as workers do.
            begin = time.monotonic() + (TRIAL_SECONDS * number / WORKERS if next(order) < WORKERS else 0.0)
            for part, records in enumerate(parts := list(_parts(job))):
                at = begin + TRIAL_SECONDS * (part + 1) / len(parts)
                heapq.heappush(due, (at, next(order), number, records, journal))
        while due and due[0][0] <= time.monotonic():
            _, _, number, records, journal = heapq.heappop(due)
            for record in records:
                journal.write(record)
                runner.send((number, record))
                if isinstance(record, AttemptFinished):
                    journal.close()


def _batches(job: Job) -> Iterator[tuple[Step, int | None]]:
    """Yield the steps of an attempt, texts in batches of windows, and how many windows a text has."""
    yield Step(StepKind.LOAD), None
    for step in job.steps:
        if step.windows is None:
            yield step, None
        else:
            for span in batch_spans(step.windows[1]):
                yield Step(step.kind, step.subject, span, step.key), step.windows[1]


def _parts(job: Job) -> Iterator[list[Record]]:
    """Yield the records of an attempt, step by step."""
    for step, measured in _batches(job):
        begun: list[Record] = [StepStarted(step=step)]
        if step.windows is not None:
            begun.append(TextBatch(language=step.subject or "", sequence_length=128, bos=True))
            begun += [
                Window(
                    language=step.subject or "", window=number, tokens=127, nll_nats=400.0, bytes=500,
                    characters=500, document=number,
                )
                for number in range(*step.windows)
            ]  # fmt: skip
        finished = StepFinished(
            step=step, weights_key=job.weights_key, weights_hash=job.weights_key, seconds=5.0,
            peak_memory_bytes=1 << 30, bits_per_weight=16.0, sparsity=0.5, measured=measured,
        )  # fmt: skip
        yield [*begun, finished]
    yield [AttemptFinished(state="done", seconds=TRIAL_SECONDS)]

"""Brings the stored results of a study up to date with its spec."""

import queue
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

from studyctl.contract.job import Job
from studyctl.contract.plan import read_plan, write_plan
from studyctl.contract.records import (
    AttemptFinished,
    StepFailed,
    StepFinished,
    StepStarted,
    WorkerFatal,
)
from studyctl.contract.steps import Step
from studyctl.errors import FailureCause, ProblemCode, SpecError, StudyError
from studyctl.files import StudyPaths, write_atomic
from studyctl.journal.files import JournalWriter
from studyctl.journal.index import Index
from studyctl.journal.stored import Stored
from studyctl.plan.compare import Comparison, Todo, compare
from studyctl.plan.estimate import Clock
from studyctl.plan.planner import StudyPlan, make_plan
from studyctl.plan.saved import planned
from studyctl.plan.trials import Trial
from studyctl.run.control import Request, take_requests
from studyctl.run.display import Display
from studyctl.run.hold import write_heartbeat
from studyctl.run.jobs import make_job
from studyctl.run.outcome import Outcome
from studyctl.run.publisher import Publisher
from studyctl.run.schedule import choose
from studyctl.run.selection import Selection
from studyctl.run.workers import Event, Worker, start_worker
from studyctl.signals import how_it_ended
from studyctl.spec.loading import load_spec, self_contained
from studyctl.work.memory import OUT_OF_MEMORY_HINT, kernel_oom_kills
from studyctl.work.recorder import describe_attempt

HEARTBEAT_SECONDS = 2.0
TICK_SECONDS = 0.25
KILL_AFTER_SECONDS = 5.0
"""Grace of a worker that was asked to stop now."""


class Runner:
    """Converges one study. The caller holds it (:func:`studyctl.run.hold.hold`)."""

    def __init__(self, paths: StudyPaths, plan: StudyPlan, selection: Selection, display: Display) -> None:
        self.paths = paths
        self.plan = plan
        self.selections = [selection]
        """That of the run, and those that came with edited specs: a trial of any is wanted."""
        self.display = display
        self.outcome = Outcome()
        self.todo: dict[str, Todo] = {}
        self.comparison = Comparison([], [], 0)
        self.stop: str | None = None
        self._stop_sent: str | None = None
        self._stop_at = 0.0
        self._stored = Stored()
        self._index = Index(self.paths)
        self._workers: dict[str, Worker] = {}
        self._events: queue.Queue[Event] = queue.Queue()
        self._failures: Counter[str] = Counter()
        self._smaller: Counter[str] = Counter()
        """How often a trial's batches are halved because the kernel killed it for memory."""
        self._overtaken: set[str] = set()
        """Trials that were at work on an older spec when an edited one was taken up."""
        self._since = datetime.now(UTC)
        self._oom_kills = kernel_oom_kills()
        self._beat = 0.0
        """When the next heartbeat is due: now, where attempts begin or end."""
        self._fatal = ""
        self._publisher = Publisher(paths)

    # -- the loop

    def run(self) -> Outcome:
        """Run until everything is stored, nothing more can be done, or the user stops it.

        Raises:
            StudyError: the study's folder cannot be written.
        """
        begun = time.monotonic()
        try:
            take_requests(self.paths)  # those to a runner that is gone
            self._take_plan(self.plan)
            self._loop()
        except OSError as error:
            raise StudyError(f"cannot write {self.paths.root}: {error.strerror}", hint=_WRITE_HINT) from error
        finally:
            self._end_workers()
            self.display.end()
        if self._fatal:
            raise StudyError(self._fatal, hint=_WRITE_HINT)
        self._publisher.finish()
        self.outcome.stopped = self.stop is not None
        self.outcome.seconds = time.monotonic() - begun
        return self.outcome

    def request_stop(self) -> None:
        """Stop after the running stages; a second call stops at once. Safe in a signal handler."""
        self.stop = "after_stage" if self.stop is None else "now"

    def _loop(self) -> None:
        while not self._fatal:
            self._assign()
            if not self._busy() and not self._late_requests():
                return
            try:
                self._handle(self._events.get(timeout=TICK_SECONDS))
                while not self._events.empty():
                    self._handle(self._events.get_nowait())
            except queue.Empty:
                pass
            self._tick()

    def _late_requests(self) -> bool:
        """Take what was asked while the last trial ended; return whether there is something to run again."""
        for request in take_requests(self.paths):
            self._take_request(request)
        return bool(self.todo) and self.stop is None

    def _busy(self) -> list[Worker]:
        return [worker for worker in self._workers.values() if worker.job is not None]

    def _tick(self) -> None:
        now = time.monotonic()
        if now >= self._beat:
            self._beat = now + HEARTBEAT_SECONDS
            self._write_heartbeat()
        for request in take_requests(self.paths):
            self._take_request(request)
        self._pass_on_stop(now)
        self._publisher.tick(worker.job.trial for worker in self._busy() if worker.job)
        self.display.tick()

    def _write_heartbeat(self) -> None:
        attempts = [_running(worker) for worker in self._busy()]
        write_heartbeat(self.paths, self._since, attempts, self._clock.seconds_left())

    def _pass_on_stop(self, now: float) -> None:
        if self.stop != self._stop_sent and self.stop is not None:
            self._stop_sent, self._stop_at = self.stop, now
            self.display.message(_STOPPING[self.stop])
            for worker in self._busy():
                worker.stop(self.stop)
        if self._stop_sent == "now" and now - self._stop_at > KILL_AFTER_SECONDS:
            for worker in self._busy():
                worker.kill()

    # -- plan

    def _take_plan(self, plan: StudyPlan) -> None:
        """Make this plan the one to converge to."""
        saved = read_plan(self.paths)
        self._stored = self._index.refresh()
        self.comparison = compare(plan, self._stored, saved)
        text = self_contained(plan.document)
        write_atomic(self.paths.spec, text)
        write_plan(planned(plan, text), self.paths)
        self.plan = plan
        self._publisher.something_new()
        self._dense_keys = {trial.model.index: trial.weights_key for trial in plan.trials if trial.is_dense}
        running = {worker.job.trial for worker in self._busy() if worker.job}
        self._overtaken |= running
        wanted = [todo for todo in self.comparison.todo if self._is_wanted(todo.trial)]
        self.comparison = replace(self.comparison, todo=wanted)
        self.todo = {todo.trial.id: todo for todo in wanted if todo.trial.id not in running}
        self._clock = Clock(plan, self.comparison, self._stored)
        if self.todo:
            self.display.begin(self.paths.name, self.comparison, self._clock)
        self.outcome.unavailable = sum(map(self._is_wanted, self.comparison.unavailable))

    def _is_wanted(self, trial: Trial) -> bool:
        return any(trial in selection for selection in self.selections)

    def _take_request(self, request: Request) -> None:
        if request.kind == "stop":
            if self.stop != "now":
                self.stop = request.when
        elif request.kind == "retry":
            self._retry(request.trial)
        else:
            self._take_spec(request.spec, Selection(tuple(request.only), tuple(request.model)))

    def _retry(self, trial: str) -> None:
        for name in [trial] if trial else list(self.outcome.failed):
            if name in self.outcome.failed:
                del self.outcome.failed[name]
                self._failures[name] = 0
                self._requeue(name)

    def _take_spec(self, text: str, selection: Selection) -> None:
        """Take up a spec that was edited while the study runs, and run this part of it as well."""
        handed = self.paths.control / "handed.toml"
        write_atomic(handed, text)
        try:
            plan = make_plan(load_spec(handed))
            plan.raise_errors()
        except SpecError as error:
            self.display.message(f"the edited spec was not taken up: {error}")
            return
        finally:
            handed.unlink()
        self.selections.append(selection)
        self._take_plan(plan)
        self.display.message(f"took up the edited spec: {len(self.todo)} trials to run")

    # -- trials

    def _assign(self) -> None:
        """Give every free device a trial."""
        if self.stop is not None:
            return
        for device in self.plan.devices:
            worker = self._workers.get(device)
            if worker is not None and worker.job is not None:
                continue
            running = [self._trial(busy) for busy in self._busy()]
            todo = choose(
                self.todo, [trial for trial in running if trial], worker.model_key if worker else None
            )
            if todo is None:
                continue
            if worker is None:
                worker = self._workers[device] = start_worker(device, self.paths.runner_log, self._events)
            del self.todo[todo.trial.id]
            job = make_job(
                self.paths, self.plan, todo, self._stored, device, self._dense_keys[todo.trial.model.index]
            )
            worker.start(
                job.model_copy(update={"batch_tokens": job.batch_tokens >> self._smaller[job.trial]})
            )
            self.outcome.tried += 1
            self._beat = 0.0
            self.display.started(worker)

    def _trial(self, worker: Worker) -> Trial | None:
        assert worker.job is not None
        return next((trial for trial in self.plan.trials if trial.id == worker.job.trial), None)

    def _handle(self, event: Event) -> None:
        worker, record = event
        if record is None:
            self._worker_ended(worker)
            return
        match record:
            case WorkerFatal(error=error):
                self._fatal = self._fatal or error
            case StepStarted(step=step):
                worker.step = step
            case StepFinished():
                self._publisher.something_new()
        self._clock.record(record)
        self.display.record(worker, record)
        if isinstance(record, AttemptFinished):
            job, worker.job = worker.job, None
            self._beat = 0.0
            assert job is not None
            self._attempt_ended(job.trial, record.state, record.error or "")

    def _attempt_ended(self, trial: str, state: str, error: str) -> None:
        self._publisher.something_new()
        self._stored = self._index.refresh()
        if state == "done":
            self.outcome.done += 1
            self.outcome.failed.pop(trial, None)
            if trial in self._overtaken:
                self._overtaken.remove(trial)
                self._requeue(trial)
        elif state == "failed":
            self._failures[trial] += 1
            self.outcome.failed[trial] = error
            failure = self._stored.last_failure(trial)
            permanent = failure is not None and failure.permanent
            again = not permanent and self._failures[trial] <= self.plan.document.spec.execution.retries
            self.display.failed(trial, error, failure.hint if failure else "", again=again)
            if again:
                self._requeue(trial)

    def _requeue(self, name: str) -> None:
        """Put a trial back, with the steps that are still missing."""
        again = compare(self.plan, self._stored, read_plan(self.paths))
        self.todo.update({todo.trial.id: todo for todo in again.todo if todo.trial.id == name})

    def _worker_ended(self, worker: Worker) -> None:
        """A worker process is gone; if it had an attempt, that has failed."""
        if self._workers.get(worker.device) is worker:
            del self._workers[worker.device]
        job, worker.job = worker.job, None
        self._beat = 0.0
        if job is None or self._fatal:
            return
        self._stored = self._index.refresh()
        written = self._stored.attempts.get(job.trial, ())
        if written and written[-1].attempt == job.attempt and written[-1].finished is not None:
            # It died between writing its last record and telling us.
            self._attempt_ended(job.trial, written[-1].state, written[-1].finished.error or "")
            return
        reason = how_it_ended("the worker", worker.process.returncode)
        killed_for_memory = kernel_oom_kills() > self._oom_kills
        self._oom_kills = kernel_oom_kills()
        if killed_for_memory:
            self._smaller[job.trial] += 1
            reason = "the kernel killed the worker: out of memory"
        stopped = self.stop == "now"
        cause = FailureCause.OUT_OF_MEMORY if killed_for_memory else FailureCause.KILLED
        if stopped:
            cause = FailureCause.STOPPED
        state = "stopped" if stopped else "failed"
        self._note_death(job, worker.step, reason, cause, state)
        self._attempt_ended(job.trial, state, f"{worker.step}: {reason}")

    def _note_death(self, job: Job, step: Step, reason: str, cause: FailureCause, state: str) -> None:
        """End the journal of an attempt whose worker is gone: it has no other writer any more."""
        path = self.paths.attempt_journal(job.trial, job.attempt)
        hint = f"see {self.paths.attempt_log(job.trial, job.attempt)}"
        if cause is FailureCause.OUT_OF_MEMORY:
            hint = f"{OUT_OF_MEMORY_HINT}; {hint}"
        begun = path.exists() and path.stat().st_size > 0
        with JournalWriter(path) as journal:
            if not begun:
                journal.write(describe_attempt(job))
            journal.write(StepFailed(step=step, error=reason, cause=cause, hint=hint))
            journal.write(AttemptFinished(state=state, error=f"{step}: {reason}"))

    def _end_workers(self) -> None:
        for worker in self._workers.values():
            worker.close()
        for worker in self._workers.values():
            worker.process.wait(timeout=30)


_WRITE_HINT = "make room or make the folder writable, and run again: everything that was measured is stored"
_STOPPING = {
    "after_stage": "stopping when the running stages are finished (Ctrl-C again: at once)",
    "now": "stopping now",
}


def _running(worker: Worker) -> dict[str, object]:
    assert worker.job is not None
    return {
        "trial": worker.job.trial,
        "attempt": worker.job.attempt,
        "device": worker.device,
        "pid": worker.process.pid,
        "memory_bytes": worker.memory_bytes(),
    }


def check_looked_up(plan: StudyPlan) -> None:
    """Refuse to run what could not be looked up.

    Raises:
        SpecError: with every such problem.
    """
    unknown = [problem for problem in plan.problems if problem.code is ProblemCode.NOT_LOOKED_UP]
    if unknown:
        hint = "with a network: `studyctl prefetch SPEC` here or on a machine that shares the cache"
        raise SpecError(
            [replace(problem, severity="error", hint=problem.hint or hint) for problem in unknown]
        )

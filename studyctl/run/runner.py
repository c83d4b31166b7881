"""Brings the stored results of a study up to date with its spec."""

import signal
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from studyctl.contract.job import Job, StopWhen
from studyctl.contract.plan import read_plan, write_plan
from studyctl.contract.records import (
    AnyRecord,
    AttemptFinished,
    Progress,
    StepFailed,
    StepFinished,
    StepStarted,
    WorkerFatal,
)
from studyctl.contract.steps import Step, StepKind
from studyctl.errors import FailureCause, HeldError, SpecError, StudyError
from studyctl.files import write_atomic
from studyctl.journal.files import JournalWriter
from studyctl.journal.hypotheses import declare
from studyctl.journal.index import Index
from studyctl.plan.compare import Todo, compare
from studyctl.plan.estimate import Clock
from studyctl.plan.planner import StudyPlan, make_plan
from studyctl.plan.saved import planned, source_of
from studyctl.plan.timing import DeployedFile, to_time
from studyctl.plan.trials import Trial
from studyctl.run.control import Request, take_requests
from studyctl.run.display import Display
from studyctl.run.hold import Hold, MemoryMeter, write_heartbeat
from studyctl.run.jobs import Queue, make_job
from studyctl.run.publisher import Publisher
from studyctl.run.selection import Selection
from studyctl.run.speed import StoppedError, Timer, forget_files
from studyctl.spec.loading import load_spec, self_contained
from studyctl.units import count_text
from studyctl.work.memory import OUT_OF_MEMORY_HINT
from studyctl.work.recorder import describe_attempt
from studyctl.workers.local import LocalPool
from studyctl.workers.pool import Ended, Pool, Worker

HEARTBEAT_SECONDS = 2.0
_WRITE_HINT = "make room or make the folder writable, and run again: everything that was measured is stored"
_STOPPING = {
    "after_step": "stopping after the running steps (Ctrl-C again: at once)",
    "now": "stopping now",
}


@dataclass(slots=True)
class Outcome:
    """How a run ended."""

    done: int = 0
    """Trials that this run finished."""
    failed: dict[str, str] = field(default_factory=dict)
    """Error by trial."""
    unavailable: int = 0
    """Trials that this machine cannot run; the plan says what is missing."""
    attempts: int = 0
    """Attempts that were started."""
    timed: int = 0
    """Files that were timed."""
    stopped: bool = False


class Runner:
    """Runs one study, which its caller holds, until everything is stored."""

    def __init__(
        self,
        held: Hold,
        plan: StudyPlan,
        selection: Selection,
        display: Display,
        pool: Pool | None = None,
        *,
        only_files: bool = False,
    ) -> None:
        """Take a plan.

        Args:
            held: the study.
            plan: what it asks for.
            selection: the part to run.
            display: where progress is shown.
            pool: the workers; None: those of this machine that the plan names.
            only_files: write the files of the selected trials, and nothing else.
        """
        self.held, paths = held, held.paths
        self.paths = paths
        self.plan = plan
        self._place = plan.place if pool is not None else None
        """Where edited specs are planned for; None: on the devices that they name."""
        self.selections = [selection]
        """The run's own and those that came with edited specs; a trial that is in any of them is run."""
        self.display = display
        self.outcome = Outcome()
        self.pool = pool or LocalPool(plan.devices, paths.runner_log)
        self.todo = Queue()
        self._index = Index(paths)
        self._publisher = Publisher(held)
        self._failures: Counter[str] = Counter()
        self._halvings: Counter[str] = Counter()
        """How often to halve a trial's batches, since the kernel killed it for memory."""
        self._overtaken: set[str] = set()
        """Trials that were running under an older spec when an edited one was applied."""
        self._since = datetime.now(UTC)
        self._lost: JournalWriter | None = None
        """What this runner knows of attempts whose workers are gone; no worker writes it, so no two processes write one journal."""
        self._only_files = only_files
        self._timing = ""
        """What is timed now, for people."""
        self._timed: set[str] = set()
        """Models whose files were timed, or tried to be."""
        self._written_again: set[str] = set()
        """Trials whose files were not in the cache any more."""
        self._meter = MemoryMeter()
        self._next_heartbeat = 0.0
        """When the next heartbeat is due; set to 0 when attempts begin or end."""
        self._fatal = ""

    # -- the loop

    def run(self) -> Outcome:
        """Run until everything is stored, nothing more can be done, or the user stops it.

        Raises:
            HeldError: another runner took the study over.
            StudyError: the study's folder cannot be written.
        """
        try:
            take_requests(self.paths)  # drops those to an earlier runner
            self._take_plan(self.plan)
            self._loop()
        except OSError as error:
            raise StudyError(f"cannot write {self.paths.root}: {error.strerror}", hint=_WRITE_HINT) from error
        except HeldError:
            self.pool.abandon()
            raise
        finally:
            self.pool.close()
            if self._lost is not None:
                self._lost.close()
            self.display.end()
        if self._fatal:
            raise StudyError(self._fatal, hint=_WRITE_HINT)
        self._publisher.finish()
        self.outcome.stopped = self.pool.stop is not None
        return self.outcome

    def request_stop(self, number: int) -> None:
        """Stop on a signal: after the running steps on a first Ctrl-C, else at once, since who sends others kills soon."""
        waits = number == signal.SIGINT and self.pool.stop is None
        self.pool.stop = "after_step" if waits else "now"

    def _loop(self) -> None:
        while not self._fatal:
            self._assign()
            if not self.pool.running:
                self._take_requests()  # some may have come while the last trial ended
                if self.pool.stop or not (self.todo or self._time_files()):
                    return
            for worker, event in self.pool.events():
                if isinstance(event, Ended):
                    self._worker_ended(worker, event)
                else:
                    self._record(worker, event)
            self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + HEARTBEAT_SECONDS
            self.held.check()
            left = self._clock.seconds_left()
            write_heartbeat(self.paths, self._since, self.pool.state(), left, self._timing, self._meter)
        self._take_requests()
        if self.pool.pass_on_stop() and self.pool.stop:
            self.display.message(_STOPPING[self.pool.stop])
        try:
            self._publisher.tick(self.pool.running)
        except HeldError:
            raise
        except StudyError as error:  # the journals have it all
            self.display.message(f"! {error}")
        self.display.tick()

    # -- plan

    def _take_plan(self, plan: StudyPlan) -> None:
        """Make this the current plan: store it, and find the trials to run."""
        self.held.check()
        saved = read_plan(self.paths)
        self._stored = self._index.refresh()
        comparison = compare(plan, self._stored, saved, self.paths.all_weights())
        text = self_contained(plan.document)
        write_atomic(self.paths.spec, text)
        self._planned = planned(plan, text, source_of(plan.document, self.paths, saved))
        write_plan(self._planned, self.paths)
        declare(self.paths, plan.hypotheses)
        self.plan = plan
        self.pool.use(plan.devices)
        self._publisher.changed()
        self._trials = {trial.id: trial for trial in plan.trials}
        self._dense_keys = {trial.model.index: trial.weights_key for trial in plan.trials if trial.is_dense}
        running = self.pool.running
        self._overtaken.update(running)
        todo = [
            Todo(trial, (Step(StepKind.DEPLOY),), "its file is gone")
            for trial in (plan.trials if self._only_files else ())
        ] or comparison.todo
        comparison = replace(comparison, todo=[entry for entry in todo if self._is_asked(entry.trial)])
        waiting = (todo for todo in comparison.todo if todo.trial.id not in running)
        self.todo = Queue(waiting, self.todo.first)
        self._clock = Clock(plan, comparison, self._stored)
        if self.todo:
            self.display.begin(self.paths.name, comparison, self._clock)
        self.outcome.unavailable = sum(map(self._is_asked, comparison.unavailable))

    def _is_asked(self, trial: Trial) -> bool:
        return any(trial in selection for selection in self.selections)

    def _take_requests(self) -> None:
        for request in take_requests(self.paths):
            if isinstance(request, str):
                self.display.message(request)
            else:
                self._take_request(request)

    def _take_request(self, request: Request) -> None:
        match request.kind:
            case "spec":
                self._take_spec(request)
            case "retry":
                for name in [request.trial] if request.trial else list(self.outcome.failed):
                    if self.outcome.failed.pop(name, None) is not None:
                        self._failures[name] = 0
                        self._requeue(name)
            case "first":
                self.display.message(self.todo.put_first(request.trial))
            case "publish":
                self._publisher.changed()
            case "drain":
                self.display.message(self.pool.drain(request.worker))
            case "stop" if self.pool.stop != "now":
                self.pool.stop = request.when

    def _take_spec(self, request: Request) -> None:
        """Apply a spec that was edited while the study runs, and run its selection as well."""
        handed = self.paths.control / "handed.toml"
        write_atomic(handed, request.spec)
        try:
            plan = make_plan(load_spec(handed), self._place)
            plan.raise_errors()
        except SpecError as error:
            self.display.message(f"the edited spec was refused: {error}")
            return
        finally:
            handed.unlink()
        self.selections.append(Selection(request.only, request.model))
        self._take_plan(plan)
        self.display.message(f"applied the edited spec: {count_text(len(self.todo), 'trial')} to run")

    # -- trials

    def _assign(self) -> None:
        """Give a trial to every free worker."""
        for worker in self.pool.free(len(self.todo)) if self.pool.stop is None else ():
            at_work = [self._trials[name] for name in self.pool.running if name in self._trials]
            todo = self.todo.next(at_work, worker.model_key)
            if todo is None or not self.pool.has_time_for(worker, self._clock.trial_seconds(todo.trial.id)):
                continue
            self.held.check()
            self.todo.remove(todo)
            trial = todo.trial
            dense_key = self._dense_keys[trial.model.index]
            job = make_job(self.paths, self.plan, todo, self._stored, worker.device, dense_key)
            job = job.model_copy(update={"batch_tokens": job.batch_tokens >> self._halvings[trial.id]})
            self.pool.start(worker, job)
            self.outcome.attempts += 1
            self._next_heartbeat = 0.0
            self.display.started(job, worker)

    def _record(self, worker: Worker, record: AnyRecord) -> None:
        match record:
            case WorkerFatal():
                self._fatal = self._fatal or record.error
            case StepStarted():
                worker.step = record.step
            case Progress():
                worker.device_bytes = record.device_bytes
            case StepFinished():
                self._publisher.changed(record.trial, record.attempt)
        self._clock.record(record)
        self.display.record(record)
        if isinstance(record, AttemptFinished) and worker.job is not None:
            job, worker.job = worker.job, None
            self._attempt_ended(job, record.state, record.error or "")

    def _attempt_ended(self, job: Job, state: str, error: str) -> None:
        trial = job.trial
        self._next_heartbeat = 0.0
        self._publisher.changed(trial, job.attempt)
        self._stored = self._index.refresh([(trial, job.attempt)])
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
        elif self.pool.stop is None:  # its worker has to go: another one goes on, and this is no failure
            self._requeue(trial)

    # -- speed

    def _time_files(self) -> bool:
        """Time the files of the next model of which some were not timed here; return whether there was anything to do.

        A file that is not in the cache is written first, by a trial.
        """
        if self._only_files:
            return False
        for model, files in to_time(self.paths, self.plan, self._stored).items():
            asked = [file for file in files if file.is_dense or self._is_asked(self._trials[file.trial])]
            if model in self._timed or len(asked) < 2:
                continue
            gone = {file.trial for file in asked if not file.path.exists()}
            if again := gone - self._written_again:
                self._written_again |= again
                for trial in again:
                    self.todo.add(Todo(self._trials[trial], (Step(StepKind.DEPLOY),), "its file is gone"))
                return True
            self._timed.add(model)
            self._time(model, [file for file in asked if file.trial not in gone])
            return True
        return False

    def _time(self, model: str, files: list[DeployedFile]) -> None:
        """Time files, alone on the machine as far as it depends on this runner."""
        speed = self.plan.document.spec.evaluation.speed
        if speed is None or len(files) < 2 or not files[0].is_dense:  # some could not be written again
            return
        try:
            self._publisher.settle()
        except HeldError:
            raise
        except StudyError as error:  # the journals have it all
            self.display.message(f"! {error}")
        assert isinstance(self.pool, LocalPool)
        self.pool.rest()
        timer = Timer(self.paths, speed, self._wait, self.display.message)
        try:
            timer.time(model, files)
            self.outcome.timed += len(files)
        except StoppedError:
            self.display.message(f"speed of {model}: stopped, and timed anew by the next run")
        except StudyError as error:
            self.display.message(f"! speed of {model}: {error}")
        finally:
            self._timing = self.display.timing = ""
            self._next_heartbeat = 0.0
            self._publisher.changed()
        forget_files(self.paths, self.plan.document.spec.execution.keep_trial_weights)

    def _wait(self, timing: str) -> StopWhen | None:
        """Go on while a file is timed; return whether the user asked to stop."""
        self._timing = self.display.timing = timing
        self._tick()
        return self.pool.stop

    def _requeue(self, name: str) -> None:
        """Put a trial back into ``todo``, with the steps that are still missing."""
        trials = [self._trials[name]] if name in self._trials else []  # an edited spec may not have it
        again = compare(
            replace(self.plan, trials=trials), self._stored, self._planned, self.paths.all_weights()
        )
        for todo in again.todo:
            self.todo.add(todo)

    def _worker_ended(self, worker: Worker, end: Ended) -> None:
        """Handle the end of a worker. If it was running an attempt whose end it did not record, record that this is lost."""
        job, worker.job = worker.job, None
        if job is None or self._fatal:
            return
        if not end.begun:
            self._requeue(job.trial)
            return
        self.held.check()
        attempts = self._index.refresh([(job.trial, job.attempt)]).attempts.get(job.trial, ())
        latest = next((attempt for attempt in attempts if attempt.attempt == job.attempt), None)
        if latest is not None and latest.finished is not None:
            # It died after writing its last record and before reporting it.
            self._attempt_ended(job, latest.finished.state, latest.finished.error or "")
            return
        error, hint, cause = end.how, "", FailureCause.KILLED
        if end.out_of_memory:
            self._halvings[job.trial] += 1
            cause, hint = FailureCause.OUT_OF_MEMORY, f"{OUT_OF_MEMORY_HINT}; "
        if self.pool.stop == "now" or end.cannot_write:  # the trial is not to blame
            cause, hint = FailureCause.STOPPED, ""
        state = "stopped" if cause is FailureCause.STOPPED else "failed"
        hint += f"see {self.paths.attempt_log(job.trial, job.attempt)}"
        self._record_lost(job, StepFailed(step=worker.step, error=error, cause=cause, hint=hint), state)
        self._attempt_ended(job, state, f"{worker.step}: {error}")

    def _record_lost(self, job: Job, failure: StepFailed, state: str) -> None:
        """Record how an attempt ended, in the runner's own journal: a worker that seems dead may still write."""
        self._lost = self._lost or JournalWriter(self.paths.lost(self.held.token))
        self._lost.write(describe_attempt(job))
        self._lost.write(failure)
        self._lost.write(AttemptFinished(state=state, error=f"{failure.step}: {failure.error}"))

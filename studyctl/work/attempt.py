"""One attempt at a trial: its steps in order, each journaled, each kept apart from the failures of the others."""

import errno
import time
import traceback
from collections.abc import Callable

import torch

from studyctl.contract.job import Job
from studyctl.contract.limits import device_kind
from studyctl.contract.records import AttemptFinished, StepFailed, StepFinished, StepStarted
from studyctl.contract.steps import Step, StepId, StepKind
from studyctl.errors import FailureCause, Problem, ProblemCode, StudyError
from studyctl.evaluate.memory import is_out_of_memory
from studyctl.files import StudyPaths
from studyctl.journal.files import JournalWriter
from studyctl.work.channel import Channel
from studyctl.work.description import describe_attempt
from studyctl.work.engine import Engine
from studyctl.work.memory import OUT_OF_MEMORY_HINT, peak_bytes, reset_peak
from studyctl.work.recorder import CannotWriteError, Recorder, StopRequested

SMALLEST_BATCH = 64
"""Tokens of a forward pass below which running out of memory is final."""


class Attempt:
    """Runs a job's steps and writes its journal."""

    def __init__(self, job: Job, engine: Engine, channel: Channel) -> None:
        self.job = job
        self.engine = engine
        self.channel = channel
        self.errors: list[str] = []
        self.stopped = False
        self._begun = time.monotonic()
        path = StudyPaths(job.root).attempt_journal(job.trial, job.attempt)
        self._journal = JournalWriter(path) if job.export_to is None else None
        self.recorder = Recorder(job, self._journal, channel)

    def run(self) -> None:
        """Run every step; always ends with ``attempt_finished`` unless the process dies."""
        torch.set_num_threads(self.job.threads)
        self.recorder.record(describe_attempt(self.job))
        peak = 0
        failed: set[StepId] = set()  # the batches of a text that are left would fail alike
        try:
            if self._step(Step(StepKind.LOAD)):
                for step in self.engine.steps(self.job, self.recorder):
                    if step.id in failed:
                        continue
                    if self.channel.stop is not None:
                        self.stopped = True
                        break
                    if not self._step(step):
                        failed.add(step.id)
                    peak = max(peak, peak_bytes())
                    if self.stopped or (step.kind is StepKind.COMPRESS and failed):
                        break
        except CannotWriteError as error:
            self.errors.append(str(error))
            raise
        finally:
            state = "stopped" if self.stopped else "failed" if self.errors else "done"
            if state == "done":
                self.engine.forget_weights(self.job)
            self.recorder.record(
                AttemptFinished(
                    state=state,
                    seconds=time.monotonic() - self._begun,
                    peak_memory_bytes=max(peak, peak_bytes()),
                    error=self.errors[0] if self.errors else "",
                )
            )
            if self._journal is not None:
                self._journal.close()

    def _work(self, step: Step) -> Callable[[], StepFinished]:
        engine, job, recorder = self.engine, self.job, self.recorder
        return {
            StepKind.LOAD: lambda: engine.load(job, recorder),
            StepKind.COMPRESS: lambda: engine.compress(job, step, recorder),
            StepKind.PERPLEXITY: lambda: engine.perplexity(job, step, recorder),
            StepKind.TASK: lambda: engine.task(job, step, recorder),
            StepKind.EXPORT: lambda: engine.export(job, step, recorder),
        }[step.kind]

    def _step(self, step: Step) -> bool:
        """Run one step. Return whether it was finished; a failure is journaled with its cause."""
        self.recorder.step = step
        try:
            self.recorder.record(self._finished(step))
            if step.kind is StepKind.TASK:
                self.engine.forget_chunks(self.job, step)
            return True
        except StopRequested:
            self.stopped = True
            stopped = StepFailed(step=step, error="stopped on request", cause=FailureCause.STOPPED)
            self.recorder.record(stopped)
        except StudyError as error:
            self._fail(step, error.problems[0], error.cause)
        except CannotWriteError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                raise CannotWriteError(str(error)) from error
            traceback.print_exc()
            if is_out_of_memory(error):
                self._fail(
                    step, Problem(_one_line(error), hint=OUT_OF_MEMORY_HINT), FailureCause.OUT_OF_MEMORY
                )
            else:
                problem = Problem(_one_line(error), hint=_UNEXPECTED, code=ProblemCode.UNEXPECTED)
                self._fail(step, problem, FailureCause.ERROR)
        return False

    def _finished(self, step: Step) -> StepFinished:
        """Do the work of a step, with smaller batches where memory does not suffice; return what is known of it."""
        while True:
            reset_peak()
            begun = time.perf_counter()
            self.recorder.record(StepStarted(step=step))
            try:
                result = self._work(step)()
                break
            except Exception as error:
                if not is_out_of_memory(error) or step.kind is StepKind.EXPORT:  # which has no batches
                    raise
                self._halve_batch(error)
        if result.seconds is None:  # else the step knows better
            result.seconds = time.perf_counter() - begun
        if result.peak_memory_bytes is None:
            result.peak_memory_bytes = peak_bytes()
        result.peak_device_bytes = _device_peak(self.job.device)
        result.weights_key, result.weights_hash = self.job.weights_key, self.engine.weights_hash
        return result

    def _halve_batch(self, error: Exception) -> None:
        before = self.engine.batch_tokens(self.job)
        if before <= SMALLEST_BATCH:
            raise error
        self.engine.halve_batch(self.job)
        self.recorder.warning(
            f"out of memory; retried with {before // 2} tokens a batch",
            batch_tokens=before // 2,
            error=_one_line(error),
        )

    def _fail(self, step: Step, problem: Problem, cause: FailureCause) -> None:
        self.errors.append(f"{step}: {problem.what}")
        self.recorder.record(
            StepFailed(
                step=step,
                error=problem.what,
                cause=cause,
                code=problem.code,
                hint=problem.hint,
                permanent=cause is FailureCause.ERROR and problem.code not in _MAY_PASS,
            )
        )


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_UNEXPECTED = "the whole traceback is in the attempt's log"
_MAY_PASS = (ProblemCode.UNEXPECTED, ProblemCode.REFERENCE_LOST)
"""What another attempt may get through as it is."""


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:500]


def _device_peak(device: str) -> int:
    return torch.cuda.max_memory_allocated(device) if device_kind(device) == "cuda" else 0

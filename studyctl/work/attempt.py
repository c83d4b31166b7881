"""One attempt at a trial: its steps in order, each journaled; a failed evaluation does not stop the others."""

import time
import traceback

import torch

from studyctl.contract.job import Job
from studyctl.contract.limits import device_kind
from studyctl.contract.records import AttemptFinished, StepFailed, StepFinished, StepStarted
from studyctl.contract.steps import Step, StepId, StepKind
from studyctl.errors import FailureCause, Problem, ProblemCode, StudyError
from studyctl.evaluate.memory import is_out_of_memory
from studyctl.files import NO_SPACE, StudyPaths
from studyctl.journal.files import JournalWriter
from studyctl.work.engine import Engine
from studyctl.work.memory import OUT_OF_MEMORY_HINT, peak_bytes, reset_peak
from studyctl.work.recorder import CannotWriteError, Channel, Recorder, StopRequested, describe_attempt

SMALLEST_BATCH = 64
"""Tokens per forward pass at which batches are halved no further: running out of memory is a failure then."""
WITHOUT_BATCHES = (StepKind.ACTIVATIONS, StepKind.DEPLOY, StepKind.EXPORT)
"""Steps that need the same memory whatever the tokens per forward pass."""
MAY_SUCCEED_LATER = (ProblemCode.UNEXPECTED, ProblemCode.REFERENCE_LOST)
"""Problems that another attempt may avoid."""


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
        self._journal = JournalWriter(path, new=True) if job.export_to is None else None
        self.recorder = Recorder(job, self._journal, channel, self._device_bytes)

    def run(self) -> None:
        """Run every step; always write ``attempt_finished`` at the end unless the process dies."""
        torch.set_num_threads(self.job.threads)
        self.recorder.record(describe_attempt(self.job))
        peak = 0
        failed: set[StepId] = set()  # after a failed batch the other batches of its text are skipped
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
                self.engine.keep_weights(self.job)
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

    def _step(self, step: Step) -> bool:
        """Run one step and return whether it is complete; a failure is journaled with its cause."""
        self.recorder.step = step
        try:
            self.recorder.record(self._finished(step))
            if step.kind is StepKind.TASK:
                self.engine.forget_chunks(self.job, step)
            return True
        except StopRequested:
            self.stopped = True
            self.recorder.record(
                StepFailed(step=step, error="stopped on request", cause=FailureCause.STOPPED)
            )
        except StudyError as error:
            self._fail(step, error.problems[0], error.cause)
        except CannotWriteError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in NO_SPACE:
                raise CannotWriteError(str(error)) from error
            traceback.print_exc()
            problem, cause = Problem(_one_line(error), hint=OUT_OF_MEMORY_HINT), FailureCause.OUT_OF_MEMORY
            if not is_out_of_memory(error):
                hint, cause = "the traceback is in the attempt's log", FailureCause.ERROR
                problem = Problem(problem.what, hint=hint, code=ProblemCode.UNEXPECTED)
            self._fail(step, problem, cause)
        return False

    def _finished(self, step: Step) -> StepFinished:
        """Do the work of a step, with smaller batches if memory runs out; return the record of its end."""
        engine, on_gpu = self.engine, device_kind(self.job.device) == "cuda"
        work = {
            StepKind.LOAD: engine.load,
            StepKind.COMPRESS: engine.compress,
            StepKind.PERPLEXITY: engine.perplexity,
            StepKind.ACTIVATIONS: engine.activations,
            StepKind.TASK: engine.task,
            StepKind.DEPLOY: engine.deploy,
            StepKind.EXPORT: engine.export,
        }[step.kind]
        while True:
            reset_peak()
            if on_gpu:
                torch.cuda.reset_peak_memory_stats(self.job.device)
            begun = time.perf_counter()
            self.recorder.record(StepStarted(step=step))
            try:
                result = work(self.job, step, self.recorder)
                break
            except Exception as error:
                batch, has_batches = engine.batch_tokens(self.job), step.kind not in WITHOUT_BATCHES
                if not (is_out_of_memory(error) and has_batches and batch > SMALLEST_BATCH):
                    raise
                engine.halve_batch(self.job)
                self.recorder.warning(
                    f"out of memory; retried with {batch // 2} tokens per batch",
                    batch_tokens=batch // 2,
                    error=_one_line(error),
                )
        if result.seconds is None:  # else the step measured its time itself
            result.seconds = time.perf_counter() - begun
        if result.peak_memory_bytes is None:
            result.peak_memory_bytes = peak_bytes()
        result.peak_device_bytes = torch.cuda.max_memory_allocated(self.job.device) if on_gpu else 0
        result.weights_key, result.weights_hash = self.job.weights_key, engine.weights_hash
        return result

    def _device_bytes(self) -> int | None:
        on_gpu = device_kind(self.job.device) == "cuda"
        return torch.cuda.memory_reserved(self.job.device) if on_gpu else None

    def _fail(self, step: Step, problem: Problem, cause: FailureCause) -> None:
        self.errors.append(f"{step}: {problem.what}")
        self.recorder.record(
            StepFailed(
                step=step,
                error=problem.what,
                cause=cause,
                code=problem.code,
                hint=problem.hint,
                permanent=cause is FailureCause.ERROR and problem.code not in MAY_SUCCEED_LATER,
            )
        )


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:500]

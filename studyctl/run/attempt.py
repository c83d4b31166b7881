"""One attempt at a trial: its stages in order, each journaled, each kept apart from the failures of the others."""

import errno
import time
import traceback
from collections.abc import Callable

import torch

from studyctl.errors import Problem, StudyError
from studyctl.evaluate.memory import is_out_of_memory
from studyctl.files import StudyPaths
from studyctl.run.channel import Channel
from studyctl.run.description import describe_attempt
from studyctl.run.engine import Engine
from studyctl.run.memory import OUT_OF_MEMORY_HINT, peak_bytes, reset_peak
from studyctl.run.protocol import Job, StageOrder
from studyctl.run.recorder import CannotWriteError, Recorder, StopRequested
from studyctl.store.journal import JournalWriter

SMALLEST_BATCH = 64
"""Tokens of a forward pass below which running out of memory is final."""


class Attempt:
    """Runs a job's stages and writes its journal."""

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
        """Run every stage; always ends with ``attempt_finished`` unless the process dies."""
        torch.set_num_threads(self.job.threads)
        self.recorder.write("attempt_started", **describe_attempt(self.job))
        peak = 0
        try:
            if self._stage(StageOrder(name="load", key=""), self._load):
                for order in self.engine.orders(self.job):
                    if self.channel.stop is not None:
                        self.stopped = True
                        break
                    done = self._stage(order, self._work(order))
                    peak = max(peak, peak_bytes())
                    if self.stopped or (not done and order.name == "compress"):
                        break
        except CannotWriteError as error:
            self.errors.append(str(error))
            raise
        finally:
            state = "stopped" if self.stopped else "failed" if self.errors else "done"
            if state == "done":
                self.engine.forget_weights(self.job)
            self.recorder.write(
                "attempt_finished",
                state=state,
                seconds=time.monotonic() - self._begun,
                peak_memory_bytes=max(peak, peak_bytes()),
                error=self.errors[0] if self.errors else "",
            )
            if self._journal is not None:
                self._journal.close()

    def _load(self) -> dict[str, object]:
        self.engine.load(self.job, self.recorder)
        return {}

    def _work(self, order: StageOrder) -> Callable[[], dict[str, object]]:
        if order.name == "compress":
            return lambda: self.engine.compress(self.job, self.recorder)
        if order.name.startswith("perplexity:"):
            return lambda: self.engine.perplexity(self.job, order, self.recorder)
        if order.name == "export":
            return lambda: self.engine.export(self.job, self.recorder)
        return lambda: self.engine.task(self.job, order, self.recorder)

    def _stage(self, order: StageOrder, work: Callable[[], dict[str, object]]) -> bool:
        """Run one stage. Return whether it was finished; a failure is journaled with its cause."""
        self.recorder.stage = order.name
        try:
            while True:
                reset_peak()
                begun = time.perf_counter()
                self._write("stage_started", order)
                try:
                    extra = work()
                    break
                except Exception as error:
                    if not is_out_of_memory(error) or order.name == "export":  # which has no batches
                        raise
                    self._halve_batch(error)
            before = extra.pop("seconds_before", 0.0)
            assert isinstance(before, float)
            measured = {
                "seconds": time.perf_counter() - begun + before,
                "peak_memory_bytes": peak_bytes(),
                "peak_device_bytes": _device_peak(self.job.device),
            }
            self._write(
                "stage_finished",
                order,
                weights_key=self.job.weights_key,
                weights_hash=self.engine.weights_hash,
                **(measured | extra),  # of what another package did, its own process knows better
            )
            self.engine.forget_steps(self.job, order)
            return True
        except StopRequested:
            self.stopped = True
            self._write("stage_failed", order, error="stopped on request", cause="stopped", hint="")
        except StudyError as error:
            self._fail(order, error.problems[0], error.cause)
        except CannotWriteError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                raise CannotWriteError(str(error)) from error
            traceback.print_exc()
            cause = "out_of_memory" if is_out_of_memory(error) else "error"
            self._fail(order, Problem(_one_line(error), hint=_HINTS[cause]), cause)
        return False

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

    def _fail(self, order: StageOrder, problem: Problem, cause: str) -> None:
        self.errors.append(f"{order.name}: {problem.what}")
        permanent = cause == "error" and problem.hint != _HINTS["error"]
        self._write(
            "stage_failed", order, error=problem.what, cause=cause, hint=problem.hint, permanent=permanent
        )

    def _write(self, kind: str, order: StageOrder, **fields: object) -> None:
        job = self.job
        self.recorder.write(
            kind, trial=job.trial, attempt=job.attempt, stage=order.name, key=order.key, **fields
        )


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_HINTS = {
    "error": "the whole traceback is in the attempt's log",
    "out_of_memory": OUT_OF_MEMORY_HINT,
}


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:500]


def _device_peak(device: str) -> int:
    return torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else 0

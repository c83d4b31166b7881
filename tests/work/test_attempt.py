"""One attempt: every step journaled, each kept apart from the failures of the others."""

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from studyctl.contract.identity import ModelIdentity
from studyctl.contract.job import Job
from studyctl.contract.methods import Wanda
from studyctl.contract.records import (
    AnyRecord,
    AttemptFinished,
    Record,
    StepFailed,
    StepFinished,
    Warned,
)
from studyctl.contract.steps import Step, StepId, StepKind
from studyctl.errors import StepError
from studyctl.files import StudyPaths
from studyctl.journal.files import read_journal
from studyctl.journal.index import read_stored
from studyctl.work.attempt import Attempt
from studyctl.work.engine import Engine
from studyctl.work.recorder import CannotWriteError, StopRequested

OUT_OF_MEMORY = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."
)
Work = Callable[[], None]


def step_of(name: str) -> Step:
    kind, subject = StepId.parse(name)
    return Step(kind, subject, key=f"key {name}")


class FakeChannel:
    def __init__(self) -> None:
        self.sent: list[Record] = []
        self.stop: str | None = None

    def send(self, record: Record) -> None:
        self.sent.append(record)

    def wait_for_lease(self) -> None:
        pass


class FakeEngine:
    """Does what a test says at each step, in turn."""

    weights_hash = "hash"

    def __init__(self, **steps: list[Exception | Work | None]) -> None:
        self.todo = {name.replace("_", ":", 1): list(todo) for name, todo in steps.items()}
        self.batch = 256
        self.kept = False
        self.finished: list[str] = []

    def _do(self, step: Step) -> StepFinished:
        todo = self.todo.get(str(step))
        act = todo.pop(0) if todo else None
        if isinstance(act, Exception):
            raise act
        if act is not None:
            act()
        return StepFinished(step=step)

    def steps(self, job: Job, recorder: Any) -> Iterator[Step]:
        yield from job.steps

    def forget_chunks(self, job: Job, step: Step) -> None:
        self.finished.append(str(step))

    def load(self, job: Job, step: Step, recorder: Any) -> StepFinished:
        return self._do(step)

    compress = perplexity = activations = task = deploy = export = load

    def batch_tokens(self, job: Job) -> int:
        return self.batch

    def halve_batch(self, job: Job) -> None:
        self.batch //= 2

    def keep_weights(self, job: Job) -> None:
        self.kept = True


@pytest.fixture
def job(tmp_path: Path) -> Job:
    steps = tuple(step_of(name) for name in ("compress", "perplexity:en", "task:boats"))
    return Job(
        root=tmp_path / "x", trial="t", attempt=1, model=ModelIdentity("m", "folder", "k"), method="wanda",
        variant="wanda-0.5", backend="studyctl", settings=Wanda(sparsity=0.5), calibration=None, seed=0,
        weights_key="w", dense_key="d", weights_hash=None, steps=steps, evaluations=steps[1:],
        device="cpu", dtype="float32", threads=1, batch_tokens=256,
    )  # fmt: skip


def run(job: Job, engine: FakeEngine, channel: FakeChannel | None = None) -> list[AnyRecord]:
    Attempt(job, engine, channel or FakeChannel()).run()  # type: ignore[arg-type]
    return list(read_journal(StudyPaths(job.root).attempt_journal("t", 1)))


def ended(records: list[AnyRecord]) -> dict[str, str]:
    """Return how each step, and the attempt, ended."""
    steps = {str(one.step): "done" for one in records if isinstance(one, StepFinished)}
    steps |= {str(one.step): str(one.cause) for one in records if isinstance(one, StepFailed)}
    (last,) = (one for one in records if isinstance(one, AttemptFinished))
    return steps | {"attempt": last.state}


def test_all_goes_well(job: Job) -> None:
    engine = FakeEngine()
    assert ended(run(job, engine)) == {
        "load": "done",
        "compress": "done",
        "perplexity:en": "done",
        "task:boats": "done",
        "attempt": "done",
    }
    assert engine.kept
    assert engine.finished == ["task:boats"], "what it would go on from is not needed any more"
    assert set(read_stored(StudyPaths(job.root)).results_of("w", ()).by_key) == {
        "key compress",
        "key perplexity:en",
        "key task:boats",
    }


def test_out_of_memory_halves_the_batch_and_says_so(job: Job) -> None:
    engine = FakeEngine(perplexity_en=[OUT_OF_MEMORY, MemoryError(), None])
    records = run(job, engine)
    assert ended(records)["perplexity:en"] == "done"
    assert [r.details["batch_tokens"] for r in records if isinstance(r, Warned)] == [128, 64]
    assert engine.batch == 64


def test_out_of_memory_with_the_smallest_batch_is_final(job: Job) -> None:
    records = run(job, FakeEngine(perplexity_en=[OUT_OF_MEMORY] * 3))
    assert ended(records)["perplexity:en"] == "out_of_memory"
    assert ended(records)["task:boats"] == "done", "the other evaluations go on"
    assert ended(records)["attempt"] == "failed"


def test_a_failed_evaluation_does_not_stop_the_others(job: Job) -> None:
    records = run(job, FakeEngine(perplexity_en=[StepError("no such text", hint="write one")]))
    assert ended(records) == {
        "load": "done",
        "compress": "done",
        "perplexity:en": "error",
        "task:boats": "done",
        "attempt": "failed",
    }
    failure = read_stored(StudyPaths(job.root)).last_failure("t")
    assert failure is not None
    assert (failure.error, failure.hint, failure.permanent) == ("no such text", "write one", True)


def test_nothing_is_measured_without_weights(job: Job) -> None:
    engine = FakeEngine(compress=[ZeroDivisionError("a bug")])
    assert ended(run(job, engine)) == {"load": "done", "compress": "error", "attempt": "failed"}
    assert not engine.kept


@pytest.mark.parametrize("when", ["after_step", "now"])
def test_a_stop(job: Job, when: str) -> None:
    channel = FakeChannel()

    def stop() -> None:
        channel.stop = when
        if when == "now":
            raise StopRequested

    records = run(job, FakeEngine(compress=[stop]), channel)
    assert ended(records) == {
        "load": "done",
        "compress": "stopped" if when == "now" else "done",
        "attempt": "stopped",
    }


def test_a_full_disk_ends_the_worker(job: Job) -> None:
    engine = FakeEngine(compress=[OSError(errno.ENOSPC, "No space left on device")])
    with pytest.raises(CannotWriteError, match="No space left"):
        run(job, engine)
    last = list(read_journal(StudyPaths(job.root).attempt_journal("t", 1)))[-1]
    assert isinstance(last, AttemptFinished)
    assert last.state == "failed"
    assert not engine.kept


def test_the_runner_hears_what_the_journal_holds(job: Job) -> None:
    channel = FakeChannel()
    records = run(job, FakeEngine(), channel)
    assert channel.sent == records
    assert {record.trial for record in channel.sent} == {"t"}


class TestBatchesThatWereTooLarge:
    def test_are_remembered_by_the_next_trial_of_the_model(self, job: Job) -> None:
        engine = Engine()
        assert engine.batch_tokens(job) == 256
        engine.halve_batch(job)
        engine.halve_batch(job.model_copy(update={"trial": "next"}))
        assert engine.batch_tokens(job) == 64
        assert engine.batch_tokens(job.model_copy(update={"batch_tokens": 32})) == 32

    def test_of_another_model_or_dtype_say_nothing(self, job: Job) -> None:
        engine = Engine()
        engine.halve_batch(job)
        for change in ({"model": ModelIdentity("m", "folder", "other")}, {"dtype": "bfloat16"}):
            assert engine.batch_tokens(job.model_copy(update=change)) == 256


def test_after_a_batch_of_a_text_failed_the_others_of_that_text_are_not_tried(job: Job) -> None:
    text = Step(StepKind.PERPLEXITY, "en", (0, 24), "key")
    engine = FakeEngine(perplexity_en=[None, StepError("the text changed"), None])
    records = run(job.model_copy(update={"steps": (*text.batches(), step_of("task:boats"))}), engine)
    done = [one.step for one in records if isinstance(one, StepFinished)]
    assert [str(step) for step in done] == ["load", "perplexity:en", "task:boats"]
    assert done[1].windows == (0, 8)
    assert [one.step.windows for one in records if isinstance(one, StepFailed)] == [(8, 16)]

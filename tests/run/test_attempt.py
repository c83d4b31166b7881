"""One attempt: every stage journaled, each kept apart from the failures of the others."""

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from studyctl.errors import StepError
from studyctl.files import StudyPaths
from studyctl.run.attempt import Attempt
from studyctl.run.engine import Engine
from studyctl.run.protocol import Job, StageOrder
from studyctl.run.recorder import CannotWriteError, StopRequested
from studyctl.spec.models import Evaluation, Model
from studyctl.store.index import read_stored
from studyctl.store.journal import read_journal

OUT_OF_MEMORY = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."
)
Work = Callable[[], None]


class FakeChannel:
    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.stop: str | None = None

    def tell(self, record: dict[str, Any]) -> None:
        self.told.append(record)


class FakeEngine:
    """Does what a test says at each stage, in turn."""

    weights_hash = "hash"

    def __init__(self, **steps: list[Exception | Work | None]) -> None:
        self.steps = {name.replace("_", ":", 1): list(todo) for name, todo in steps.items()}
        self.batch = 256
        self.forgotten = False
        self.finished: list[str] = []

    def _do(self, stage: str) -> dict[str, object]:
        step = self.steps.get(stage, [None]).pop(0) if self.steps.get(stage) else None
        if isinstance(step, Exception):
            raise step
        if step is not None:
            step()
        return {}

    def orders(self, job: Job) -> Iterator[StageOrder]:
        yield from job.stages

    def forget_steps(self, job: Job, order: StageOrder) -> None:
        self.finished.append(order.name)

    def load(self, job: Job, recorder: Any) -> None:
        self._do("load")

    def compress(self, job: Job, recorder: Any) -> dict[str, object]:
        return self._do("compress")

    def perplexity(self, job: Job, order: StageOrder, recorder: Any) -> dict[str, object]:
        return self._do(order.name)

    def task(self, job: Job, order: StageOrder, recorder: Any) -> dict[str, object]:
        return self._do(order.name)

    def batch_tokens(self, job: Job) -> int:
        return self.batch

    def halve_batch(self, job: Job) -> None:
        self.batch //= 2

    def forget_weights(self, job: Job) -> None:
        self.forgotten = True


@pytest.fixture
def job(tmp_path: Path) -> Job:
    stages = [
        StageOrder(name=name, key=f"key {name}") for name in ("compress", "perplexity:en", "task:boats")
    ]
    return Job(
        root=tmp_path / "x", base=tmp_path, trial="t", attempt=1, model=Model(id="m"), model_key="k", method="wanda",
        variant="wanda-0.5", backend="studyctl", settings={"method": "wanda", "sparsity": 0.5}, calibration=None, seed=0,
        weights_key="w", dense_key="d", weights_hash=None, stages=stages, evaluations=stages[1:], text={},
        evaluation=Evaluation(), device="cpu", dtype="float32", threads=1, batch_tokens=256,
    )  # fmt: skip


def run(job: Job, engine: FakeEngine, channel: FakeChannel | None = None) -> list[dict[str, Any]]:
    Attempt(job, engine, channel or FakeChannel()).run()  # type: ignore[arg-type]
    return list(read_journal(StudyPaths(job.root).attempt_journal("t", 1)))


def ended(records: list[dict[str, Any]]) -> dict[str, str]:
    """Return how each stage, and the attempt, ended."""
    stages = {
        r["stage"]: r.get("cause", "done") for r in records if r["kind"] in ("stage_finished", "stage_failed")
    }
    return stages | {"attempt": records[-1]["state"]}


def test_all_goes_well(job: Job) -> None:
    engine = FakeEngine()
    assert ended(run(job, engine)) == {
        "load": "done",
        "compress": "done",
        "perplexity:en": "done",
        "task:boats": "done",
        "attempt": "done",
    }
    assert engine.forgotten
    assert set(read_stored(StudyPaths(job.root)).has("w")) == {
        "key compress",
        "key perplexity:en",
        "key task:boats",
    }


def test_out_of_memory_halves_the_batch_and_says_so(job: Job) -> None:
    engine = FakeEngine(perplexity_en=[OUT_OF_MEMORY, MemoryError(), None])
    records = run(job, engine)
    assert ended(records)["perplexity:en"] == "done"
    assert [r["batch_tokens"] for r in records if r["kind"] == "warning"] == [128, 64]
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
    assert not engine.forgotten


@pytest.mark.parametrize("when", ["after_stage", "now"])
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
    assert (last["kind"], last["state"]) == ("attempt_finished", "failed")
    assert not engine.forgotten


def test_the_runner_hears_what_the_journal_holds(job: Job) -> None:
    channel = FakeChannel()
    records = run(job, FakeEngine(), channel)
    assert [record["kind"] for record in channel.told] == [record["kind"] for record in records]
    assert {record["trial"] for record in channel.told} == {"t"}


class TestBatchesThatWereTooLarge:
    def test_are_remembered_by_the_next_worker(self, job: Job) -> None:
        assert Engine().batch_tokens(job) == 256
        Engine().halve_batch(job)
        Engine().halve_batch(job)
        assert Engine().batch_tokens(job) == 64

    def test_of_another_model_or_dtype_say_nothing(self, job: Job) -> None:
        Engine().halve_batch(job)
        for change in ({"model_key": "other"}, {"dtype": "bfloat16"}):
            assert Engine().batch_tokens(job.model_copy(update=change)) == 256

    def test_a_torn_file_is_as_none(self, job: Job) -> None:
        Engine().halve_batch(job)
        path = StudyPaths(job.root).batches
        path.write_text(path.read_text()[:-3])
        assert Engine().batch_tokens(job) == 256


class TestStepsOfOtherWeights:
    def test_are_not_taken_up(self, job: Job) -> None:
        """The dense model of a study has no hash: only its key tells that its files changed."""
        order = job.stages[1]
        with Engine()._steps(job, order) as steps:
            steps.begin("plan")
            steps.add(0, 1.5)
        for change, stored in (({}, {0: 1.5}), ({"weights_key": "other"}, {}), ({"device": "cuda:0"}, {})):
            with Engine()._steps(job.model_copy(update=change), order) as steps:
                assert steps.begin("plan") == stored

    def test_are_deleted_when_the_stage_is_finished(self, job: Job) -> None:
        with Engine()._steps(job, job.stages[1]) as steps:
            steps.begin("plan")
            steps.add(0, 1.5)
        Engine().forget_steps(job, job.stages[1])
        Engine().forget_steps(job, job.stages[1])
        with Engine()._steps(job, job.stages[1]) as steps:
            assert steps.begin("plan") == {}

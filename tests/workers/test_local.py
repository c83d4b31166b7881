"""The workers of this machine."""

from pathlib import Path

import pytest

from studyctl.errors import SpecError
from studyctl.plan.devices import resolve_devices
from studyctl.workers.local import LocalPool


@pytest.fixture
def pool(tmp_path: Path) -> LocalPool:
    return LocalPool(["cpu", "cpu"], tmp_path / "log")


def names(pool: LocalPool) -> list[str]:
    return [worker.name for worker in pool.workers]


def test_a_device_that_is_named_twice_has_two_workers(pool: LocalPool) -> None:
    assert names(pool) == ["cpu", "cpu #2"]
    assert resolve_devices(("cpu", "cpu")) == ["cpu", "cpu"]


def test_no_process_is_started_before_there_is_a_trial(pool: LocalPool) -> None:
    assert pool.free(0) == []
    assert pool.state().workers == []


def test_as_many_begin_as_there_are_trials(pool: LocalPool) -> None:
    try:
        assert [worker.name for worker in pool.free(1)] == ["cpu"]
        assert len(pool.free(2)) == 2
    finally:
        pool.close()


def test_an_edited_spec_changes_the_devices(pool: LocalPool) -> None:
    first = pool.workers[0]
    pool.use(["cpu", "cuda:0"])
    assert pool.workers[0] is first
    assert [worker.device for worker in pool.workers] == ["cpu", "cuda:0", "cpu"]
    pool.free(0)
    assert names(pool) == ["cpu", "cuda:0"]


def test_a_gpu_has_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studyctl.plan.devices.visible_gpus", lambda: ["cuda:0", "cuda:1"])
    with pytest.raises(SpecError, match="`cuda:1` is named twice"):
        resolve_devices(("cuda:1", "cuda:0,1"))

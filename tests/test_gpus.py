"""Which GPUs a study sees: what CUDA makes of ``CUDA_VISIBLE_DEVICES``, not all that the driver lists.

What is expected of numbers and ``GPU-…`` is what ``torch.cuda`` itself answers when its driver library lists the same GPUs.
"""

from pathlib import Path

import pytest
import torch

from studyctl import gpus as module
from studyctl.errors import SpecError, StepError
from studyctl.gpus import Gpu, count_visible, visible_gpus
from studyctl.plan.devices import resolve_devices
from studyctl.work import engine

UUIDS = ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "GPU-8932ffff-0000-0000-0000-000000000001", "GPU-1")
THREE = [Gpu(uuid) for uuid in UUIDS]
LIST = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5c89852c)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 3g.20gb     Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-b1c2d3e4)
"""
NONE = [
    "",
    " ",
    "-1",
    "-1,0",
    "NoDevFiles",
    "none",
    "void",
    "3",
    "0,0",
    "1,2,1",
    "GPU-8932f",
    "GPU-9",
    "GPU-1,GPU-1",
    ",0",
]


@pytest.mark.parametrize(
    ("chosen", "count"),
    [
        (None, 3), ("0", 1), ("2", 1), ("2,1", 2), ("0,1,2", 3), (" 1 , 0", 2), ("+1", 1), ("0,2,-1,1", 2), ("0,7,1", 1),
        ("0,NoDevFiles", 1), ("1gpu2,2ampere", 2), ("GPU-8932f9", 1), ("GPU-1,GPU-8932ff", 2), ("GPU-1,GPU-89", 1),
        (f"{UUIDS[1]},{UUIDS[0]}", 2), ("GPU-1,0", 1), ("0,GPU-1", 1), ("MIG-1", 0), *((text, 0) for text in NONE),
    ],
)  # fmt: skip
def test_what_is_visible(monkeypatch: pytest.MonkeyPatch, chosen: str | None, count: int) -> None:
    assert count_visible(THREE, chosen) == count
    if chosen is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    monkeypatch.setattr(torch.cuda, "_raw_device_count_nvml", lambda: len(UUIDS))
    monkeypatch.setattr(torch.cuda, "_raw_device_uuid_nvml", lambda: list(UUIDS))
    if chosen is not None and not chosen.startswith("MIG-"):
        assert torch.cuda._device_count_nvml() == count


@pytest.mark.parametrize(
    ("chosen", "count"),
    [
        (None, 1),  # the whole GPU; CUDA shows instances only where there is none
        ("0", 1), ("1", 1), ("1,0", 1), ("GPU-5c", 1),
        ("MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", 1),
        ("MIG-c6d4", 1), ("MIG-c", 0),  # two begin so
        ("MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f,MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb", 1),
        ("MIG-GPU-5c89852c/1/0", 1), ("MIG-GPU-b1c2d3e4/1/0", 0), ("MIG-0", 0),
    ],
)  # fmt: skip
def test_instances_of_a_divided_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str | None, count: int
) -> None:
    driver(tmp_path, monkeypatch, LIST, chosen)
    assert visible_gpus() == [f"cuda:{index}" for index in range(count)]


def test_of_a_machine_that_has_instances_only_one_is_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(tmp_path, monkeypatch, LIST[: LIST.index("GPU 1")], None)
    assert visible_gpus() == ["cuda:0"]


def driver(
    folder: Path, monkeypatch: pytest.MonkeyPatch, listed: str, chosen: str | None, *, cuda: bool = True
) -> None:
    """A machine with a driver that lists these GPUs, and a torch that is built for them."""
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{listed}END\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(module, "torch_can_use_gpus", lambda: cuda)
    monkeypatch.setattr("studyctl.plan.devices.torch_can_use_gpus", lambda: cuda)
    if chosen is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)


def test_a_study_has_a_worker_for_each_visible_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = "".join(f"GPU {index}: NVIDIA H100 (UUID: {uuid})\n" for index, uuid in enumerate(UUIDS))
    driver(tmp_path, monkeypatch, listed, "2,0")
    assert resolve_devices("auto") == ["cuda:0", "cuda:1"]
    with pytest.raises(SpecError) as error:
        resolve_devices("cuda:2")
    assert "GPUs found: cuda:0, cuda:1" in error.value.problems[0].what
    assert "CUDA_VISIBLE_DEVICES is `2,0`" in (error.value.problems[0].hint or "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert resolve_devices("auto") == ["cpu"]


def test_a_torch_for_cpus_sees_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, "GPU 0: NVIDIA H100 (UUID: GPU-1)\n", None, cuda=False)
    assert resolve_devices("auto") == ["cpu"]
    with pytest.raises(SpecError) as error:
        resolve_devices("cuda:0")
    assert error.value.problems[0].hint == "the torch that is installed is built for CPUs only"


@pytest.mark.parametrize(("version", "can"), [("'12.8'", True), ("None", False)])
def test_how_torch_was_built_is_read_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, can: bool
) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('imported')")
    (tmp_path / "version.py").write_text(f"from typing import Optional\ncuda: Optional[str] = {version}\n")
    spec = module.find_spec("json")
    assert spec is not None
    spec.origin = str(tmp_path / "torch.py")
    monkeypatch.setattr(module, "find_spec", lambda name: spec)
    assert module.torch_can_use_gpus() is can


def test_without_torch_the_driver_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert module.torch_can_use_gpus()


def test_torch_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    engine._check_device("cpu")
    engine._check_device("cuda:0")
    with pytest.raises(StepError, match="can use 1 GPUs"):
        engine._check_device("cuda:1")

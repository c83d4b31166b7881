import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from studyctl.errors import StepError
from studyctl.evaluate import reference as module
from studyctl.evaluate.head import Head, open_head
from studyctl.evaluate.reference import keep_reference, open_reference
from studyctl.evaluate.windows import Windows

WINDOWS = Windows(np.arange(12, dtype=np.int32).reshape(3, 4), bytes=12, bos=False)


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=str)
def states(request: pytest.FixtureRequest) -> torch.Tensor:
    return torch.randn(3, 3, 8, generator=torch.Generator().manual_seed(0)).to(request.param)


def head(dtype: torch.dtype = torch.float32) -> Head:
    return Head(torch.arange(40.0).reshape(5, 8).to(dtype), None, scale=0.5, softcap=30.0)


def write(path: Path, states: torch.Tensor, batches: list[int]) -> Path:
    with keep_reference(path, WINDOWS, head(states.dtype)) as writer:
        for batch in states.split(batches):
            writer.append(batch)
    return path


def test_what_was_kept_is_read_bit_by_bit(tmp_path: Path, states: torch.Tensor) -> None:
    opened = open_reference(write(tmp_path / "sub" / "ar.safetensors", states, [2, 1]))
    assert opened is not None
    assert opened.rows(0, 3).dtype == states.dtype
    assert torch.equal(opened.rows(0, 3), states)
    assert torch.equal(opened.rows(1, 2), states[1:2])
    assert opened.windows == module.fingerprint(WINDOWS)


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    states = torch.randn(3, 3, 8)
    assert torch.equal(load_file(write(tmp_path / "x", states, [3]))["hidden"], states)


def test_the_head_is_kept_once_for_all_texts(tmp_path: Path) -> None:
    for name in ("ar", "de"):
        write(tmp_path / name, torch.randn(3, 3, 8), [3])
    assert len(list(tmp_path.glob("head-*"))) == 1
    opened = open_reference(tmp_path / "de")
    assert opened is not None
    loaded = opened.load_head()
    assert torch.equal(loaded.weight, head().weight)
    assert (loaded.bias, loaded.scale, loaded.softcap) == (None, 0.5, 30.0)


def test_a_bias_is_kept(tmp_path: Path, tiny: Callable[..., Any]) -> None:
    model = tiny()
    model.lm_head.bias = torch.nn.Parameter(torch.arange(258.0))
    with torch.no_grad():
        biased = open_head(model, torch.arange(9)).head
    with keep_reference(tmp_path / "x", WINDOWS, biased) as writer:
        writer.append(torch.zeros(3, 3, 32))
    opened = open_reference(tmp_path / "x")
    assert opened is not None
    assert torch.equal(opened.load_head().bias, torch.arange(258.0))


def test_missing_is_none(tmp_path: Path) -> None:
    assert open_reference(tmp_path / "nothing") is None
    assert open_reference(tmp_path) is None


def test_cut_short_anywhere_is_none(tmp_path: Path) -> None:
    path = write(tmp_path / "x", torch.randn(3, 3, 8), [3])
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert open_reference(path) is None, length
    path.write_bytes(whole + b"\0")
    assert open_reference(path) is None


def test_one_wrong_byte_anywhere_is_none(tmp_path: Path) -> None:
    path = write(tmp_path / "x", torch.randn(3, 3, 8), [3])
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert open_reference(path) is None, place


def test_without_its_head_it_is_none(tmp_path: Path) -> None:
    path = write(tmp_path / "x", torch.randn(3, 3, 8), [3])
    next(tmp_path.glob("head-*")).unlink()
    assert open_reference(path) is None


def test_a_damaged_head_is_never_used(tmp_path: Path) -> None:
    opened = open_reference(write(tmp_path / "x", torch.randn(3, 3, 8), [3]))
    assert opened is not None
    stored = next(tmp_path.glob("head-*"))
    whole = stored.read_bytes()
    for length in range(len(whole)):
        stored.write_bytes(whole[:length])
        with pytest.raises(StepError, match="torn or corrupt"):
            opened.load_head()
    for place in range(len(whole)):
        stored.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            loaded = opened.load_head()
        except StepError:
            continue
        assert loaded.fingerprint() == head().fingerprint(), place


def test_what_fails_halfway_leaves_the_old_file(tmp_path: Path) -> None:
    old = torch.randn(3, 3, 8)
    path = write(tmp_path / "x", old, [3])

    def fail_after_one_batch() -> None:
        with keep_reference(path, WINDOWS, head()) as writer:
            writer.append(torch.zeros(1, 3, 8))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_after_one_batch()
    opened = open_reference(path)
    assert opened is not None
    assert torch.equal(opened.rows(0, 3), old)
    assert len(list(tmp_path.iterdir())) == 2


def test_fewer_windows_than_announced_are_no_reference(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="announced"):
        write(tmp_path / "x", torch.randn(2, 3, 8), [2])
    assert not (tmp_path / "x").exists()


def test_a_reader_keeps_what_it_opened(tmp_path: Path) -> None:
    old = torch.randn(3, 3, 8)
    opened = open_reference(write(tmp_path / "x", old, [3]))
    write(tmp_path / "x", old + 1, [3])
    assert opened is not None
    assert torch.equal(opened.rows(0, 3), old)


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(StepError, match="no space left for the dense reference"):
        write(tmp_path / "x", torch.randn(3, 3, 8), [3])

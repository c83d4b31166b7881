import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from studyctl.errors import StepError
from studyctl.evaluate.text import reference as module
from studyctl.evaluate.text.head import Head, open_head
from studyctl.evaluate.text.reference import keep_reference, open_reference
from tests.evaluate.windows_made import windows_of

WINDOWS = windows_of(np.arange(12).reshape(3, 4))


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=str)
def states(request: pytest.FixtureRequest) -> torch.Tensor:
    return torch.randn(3, 3, 8, generator=torch.Generator().manual_seed(0)).to(request.param)


def head(dtype: torch.dtype = torch.float32) -> Head:
    return Head(torch.arange(40.0).reshape(5, 8).to(dtype), None, scale=0.5, softcap=30.0)


def write(path: Path, states: torch.Tensor) -> Path:
    keep_reference(path, states, WINDOWS, head(states.dtype))
    return path


def test_what_was_kept_is_read_bit_by_bit(tmp_path: Path, states: torch.Tensor) -> None:
    opened = open_reference(write(tmp_path / "sub" / "ar.safetensors", states))
    assert opened is not None
    assert opened.states.dtype == states.dtype
    assert torch.equal(opened.states, states)
    assert opened.windows == module.fingerprint(WINDOWS)


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    states = torch.randn(3, 3, 8)
    assert torch.equal(load_file(write(tmp_path / "x", states))["hidden"], states)


def test_the_head_is_kept_once_for_all_texts(tmp_path: Path) -> None:
    for name in ("ar", "de"):
        write(tmp_path / name, torch.randn(3, 3, 8))
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
    keep_reference(tmp_path / "x", torch.zeros(3, 3, 32), WINDOWS, biased)
    opened = open_reference(tmp_path / "x")
    assert opened is not None
    assert torch.equal(opened.load_head().bias, torch.arange(258.0))


def test_missing_is_none(tmp_path: Path) -> None:
    assert open_reference(tmp_path / "nothing") is None
    assert open_reference(tmp_path) is None


def test_cut_short_anywhere_is_none(tmp_path: Path) -> None:
    path = write(tmp_path / "x", torch.randn(3, 3, 8))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert open_reference(path) is None, length
    path.write_bytes(whole + b"\0")
    assert open_reference(path) is None


def test_one_wrong_byte_anywhere_is_none(tmp_path: Path) -> None:
    path = write(tmp_path / "x", torch.randn(3, 3, 8))
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert open_reference(path) is None, place


def test_without_its_head_it_is_none(tmp_path: Path) -> None:
    path = write(tmp_path / "x", torch.randn(3, 3, 8))
    next(tmp_path.glob("head-*")).unlink()
    assert open_reference(path) is None


def test_a_damaged_head_is_never_used(tmp_path: Path) -> None:
    opened = open_reference(write(tmp_path / "x", torch.randn(3, 3, 8)))
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


def test_what_fails_halfway_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = torch.randn(3, 3, 8)
    path = write(tmp_path / "x", old)

    def fail_after_a_half(file: Path, data: bytes) -> None:
        with file.open("wb") as opened:
            opened.write(data[: len(data) // 2])
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", fail_after_a_half)
        with pytest.raises(RuntimeError):
            write(path, old + 1)
    opened = open_reference(path)
    assert opened is not None
    assert torch.equal(opened.states, old)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_reader_keeps_what_it_opened(tmp_path: Path) -> None:
    old = torch.randn(3, 3, 8)
    opened = open_reference(write(tmp_path / "x", old))
    write(tmp_path / "x", old + 1)
    assert opened is not None
    assert torch.equal(opened.states, old)


@pytest.mark.parametrize("fails", ["save_file", "write_atomic"], ids=["head", "states"])
def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, fails, full)
    with pytest.raises(StepError, match="no space left for the dense reference"):
        write(tmp_path / "x", torch.randn(3, 3, 8))
    assert not (tmp_path / "x").exists()

"""A walk that is killed goes on at the block where it stopped, and ends with the same weights."""

from pathlib import Path

import pytest
import torch

from studyctl.compress.walk import resumable
from studyctl.compress.walk.resumable import ResumableBlocks
from studyctl.compress.walk.walker import compress
from studyctl.compress.weights.stored import weights_hash
from studyctl.contract.methods import AWQ, GPTQ, RTN, GPTQOnGguf, MethodSettings, SparseGPT
from studyctl.errors import StepError
from tests.compress.tiny import Listener, tiny_model

SETTINGS = [
    SparseGPT(sparsity=0.5),
    GPTQ(group_size=8, order="stage"),
    AWQ(group_size=8),
    AWQ(group_size=8, propagate="compressed"),
    RTN(group_size=8),
    GPTQ(group_size=8, target=0.5),
    GPTQOnGguf(grid="gguf:Q4_0", target=0.5),
]


@pytest.fixture(autouse=True)
def _save_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable, "SAVE_SECONDS", 0.0)


def walk(
    settings: MethodSettings, ids: torch.Tensor, folder: Path, stop_after: int | None = None
) -> tuple[str, Listener]:
    model, listener = tiny_model("llama", intermediate_size=64), Listener()
    listener.stop_after = stop_after
    data = ids if settings.needs_data else None
    blocks = ResumableBlocks(folder)
    compress(model, settings, data, batch_tokens=48, reporter=listener, resumable=blocks)
    return weights_hash(model, vocabulary=True), listener


def layers(listener: Listener) -> list[tuple[object, ...]]:
    return [(layer.linear, layer.relative_error, layer.sparsity) for layer in listener.records]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("blocks", [1, 2])
def test_a_stopped_walk_goes_on_where_it_stopped(
    settings: MethodSettings, blocks: int, ids: torch.Tensor, tmp_path: Path
) -> None:
    expected, whole = walk(settings, ids, tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        walk(settings, ids, tmp_path / "killed", stop_after=blocks)
    assert len(list((tmp_path / "killed").iterdir())) == blocks
    resumed_hash, resumed = walk(settings, ids, tmp_path / "killed")
    assert resumed_hash == expected
    assert layers(resumed) == layers(whole)  # those of the saved blocks are recorded again
    assert resumed.done[0][0] == 1
    assert len(resumed.done) == 3


def test_a_warning_about_all_linears_names_those_of_the_saved_blocks_too(
    ids: torch.Tensor, tmp_path: Path
) -> None:
    settings = GPTQ(group_size=8, damping=10)
    _, whole = walk(settings, ids, tmp_path / "undisturbed")
    assert any("damping exceeds the median" in warning for warning in whole.warnings)
    with pytest.raises(KeyboardInterrupt):
        walk(settings, ids, tmp_path / "killed", stop_after=2)
    _, resumed = walk(settings, ids, tmp_path / "killed")
    assert resumed.warnings == whole.warnings


def test_everything_was_done_but_the_end(ids: torch.Tensor, tmp_path: Path) -> None:
    settings = SparseGPT(sparsity=0.5)
    assert walk(settings, ids, tmp_path)[0] == walk(settings, ids, tmp_path)[0]


def test_a_damaged_file_is_refused_and_the_next_walk_begins_anew(ids: torch.Tensor, tmp_path: Path) -> None:
    settings = SparseGPT(sparsity=0.5)
    expected, _ = walk(settings, ids, tmp_path / "blocks")
    (first, *_) = sorted((tmp_path / "blocks").iterdir())
    data = bytearray(first.read_bytes())
    data[-8] ^= 0xFF
    first.write_bytes(data)
    with pytest.raises(StepError, match="cannot be used"):
        walk(settings, ids, tmp_path / "blocks")
    assert walk(settings, ids, tmp_path / "blocks")[0] == expected


def test_short_walks_write_nothing(
    ids: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "SAVE_SECONDS", 60.0)
    walk(SparseGPT(sparsity=0.5), ids, tmp_path / "blocks")
    assert not (tmp_path / "blocks").exists()

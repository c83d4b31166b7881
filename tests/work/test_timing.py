"""The process that times a file."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from studyctl.llama import FOLDER, LlamaModel, find_llama
from studyctl.work import timing
from studyctl.work.timing import Timing, time_file
from tests.export.conftest import llama, tokenizer_files
from tests.export.test_gguf import loaded, write

__all__ = ["llama", "tokenizer_files"]


@pytest.fixture(scope="module")
def file(tokenizer_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a small random model."""
    if find_llama() is None:
        pytest.skip(f"llama.cpp is not here; {FOLDER} names its folder")
    folder = tmp_path_factory.mktemp("gguf")
    write(loaded("llama", folder / "model", tokenizer_files), None, folder / "small.gguf")
    return folder / "small.gguf"


def test_a_file_is_timed_in_both_phases(llama: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.0)
    seen = time_file(llama, file, threads=1, prompt=16, generate=8)
    assert min(msgspec.structs.astuple(seen)) >= 0
    assert seen.prefill_seconds > 0
    assert seen.decode_seconds > 0
    assert seen.resident_bytes > 0


def test_a_phase_that_is_over_in_a_moment_is_repeated(
    llama: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[int] = []
    feed = timing.LlamaModel.session

    def counted(model: LlamaModel, tokens: int, threads: int) -> object:
        prompts.append(tokens)
        return feed(model, tokens, threads)

    monkeypatch.setattr(timing.LlamaModel, "session", counted)
    time_file(llama, file, threads=1, prompt=4, generate=2)
    assert prompts == [timing.WARM_UP + 6] * timing.MOST_TIMES


def test_the_file_is_read_and_not_mapped(llama: Path, file: Path) -> None:
    for mapped in (True, False):
        model = LlamaModel(llama, file, mapped=mapped)
        assert (str(file) in Path("/proc/self/maps").read_text()) == mapped
        model.close()


def test_a_session_goes_on_where_it_was(llama: Path, file: Path) -> None:
    model = LlamaModel(llama, file)
    whole = model.logits([5, 6, 7, 8])
    with model.session(4, 1) as session:
        session.feed([5, 6])
        assert session.logits([7, 8]) == pytest.approx(whole[2:], abs=1e-5)
    model.close()


def started(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "studyctl.work.timing", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_process_prints_what_it_measured(llama: Path, file: Path) -> None:
    ended = started(str(file), "1", "8", "4")
    assert ended.returncode == 0, ended.stderr
    assert msgspec.json.decode(ended.stdout, type=Timing).prefill_seconds > 0


def test_a_file_that_is_none_is_said_on_one_line(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.gguf").write_bytes(b"GGUF")
    ended = started(str(tmp_path / "torn.gguf"), "1", "8", "4")
    assert ended.returncode == 1
    assert ended.stderr.strip() == "llama.cpp does not load torn.gguf"

"""Finished parts of a task on disk: taken up by the next attempt, of the same weights and the same plan only."""

import os
import random
import signal
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch

from studyctl.evaluate.tasks.finished import FinishedChunks, NothingFinished
from studyctl.evaluate.tasks.score import TaskScores, score_task
from studyctl.reporter import SilentReporter
from studyctl.work import chunk_file
from studyctl.work.chunk_file import ChunkFile
from tests.compress.tiny import tiny_model
from tests.evaluate.conftest import byte_tokenizer
from tests.evaluate.tasks.test_score_task import request_of, write

KILLS = int(os.environ.get("STUDYCTL_KILLS", "12"))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_file, "SAVE_SECONDS", 0.0)


def test_steps_come_back_bit_by_bit(tmp_path: Path) -> None:
    values = [[-0.1 - 2**-50, True], [-1e-300, False]]
    with ChunkFile(tmp_path / "steps" / "x.jsonl", "weights") as steps:
        assert steps.begin("plan") == {}
        steps.add(0, values)
        steps.add(1, {"nll": [0.1 + 0.2]})
    with ChunkFile(tmp_path / "steps" / "x.jsonl", "weights") as steps:
        assert steps.begin("plan") == {0: values, 1: {"nll": [0.1 + 0.2]}}
        assert steps.begin("another plan") == {}
    with ChunkFile(tmp_path / "steps" / "x.jsonl", "other weights") as steps:
        assert steps.begin("plan") == {}


def test_a_stage_with_two_plans_keeps_both(tmp_path: Path) -> None:
    for _ in range(2):
        with ChunkFile(tmp_path / "x.jsonl", "") as steps:
            for plan in ("one", "two"):
                stored = steps.begin(plan)
                steps.add(len(stored), plan)
    with ChunkFile(tmp_path / "x.jsonl", "") as steps:
        assert steps.begin("one") == {0: "one", 1: "one"}
        assert steps.begin("two") == {0: "two", 1: "two"}


def test_what_is_not_written_yet_is_when_the_stage_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_file, "SAVE_SECONDS", 1e9)

    def stopped() -> None:
        with ChunkFile(tmp_path / "x.jsonl", "") as steps:
            steps.begin("plan")
            steps.add(0, 1.5)
            assert not (tmp_path / "x.jsonl").exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    with ChunkFile(tmp_path / "x.jsonl", "") as steps:
        assert steps.begin("plan") == {0: 1.5}


def test_the_time_that_steps_took_is_known_to_the_next_attempt(tmp_path: Path) -> None:
    begun = time.monotonic()
    with ChunkFile(tmp_path / "x.jsonl", "") as steps:
        steps.begin("plan")
        work_begun = time.monotonic()
        while time.monotonic() - work_begun < 0.02:
            pass
        steps.add(0, 1.0)
        assert steps.seconds_before == 0
    with ChunkFile(tmp_path / "x.jsonl", "") as steps:
        steps.begin("plan")
        assert 0.02 <= steps.seconds_before <= time.monotonic() - begun


def test_a_result_that_is_not_finite_is_computed_again(tmp_path: Path) -> None:
    with ChunkFile(tmp_path / "x.jsonl", "") as steps:
        steps.begin("plan")
        steps.add(0, [float("-inf")])
        steps.add(1, [1.0])
    with ChunkFile(tmp_path / "x.jsonl", "") as steps:
        assert steps.begin("plan") == {1: [1.0]}


def test_torn_or_damaged_anywhere_it_costs_work_and_never_a_wrong_result(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with ChunkFile(path, "") as steps:
        steps.begin("plan")
        for step in range(3):
            steps.add(step, step / 7)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with ChunkFile(path, "") as steps:
            stored = steps.begin("plan")
            assert stored == {step: step / 7 for step in stored}
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
        with ChunkFile(path, "") as steps:
            stored = steps.begin("plan")
            assert stored == {step: step / 7 for step in stored}


def killed_now_and_then(work: Any, moments: random.Random, seconds: float) -> int:
    """Run ``work`` in a child until it comes to its end, killing it at random moments; return how many kills it took."""
    kills = 0
    while True:
        child = os.fork()
        if child == 0:
            try:
                work()
                os._exit(0)
            except BaseException:  # a child that goes on would be a second test run
                traceback.print_exc()
                os._exit(1)
        deadline = time.monotonic() + (moments.uniform(0, seconds) if kills < KILLS else 1e9)
        while time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                assert status == 0
                return kills
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1


def test_a_task_that_is_killed_many_times_ends_with_the_same_bits(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    tokenizer = byte_tokenizer()
    model = tiny_model("gemma2", vocab_size=258, max_position_embeddings=256)
    items = [
        {"question_stem": "word " * number, "choices": {"text": ["yes", "no"], "label": ["A", "B"]}, "answerKey": "A"}
        for number in range(1, 25)
    ]  # fmt: skip
    request = request_of("openbookqa", write(tmp_path / "test.jsonl", items))

    def score(steps: FinishedChunks) -> TaskScores:
        return score_task(
            model, tokenizer, request, batch_tokens=40, reporter=SilentReporter(), finished=steps
        )

    begun = time.monotonic()
    expected = score(NothingFinished())
    seconds = time.monotonic() - begun

    def work() -> None:
        with ChunkFile(tmp_path / "x.jsonl", "") as steps:
            assert score(steps) == expected

    assert killed_now_and_then(work, random.Random(5), seconds) > 0

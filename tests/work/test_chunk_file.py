"""The saved part of a task on disk: resumed by the next attempt, with the same weights and the same plan only."""

import os
import random
import signal
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from studyctl.evaluate.tasks.score import TaskScores, score_task
from studyctl.evaluate.tasks.scorer import ResumableChunks
from studyctl.reporter import SilentReporter
from studyctl.work.chunk_file import ChunkFile
from tests.compress.tiny import tiny_model
from tests.evaluate.conftest import byte_tokenizer
from tests.evaluate.tasks.test_score_task import request_of, write

KILLS = int(os.environ.get("STUDYCTL_KILLS", "12"))


def test_answers_come_back_bit_by_bit(tmp_path: Path) -> None:
    values = [[-0.1 - 2**-50, True], [-1e-300, False]]
    with ChunkFile(tmp_path / "chunks", 1, "weights") as chunks:
        assert chunks.begin("plan") == {}
        chunks.add(0, values)
        chunks.add(1, {"nll": [0.1 + 0.2]})
    with ChunkFile(tmp_path / "chunks", 2, "weights") as chunks:
        assert chunks.begin("plan") == {0: values, 1: {"nll": [0.1 + 0.2]}}
        assert chunks.begin("another plan") == {}
    with ChunkFile(tmp_path / "chunks", 3, "other weights") as chunks:
        assert chunks.begin("plan") == {}


def test_a_task_with_two_plans_keeps_both(tmp_path: Path) -> None:
    for attempt in (1, 2):
        with ChunkFile(tmp_path, attempt, "") as chunks:
            for plan in ("one", "two"):
                stored = chunks.begin(plan)
                chunks.add(len(stored), plan)
    with ChunkFile(tmp_path, 1, "") as chunks:
        assert chunks.begin("one") == {0: "one", 1: "one"}
        assert chunks.begin("two") == {0: "two", 1: "two"}


def test_the_time_that_chunks_took_is_known_to_the_next_attempt(tmp_path: Path) -> None:
    begun = time.monotonic()
    with ChunkFile(tmp_path, 1, "") as chunks:
        chunks.begin("plan")
        work_begun = time.monotonic()
        while time.monotonic() - work_begun < 0.02:
            pass
        chunks.add(0, 1.0)
        assert chunks.seconds_before == 0
    with ChunkFile(tmp_path, 1, "") as chunks:
        chunks.begin("plan")
        assert 0.02 <= chunks.seconds_before <= time.monotonic() - begun


def test_an_attempt_that_only_seemed_dead_has_a_file_of_its_own(tmp_path: Path) -> None:
    with ChunkFile(tmp_path, 1, "") as asleep:
        asleep.begin("plan")
        asleep.add(0, "first")
        with ChunkFile(tmp_path, 2, "") as chunks:
            assert chunks.begin("plan") == {0: "first"}
            chunks.add(1, "second")
            asleep.add(1, "late")
            chunks.add(2, "second")
    with ChunkFile(tmp_path, 3, "") as chunks:
        assert chunks.begin("plan").keys() == {0, 1, 2}


def test_a_result_that_is_not_finite_is_computed_again(tmp_path: Path) -> None:
    with ChunkFile(tmp_path, 1, "") as chunks:
        chunks.begin("plan")
        chunks.add(0, [float("-inf")])
        chunks.add(1, [1.0])
    with ChunkFile(tmp_path, 1, "") as chunks:
        assert chunks.begin("plan") == {1: [1.0]}


def test_torn_or_damaged_anywhere_it_costs_work_and_never_a_wrong_result(tmp_path: Path) -> None:
    path = tmp_path / "1.jsonl"
    with ChunkFile(tmp_path, 1, "") as chunks:
        chunks.begin("plan")
        for chunk in range(3):
            chunks.add(chunk, chunk / 7)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with ChunkFile(tmp_path, 1, "") as chunks:
            stored = chunks.begin("plan")
            assert stored == {chunk: chunk / 7 for chunk in stored}
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
        with ChunkFile(tmp_path, 1, "") as chunks:
            stored = chunks.begin("plan")
            assert stored == {chunk: chunk / 7 for chunk in stored}


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

    def score(chunks: ResumableChunks | None = None) -> TaskScores:
        return score_task(
            model, tokenizer, request, batch_tokens=40, reporter=SilentReporter(), resumable=chunks
        )

    begun = time.monotonic()
    expected = score()
    seconds = time.monotonic() - begun

    def work() -> None:
        with ChunkFile(tmp_path / "chunks", os.getpid(), "") as chunks:
            assert score(chunks) == expected

    assert killed_now_and_then(work, random.Random(5), seconds) > 0

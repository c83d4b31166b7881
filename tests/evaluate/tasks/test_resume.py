"""A task that was killed goes on after its saved chunks and ends with the same bits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from studyctl.evaluate.tasks.data import TaskRequest
from studyctl.evaluate.tasks.score import TaskScores, score_task
from studyctl.reporter import SilentReporter
from tests.evaluate.tasks.test_score_task import GENERATE, ITEMS, OWN, request_of, write


class Kept:
    """Chunks as they come back from a file: as JSON; a process that is killed leaves those it had."""

    def __init__(self, kill_after: int | None = None) -> None:
        self.plans: dict[str, dict[int, str]] = {}
        self.kill_after = kill_after
        self.computed = 0
        self._chunks: dict[int, str] = {}

    def begin(self, plan: str) -> dict[int, Any]:
        self._chunks = self.plans.setdefault(plan, {})
        return {chunk: json.loads(result) for chunk, result in self._chunks.items()}

    def add(self, chunk: int, result: Any) -> None:
        self._chunks[chunk] = json.dumps(result, allow_nan=False)
        self.computed += 1
        if self.computed == self.kill_after:
            raise KeyboardInterrupt


def task(
    tiny: Any, tokenizer: Any, request: TaskRequest, resumable: Any = None, batch_tokens: int = 60
) -> TaskScores:
    return score_task(
        tiny(),
        tokenizer,
        request,
        batch_tokens=batch_tokens,
        reporter=SilentReporter(),
        resumable=resumable,
    )


@pytest.mark.parametrize("kill_after", [1, 2, 3])
def test_a_task_goes_on_from_the_chunk_where_it_was_killed(
    tiny: Any, tokenizer: Any, tmp_path: Path, kill_after: int
) -> None:
    request = request_of("arc_easy", write(tmp_path / "test.jsonl", ITEMS["arc_easy"]))
    expected = task(tiny, tokenizer, request)
    kept = Kept(kill_after)
    with pytest.raises(KeyboardInterrupt):
        task(tiny, tokenizer, request, kept)
    kept.kill_after = None
    scores = task(tiny, tokenizer, request, kept)
    assert scores == expected
    assert kept.computed == 3, "no chunk was computed twice"


def test_generated_answers_are_kept_as_well(tiny: Any, tokenizer: Any, tmp_path: Path) -> None:
    write(tmp_path / "items.jsonl", [{"question": f"What {i}?", "answer": str(i)} for i in range(5)])
    (tmp_path / "own.yaml").write_text(GENERATE)
    request = request_of("own", None, yaml=tmp_path / "own.yaml")
    assert OWN in GENERATE
    expected = task(tiny, tokenizer, request, batch_tokens=20)
    kept = Kept(kill_after=2)
    with pytest.raises(KeyboardInterrupt):
        task(tiny, tokenizer, request, kept, batch_tokens=20)
    kept.kill_after = None
    assert task(tiny, tokenizer, request, kept, batch_tokens=20) == expected
    assert kept.computed == 5


def test_other_items_or_another_budget_begin_again(tiny: Any, tokenizer: Any, tmp_path: Path) -> None:
    kept = Kept()
    request = request_of("arc_easy", write(tmp_path / "test.jsonl", ITEMS["arc_easy"]))
    task(tiny, tokenizer, request, kept)
    task(tiny, tokenizer, request, kept, batch_tokens=30)
    task(tiny, tokenizer, request_of("arc_easy", request.task.test, limit=2), kept)
    assert len(kept.plans) == 3


def test_logits_that_are_not_finite_are_an_error_in_a_task(tiny: Any, tokenizer: Any, tmp_path: Path) -> None:
    def broken() -> Any:
        model = tiny()
        with torch.no_grad():
            model.lm_head.weight[7] = torch.nan
        return model

    from studyctl.errors import StepError

    request = request_of("arc_easy", write(tmp_path / "test.jsonl", ITEMS["arc_easy"]))
    with pytest.raises(StepError, match="not finite"):
        task(broken, tokenizer, request)

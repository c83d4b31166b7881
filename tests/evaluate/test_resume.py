"""A stage that was killed goes on after its finished steps and ends with the same bits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from studyctl.evaluate.finished import NothingFinished
from studyctl.evaluate.reference import open_reference
from studyctl.evaluate.tasks import TaskScores, score_task
from studyctl.evaluate.text import TextScores, score_text
from studyctl.evaluate.windows import Windows
from studyctl.reporter import SilentReporter
from tests.evaluate.test_score_task import GENERATE, ITEMS, OWN, TaskRequest, request_of, write

WINDOWS = Windows(np.random.default_rng(0).integers(0, 258, (7, 12)).astype(np.int32), bytes=84, bos=False)


class Kept:
    """Steps as they come back from a file: as JSON; a process that is killed leaves those it had."""

    def __init__(self, kill_after: int | None = None) -> None:
        self.plans: dict[str, dict[int, str]] = {}
        self.kill_after = kill_after
        self.computed = 0
        self._steps: dict[int, str] = {}

    def begin(self, plan: str) -> dict[int, Any]:
        self._steps = self.plans.setdefault(plan, {})
        return {step: json.loads(result) for step, result in self._steps.items()}

    def add(self, step: int, result: Any) -> None:
        self._steps[step] = json.dumps(result, allow_nan=False)
        self.computed += 1
        if self.computed == self.kill_after:
            raise KeyboardInterrupt


def task(
    tiny: Any, tokenizer: Any, request: TaskRequest, finished: Any, batch_tokens: int = 60
) -> TaskScores:
    return score_task(
        tiny(),
        tokenizer,
        request,
        batch_tokens=batch_tokens,
        reporter=SilentReporter(),
        finished=finished,
    )


@pytest.mark.parametrize("kill_after", [1, 2, 3])
def test_a_task_goes_on_from_the_step_where_it_was_killed(
    tiny: Any, tokenizer: Any, tmp_path: Path, kill_after: int
) -> None:
    request = request_of("arc_easy", write(tmp_path / "test.jsonl", ITEMS["arc_easy"]))
    expected = task(tiny, tokenizer, request, NothingFinished())
    kept = Kept(kill_after)
    with pytest.raises(KeyboardInterrupt):
        task(tiny, tokenizer, request, kept)
    kept.kill_after = None
    scores = task(tiny, tokenizer, request, kept)
    assert scores == expected
    assert kept.computed == 3, "no step was computed twice"


def test_generated_answers_are_kept_as_well(tiny: Any, tokenizer: Any, tmp_path: Path) -> None:
    write(tmp_path / "items.jsonl", [{"question": f"What {i}?", "answer": str(i)} for i in range(5)])
    (tmp_path / "own.yaml").write_text(GENERATE)
    request = request_of("own", None, yaml=tmp_path / "own.yaml")
    assert OWN in GENERATE
    expected = task(tiny, tokenizer, request, NothingFinished(), batch_tokens=20)
    kept = Kept(kill_after=2)
    with pytest.raises(KeyboardInterrupt):
        task(tiny, tokenizer, request, kept, batch_tokens=20)
    kept.kill_after = None
    assert task(tiny, tokenizer, request, kept, batch_tokens=20) == expected
    assert kept.computed == 5


def test_other_items_or_another_budget_begin_anew(tiny: Any, tokenizer: Any, tmp_path: Path) -> None:
    kept = Kept()
    request = request_of("arc_easy", write(tmp_path / "test.jsonl", ITEMS["arc_easy"]))
    task(tiny, tokenizer, request, kept)
    task(tiny, tokenizer, request, kept, batch_tokens=30)
    task(tiny, tokenizer, request_of("arc_easy", request.test, limit=2), kept)
    assert len(kept.plans) == 3


def text(model: Any, finished: Any, **options: Any) -> TextScores:
    given: dict[str, Any] = {"reference": None, "keep": None, "metrics": ("kl", "top1", "snr")} | options
    return score_text(model, WINDOWS, batch_tokens=24, reporter=SilentReporter(), finished=finished, **given)


def assert_same(one: TextScores, other: TextScores) -> None:
    assert one.window_nll.tolist() == other.window_nll.tolist()
    assert (one.perplexity, one.bits_per_byte) == (other.perplexity, other.bits_per_byte)
    assert one.fidelity == other.fidelity


@pytest.mark.parametrize("kill_after", [1, 2, 3, 4])
def test_perplexity_and_fidelity_go_on_with_the_same_bits(tiny: Any, tmp_path: Path, kill_after: int) -> None:
    text(tiny(), NothingFinished(), keep=tmp_path / "dense")
    reference = open_reference(tmp_path / "dense")
    expected = text(tiny(seed=1), NothingFinished(), reference=reference)
    kept = Kept(kill_after)
    with pytest.raises(KeyboardInterrupt):
        text(tiny(seed=1), kept, reference=reference)
    kept.kill_after = None
    assert_same(text(tiny(seed=1), kept, reference=reference), expected)
    assert kept.computed == 4


class TestTheDenseReference:
    @pytest.mark.parametrize("kill_after", [1, 2, 3, 4])
    def test_what_is_there_of_it_is_taken_up(self, tiny: Any, tmp_path: Path, kill_after: int) -> None:
        expected = text(tiny(), NothingFinished(), keep=tmp_path / "whole")
        kept = Kept(kill_after)
        with pytest.raises(KeyboardInterrupt):
            text(tiny(), kept, keep=tmp_path / "dense")
        assert not (tmp_path / "dense").exists()
        kept.kill_after = None
        assert_same(text(tiny(), kept, keep=tmp_path / "dense"), expected)
        assert (tmp_path / "dense").read_bytes() == (tmp_path / "whole").read_bytes()
        assert kept.computed == 4
        assert len(list(tmp_path.iterdir())) == 3  # and the head

    @pytest.mark.parametrize("damage", ["cut", "wrong byte", "gone", "another header"])
    def test_what_is_damaged_of_it_is_computed_again(self, tiny: Any, tmp_path: Path, damage: str) -> None:
        text(tiny(), NothingFinished(), keep=tmp_path / "whole")
        kept = Kept(kill_after=3)
        with pytest.raises(KeyboardInterrupt):
            text(tiny(), kept, keep=tmp_path / "dense")
        (partial,) = tmp_path.glob(".dense*")
        data = partial.read_bytes()
        if damage == "cut":
            partial.write_bytes(data[:-1])
        elif damage == "wrong byte":
            partial.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        elif damage == "gone":
            partial.unlink()
        else:
            partial.write_bytes(data[:100] + b"x" + data[101:])
        kept.kill_after = None
        text(tiny(), kept, keep=tmp_path / "dense")
        assert (tmp_path / "dense").read_bytes() == (tmp_path / "whole").read_bytes()
        assert kept.computed == 3 + {"cut": 2, "wrong byte": 2, "gone": 4, "another header": 4}[damage]


def test_logits_that_are_not_finite_are_an_error_in_a_task(tiny: Any, tokenizer: Any, tmp_path: Path) -> None:
    def broken() -> Any:
        model = tiny()
        with torch.no_grad():
            model.lm_head.weight[7] = torch.nan
        return model

    from studyctl.errors import StepError

    request = request_of("arc_easy", write(tmp_path / "test.jsonl", ITEMS["arc_easy"]))
    with pytest.raises(StepError, match="not finite"):
        task(broken, tokenizer, request, NothingFinished())

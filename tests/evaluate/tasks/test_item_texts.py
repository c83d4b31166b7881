"""What people read of an item is what was scored."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studyctl.contract.item_texts import ITEM_CHARACTERS, ITEM_TEXTS, TASK_CHARACTERS, cut
from studyctl.evaluate.tasks.results import TaskScores
from studyctl.evaluate.tasks.texts import room_of
from tests.evaluate.tasks.test_score_task import (
    GENERATE,
    ITEMS,
    LAST_WORD,
    OWN,
    ROLLING,
    request_of,
    score,
    write,
)

Scored = Callable[..., TaskScores]
CHOICES = (
    OWN
    + """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: 0
doc_to_choice: ["yes", "no"]
metric_list: [{metric: acc}]
"""
)


@pytest.fixture
def scored(tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path) -> Scored:
    """Return what scores a stock task, or a definition of one's own on items with `question` and `answer`."""

    def run(task: str, items: list[dict[str, Any]] | None = None, **options: Any) -> TaskScores:
        if task in ITEMS:
            request = request_of(task, write(tmp_path / "test.jsonl", items or ITEMS[task]), **options)
        else:
            (tmp_path / "items.jsonl").write_text(
                "".join(
                    json.dumps(item) + "\n" for item in items or [{"question": "Where?", "answer": "at sea"}]
                )
            )
            (tmp_path / "own.yaml").write_text(task)
            request = request_of("own", None, yaml=tmp_path / "own.yaml", **options)
        return score(tiny(), tokenizer, request)

    return run


def texts(scores: TaskScores) -> list[dict[str, Any]]:
    assert scores.texts.schema == ITEM_TEXTS
    rows: list[dict[str, Any]] = scores.texts.to_pylist()
    return rows


def test_a_choice_continues_the_prompt(scored: Scored) -> None:
    scores = scored("arc_easy")
    assert texts(scores)[2] == {
        "item": 2, "prompt": "Question: What is 2?\nAnswer:", "choices": ["yes, it is", "no"], "target": None
    }  # fmt: skip
    for row, item in zip(texts(scores), scores.items.to_pylist(), strict=True):
        assert row["item"] == item["item"]
        assert len(row["choices"]) == len(item["loglikelihoods"]), "in the same order"


def test_choices_with_contexts_of_their_own_begin_where_these_differ(scored: Scored) -> None:
    """Winogrande asks for the end of a sentence after either name."""
    (first, *_) = texts(scored("winogrande"))
    assert first == {
        "item": 0, "prompt": "0 was better than ", "choices": ["Ann at home.", "Bo at home."], "target": None
    }  # fmt: skip


def test_examples_and_chat_template_are_part_of_the_prompt(
    scored: Scored, tokenizer: Any, tmp_path: Path
) -> None:
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[answer]"
    (first, *_) = texts(scored("rte", chat_template=True))
    assert first["prompt"].startswith("[user]It rains 0.")
    assert first["prompt"].endswith("[answer]")
    examples = write(tmp_path / "train.jsonl", ITEMS["arc_easy"])
    (first, *_) = texts(scored("arc_easy", shots=1, fewshot=examples))
    assert first["prompt"].count("Answer:") == 2
    assert first["prompt"].endswith("Question: What is 0?\nAnswer:")


def test_a_generated_answer_is_kept_beside_the_target(scored: Scored) -> None:
    scores = scored(GENERATE)
    assert texts(scores) == [{"item": 0, "prompt": "Q: Where?", "choices": [], "target": "at sea"}]
    (item,) = scores.items.to_pylist()
    assert isinstance(item["answer"], str)
    assert scored("arc_easy").items["answer"].null_count == 4, "a choice is scored, not written"


def test_a_continuation_is_the_target(scored: Scored) -> None:
    assert texts(scored(LAST_WORD)) == [{"item": 0, "prompt": "Where?", "choices": [], "target": "at sea"}]


def test_a_text_that_is_scored_as_a_whole_is_the_prompt(scored: Scored) -> None:
    assert texts(scored(ROLLING)) == [{"item": 0, "prompt": "Where?", "choices": [], "target": None}]


def test_several_right_answers_stand_in_the_target(scored: Scored) -> None:
    several = GENERATE.replace('"{{answer}}"', "answer")
    (row,) = texts(scored(several, [{"question": "Where?", "answer": ["at sea", "ashore"]}]))
    assert row["target"] == "at sea, ashore"


def test_a_target_that_no_file_can_hold_costs_no_result(scored: Scored) -> None:
    (row,) = texts(scored(GENERATE.replace("{{answer}}", "{{ '\\\\ud800' }}")))
    assert row["target"] == "?"


def test_a_long_prompt_keeps_its_end_and_some_of_its_beginning(scored: Scored) -> None:
    question = "Passage: " + "word " * 5_000 + "Question: where?"
    (row,) = texts(scored(CHOICES, [{"question": question, "answer": ""}]))
    assert len(row["prompt"]) + len("yes") + len("no") == ITEM_CHARACTERS
    beginning, end = row["prompt"].split("…")
    assert question.startswith(beginning)
    assert question.endswith(end)
    assert len(end) > 2 * len(beginning)
    assert row["choices"] == ["yes", "no"]


def test_all_items_of_a_task_together_have_a_bound() -> None:
    assert room_of(1) == room_of(4_000) == ITEM_CHARACTERS
    for items in (5_000, 100_000, 1_000_000_000):
        assert room_of(items) * items <= TASK_CHARACTERS


@given(st.text(max_size=50), st.integers(0, 60))
def test_a_text_is_cut_only_if_it_is_too_long(text: str, room: int) -> None:
    short = cut(text, room)
    assert len(short) <= max(room, 1)
    assert (short == text) == (len(text) <= room) or text == "…"


def test_rows_without_choices_have_the_same_columns() -> None:
    row = {"item": 1, "prompt": "p", "choices": [], "target": None}
    assert pa.Table.from_pylist([row], schema=ITEM_TEXTS).to_pylist() == [row]

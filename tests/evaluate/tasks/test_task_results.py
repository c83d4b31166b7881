"""Which of a task's metrics is its main one, and what each item is worth in it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studyctl.contract.records import TaskFigure
from studyctl.errors import StepError
from studyctl.evaluate.tasks.results import TaskScores, passage_of
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

CORRELATED = (
    OWN
    + """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
doc_to_choice: ["0", "1", "2", "3", "4"]
metric_list: [{metric: mcc}, {metric: acc}]
"""
)


def main(scores: TaskScores) -> TaskFigure:
    (metric,) = (one for one in scores.metrics if one.main)
    return metric


@pytest.fixture
def scored(tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path) -> Scored:
    """Return what scores a stock task, or a definition of one's own."""

    def run(task: str, **options: Any) -> TaskScores:
        if task in ITEMS:
            request = request_of(task, write(tmp_path / "test.jsonl", ITEMS[task]), **options)
        else:
            write(
                tmp_path / "items.jsonl",
                [{"question": f"What {i}? " * (i + 1), "answer": str(i)} for i in range(5)],
            )
            (tmp_path / "own.yaml").write_text(task)
            request = request_of("own", None, yaml=tmp_path / "own.yaml", **options)
        return score(tiny(), tokenizer, request)

    return run


class TestTheMainMetric:
    def test_is_lm_evals_first_by_default(self, scored: Scored) -> None:
        scores = scored("arc_easy")
        assert [(metric.metric, metric.main) for metric in scores.metrics] == [
            ("acc", True),
            ("acc_norm", False),
        ]

    def test_is_the_one_that_was_asked_for(self, scored: Scored) -> None:
        scores = scored("arc_easy", main="acc_norm")
        assert [(metric.metric, metric.main) for metric in scores.metrics] == [
            ("acc", False),
            ("acc_norm", True),
        ]

    def test_that_does_not_exist_is_an_error_that_lists_those_that_do(self, scored: Scored) -> None:
        with pytest.raises(StepError) as caught:
            scored("arc_easy", main="f1")
        (problem,) = caught.value.problems
        assert problem.what == "task `arc_easy` has no metric `f1`"
        assert problem.hint == "it has `acc`, `acc_norm`; see [evaluation.tasks.main]"

    def test_is_of_the_first_filter(self, scored: Scored) -> None:
        assert [(metric.metric, metric.main) for metric in scored(GENERATE).metrics] == [
            ("exact_match", True),
            ("exact_match,digits", False),
        ]


class TestAveraged:
    """Whether means over tasks can be taken of a main metric."""

    def test_fractions_of_which_more_is_better(self, scored: Scored) -> None:
        for scores in (scored("arc_easy"), scored("arc_easy", main="acc_norm"), scored(GENERATE)):
            assert main(scores).averaged

    def test_not_of_what_is_better_when_there_is_less_of_it(self, scored: Scored) -> None:
        assert main(scored(LAST_WORD)).metric == "perplexity"
        assert not main(scored(LAST_WORD)).averaged
        assert main(scored(LAST_WORD, main="acc")).averaged
        assert not main(scored(ROLLING)).averaged

    def test_also_where_only_the_whole_task_has_a_value(self, scored: Scored) -> None:
        scores = scored(CORRELATED, main="mcc")
        assert main(scored(CORRELATED)).metric == "mcc", "the first that the definition lists"
        assert main(scores).averaged
        assert scores.items["score"].null_count == 5, "no item has a value of its own"
        assert scores.items["correct"].null_count == 5

    def test_only_the_main_metric_is(self, scored: Scored) -> None:
        for scores in (scored("arc_easy"), scored(LAST_WORD), scored(GENERATE)):
            assert not any(metric.averaged for metric in scores.metrics if not metric.main)


class TestItems:
    def test_the_score_is_the_items_value_of_the_main_metric(self, scored: Scored) -> None:
        items = scored(LAST_WORD).items.to_pylist()
        assert [row["score"] for row in items] == [row["loglikelihoods"][0] for row in items]
        assert [row["correct"] for row in items] == [None] * 5, "a likelihood is not right or wrong"

    @pytest.mark.parametrize("metric", ["acc", "acc_norm"])
    def test_their_mean_is_the_metric(self, scored: Scored, metric: str) -> None:
        scores = scored("openbookqa", main=metric)
        values = [row["score"] for row in scores.items.to_pylist()]
        assert sum(values) / len(values) == main(scores).value
        assert [row["correct"] for row in scores.items.to_pylist()] == [value == 1 for value in values]

    def test_correct_norm_goes_with_acc_norm_whatever_the_main_metric_is(self, scored: Scored) -> None:
        one, other = (
            scored("openbookqa", main=metric).items["correct_norm"] for metric in ("acc", "acc_norm")
        )
        assert one == other
        assert scored("rte").items["correct_norm"].null_count == 4

    def test_items_of_one_passage_share_it(self, scored: Scored) -> None:
        assert len(set(scored("boolq").items["passage"].to_pylist())) == 1
        assert len(set(scored("rte").items["passage"].to_pylist())) == 4
        assert len(set(scored("arc_easy").items["passage"].to_pylist())) == 4


class TestPassages:
    def test_a_text_has_one_name_however_it_is_wrapped(self) -> None:
        name = passage_of({"passage": "Snow is cold.", "question": "Is it?"})
        assert passage_of({"question": "Is it warm?", "passage": " Snow\nis  cold.\n"}) == name
        assert passage_of({"passage": "Snow is warm.", "question": "Is it?"}) != name
        assert len(name) == 16
        assert int(name, 16) >= 0

    @pytest.mark.parametrize("field", ["context", "article", "premise", "story", "support", "sentence1"])
    def test_it_is_in_any_of_the_fields_that_tasks_use(self, field: str) -> None:
        one, other = (passage_of({field: "Snow is cold.", "question": text}) for text in "ab")
        assert one == other == passage_of({"passage": "Snow is cold."})

    @pytest.mark.parametrize("empty", [None, "", "  ", 7, ["Snow"]])
    def test_a_field_without_text_is_none(self, empty: object) -> None:
        one, other = (passage_of({"passage": empty, "question": text}) for text in "ab")
        assert one != other

    def test_that_of_an_item_without_one_is_the_item(self) -> None:
        assert passage_of({"question": "a"}) != passage_of({"question": "b"})
        assert passage_of({"question": "a", "answer": 1}) == passage_of({"answer": 1, "question": "a"})

    def test_half_a_character_and_values_that_json_does_not_know_do_no_harm(self) -> None:
        assert passage_of({"passage": "\ud800"}) != passage_of({"passage": "\udc00"})
        assert passage_of({"a": b"1"}) != passage_of({"a": b"2"})

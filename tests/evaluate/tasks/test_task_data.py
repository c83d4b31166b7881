import json
from pathlib import Path

import pytest

from studyctl.errors import Problem, ProblemCode, StepError
from studyctl.evaluate.tasks.data import TaskRequest, load_task
from tests.evaluate.tasks.test_score_task import STOCK, task_of

ARC = {"question": "What?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"}
RTE = {"sentence1": "It rains.", "sentence2": "It is wet.", "label": 0}


def request_of(
    yaml: str | Path, test: Path | None, *, fewshot: Path | None = None, shots: int = 0
) -> TaskRequest:
    task = task_of("task", STOCK / yaml, test, fewshot)
    return TaskRequest(task, shots, limit=0, chat_template=False, bos="auto")


def problem_of(request: TaskRequest) -> Problem:
    with pytest.raises(StepError) as caught:
        load_task(request)
    return caught.value.problems[0]


def lines(path: Path, *rows: object) -> Path:
    path.write_text(
        "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8"
    )
    return path


class TestLocalFiles:
    def test_a_line_without_a_field_that_others_have(self, tmp_path: Path) -> None:
        short = {key: value for key, value in ARC.items() if key != "question"}
        problem = problem_of(request_of("arc/arc_easy.yaml", lines(tmp_path / "x.jsonl", ARC, short)))
        assert problem.what == f"line 2 of {tmp_path / 'x.jsonl'} has no field `question`, line 1 has"

    def test_a_field_of_two_types(self, tmp_path: Path) -> None:
        problem = problem_of(
            request_of("glue/rte/default.yaml", lines(tmp_path / "x.jsonl", RTE, RTE | {"label": "one"}))
        )
        assert "are not alike" in problem.what

    @pytest.mark.parametrize(
        "yaml",
        [
            "arc/arc_easy.yaml",
            "openbookqa/openbookqa.yaml",
            "winogrande/default.yaml",
            "xcopa/default_sw.yaml",
        ],
    )
    def test_items_of_another_task(self, tmp_path: Path, yaml: str) -> None:
        path = lines(tmp_path / "x.jsonl", {"text": "hello", "score": 1})
        problem = problem_of(request_of(yaml, path))
        assert f"item 0 of {path} does not fit task `task`" in problem.what
        assert problem.file == path

    def test_a_field_of_the_wrong_name_says_what_is_wanted(self, tmp_path: Path) -> None:
        renamed = {"query" if key == "question" else key: value for key, value in ARC.items()}
        problem = problem_of(request_of("arc/arc_easy.yaml", lines(tmp_path / "x.jsonl", renamed)))
        assert "'question' is undefined" in problem.what
        assert problem.hint == "the task reads `question`, `answerKey`, `choices`"

    def test_a_field_whose_name_lm_eval_would_take_for_text(self, tmp_path: Path) -> None:
        path = lines(
            tmp_path / "x.jsonl", {"stem": "It is"} | {key: ARC[key] for key in ("choices", "answerKey")}
        )
        problem = problem_of(request_of("openbookqa/openbookqa.yaml", path))
        assert "it has no field `question_stem`" in problem.what
        assert "the item has `stem`, `choices`, `answerKey`" in problem.hint

    def test_a_byte_order_mark_and_empty_lines_do_no_harm(self, tmp_path: Path) -> None:
        (tmp_path / "x.jsonl").write_text(
            "\ufeff" + json.dumps(ARC) + "\n\n" + json.dumps(ARC) + "\n", encoding="utf-8"
        )
        assert len(load_task(request_of("arc/arc_easy.yaml", tmp_path / "x.jsonl")).eval_docs) == 2


class TestExamples:
    def test_they_come_from_their_own_file(self, tmp_path: Path) -> None:
        test, fewshot = (
            lines(tmp_path / "x.jsonl", ARC),
            lines(tmp_path / "y.jsonl", ARC | {"question": "Which?"}),
        )
        task = load_task(request_of("arc/arc_easy.yaml", test, fewshot=fewshot, shots=1))
        assert [doc["question"] for doc in task.fewshot_docs()] == ["Which?"]
        assert [doc["question"] for doc in task.eval_docs] == ["What?"]

    def test_also_where_the_task_draws_them_from_what_it_scores(self, tmp_path: Path) -> None:
        definition = lines(
            tmp_path / "own.yaml", (STOCK / "arc/arc_easy.yaml").read_text() + "fewshot_split: test\n"
        )
        test, fewshot = (
            lines(tmp_path / "x.jsonl", ARC),
            lines(tmp_path / "y.jsonl", ARC | {"question": "Which?"}),
        )
        task = load_task(request_of(definition, test, fewshot=fewshot, shots=1))
        assert [doc["question"] for doc in task.fewshot_docs()] == ["Which?"]
        alone = load_task(request_of(definition, test, shots=1))
        assert [doc["question"] for doc in alone.fewshot_docs()] == ["What?"]


class TestDefinitions:
    OWN = "task: own\ndataset_path: json\ntest_split: test\noutput_type: loglikelihood\ndoc_to_text: question\ndoc_to_target: answer\n"

    def test_data_files_are_relative_to_the_definition(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        lines(tmp_path / "data" / "x.jsonl", {"question": "Why?", "answer": "So"})
        definition = lines(
            tmp_path / "own.yaml", self.OWN + "dataset_kwargs: {data_files: {test: data/x.jsonl}}"
        )
        assert load_task(request_of(definition, None)).eval_docs[0]["question"] == "Why?"

    def test_also_through_an_include(self, tmp_path: Path) -> None:
        lines(tmp_path / "base", self.OWN + "dataset_kwargs: {data_files: {test: 'x*.jsonl'}}")
        lines(tmp_path / "x1.jsonl", {"question": "Why?", "answer": "So"})
        lines(tmp_path / "x2.jsonl", {"question": "How?", "answer": "So"})
        definition = lines(tmp_path / "own.yaml", "include: base\ntask: mine\n")
        assert [doc["question"] for doc in load_task(request_of(definition, None)).eval_docs] == [
            "Why?",
            "How?",
        ]

    def test_a_file_that_matches_a_pattern_since_the_plan_is_an_error(self, tmp_path: Path) -> None:
        lines(tmp_path / "x1.jsonl", {"question": "Why?", "answer": "So"})
        definition = lines(
            tmp_path / "own.yaml", self.OWN + "dataset_kwargs: {data_files: {test: 'x*.jsonl'}}"
        )
        request = request_of(definition, None)
        assert len(load_task(request).eval_docs) == 1
        added = lines(tmp_path / "x2.jsonl", {"question": "How?", "answer": "So"})
        problem = problem_of(request)
        assert problem.what == f"task `task` changed since the study was planned: {added} was added"
        assert problem.code is ProblemCode.CHANGED

    def test_a_group_is_no_task(self, tmp_path: Path) -> None:
        definition = lines(tmp_path / "group.yaml", "group: some\ntask: [arc_easy]\n")
        assert "is not the definition of one lm-eval task" in problem_of(request_of(definition, None)).what

    def test_a_hub_dataset_that_is_not_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        problem = problem_of(request_of("arc/arc_easy.yaml", None))
        assert problem.what.startswith("the data of task `task` cannot be loaded")
        assert (
            problem.hint
            == "fetch it while there is a network, or give a local file under [evaluation.tasks.data]"
        )

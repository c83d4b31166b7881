from pathlib import Path
from typing import Any

import pytest

from studyctl.contract.identity import TaskIdentity
from studyctl.errors import StudyError
from studyctl.sources.hashes import identify_file
from studyctl.sources.task_files import identify_task
from studyctl.sources.task_index import lm_eval_metrics, lm_eval_tasks, scan
from studyctl.spec.models import Tasks

YAML = """
task: mine
dataset_path: json
dataset_kwargs:
  data_files:
    test: mine.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: !function helpers.question
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "mine.yaml").write_text(YAML)
    (folder / "helpers.py").write_text("raise ImportError('never import this')")
    (folder / "mine.jsonl").write_text('{"q": 1}\n{"q": 2}\n')
    return tmp_path


def identify(base: Path, name: str = "mine", **keys: Any) -> TaskIdentity:
    return identify_task(name, Tasks(names=(name,), include=("tasks",), **keys), base)


def refusal(base: Path, name: str = "mine", **keys: Any) -> str:
    with pytest.raises(StudyError) as caught:
        identify(base, name, **keys)
    return " | ".join(f"{problem.what} {problem.hint}" for problem in caught.value.problems)


def test_a_task_of_an_included_folder(tasks: Path) -> None:
    identity = identify(tasks)
    assert identity.yaml == tasks / "tasks" / "mine.yaml"
    assert (identity.output_type, identity.items) == ("multiple_choice", 2)
    assert (identity.test, identity.fewshot) == (None, None)
    assert identity.files == tuple(
        identify_file(tasks / "tasks" / name) for name in ("mine.yaml", "helpers.py", "mine.jsonl")
    )


@pytest.mark.parametrize("name", ["mine.yaml", "helpers.py", "mine.jsonl"])
def test_the_key_changes_with_definition_functions_and_items(tasks: Path, name: str) -> None:
    before = identify(tasks).key
    path = tasks / "tasks" / name
    path.write_text(path.read_text() + "\n\n")
    assert identify(tasks).key != before


def test_the_key_changes_with_what_is_included(tasks: Path) -> None:
    folder = tasks / "tasks"
    (folder / "_base").write_text(YAML.replace("task: mine", "tag: both"))
    (folder / "mine.yaml").write_text("include: _base\ntask: mine\n")
    before = identify(tasks)
    assert before.items == 2
    (folder / "_base").write_text((folder / "_base").read_text() + "description: other\n")
    assert identify(tasks).key != before.key


def test_lm_evals_own_task_with_items_of_the_spec(tasks: Path) -> None:
    (tasks / "arc.jsonl").write_text('{"question": "?"}\n')
    identity = identify(tasks, "arc_easy", data={"arc_easy": "arc.jsonl"})
    assert identity.yaml is not None
    assert identity.yaml.name == "arc_easy.yaml"
    assert (identity.test, identity.items, identity.output_type) == (
        tasks / "arc.jsonl",
        1,
        "multiple_choice",
    )
    assert identity.key is not None
    assert [file.path.name for file in identity.files] == ["arc_easy.yaml", "arc.jsonl"]


def test_an_included_folder_comes_before_lm_evals_own(tasks: Path) -> None:
    (tasks / "tasks" / "arc.yaml").write_text(YAML.replace("mine", "arc_easy"))
    (tasks / "tasks" / "arc_easy.jsonl").write_text('{"q": 1}\n')
    assert identify(tasks, "arc_easy").yaml == tasks / "tasks" / "arc.yaml"


def test_a_hub_dataset_that_cannot_be_looked_up(tasks: Path) -> None:
    identity = identify(tasks, "hellaswag")
    assert (identity.key, identity.dataset) == (None, "Rowan/hellaswag")
    assert "HF_HUB_OFFLINE" in identity.unknown


def test_shots_need_a_file_to_draw_from(tasks: Path) -> None:
    (tasks / "test.jsonl").write_text('{"q": 1}\n')
    message = refusal(tasks, "openbookqa", data={"openbookqa": "test.jsonl"}, shots=5)
    assert "needs `fewshot`" in message
    assert 'openbookqa = { test = "test.jsonl", fewshot = "..." }' in message


def test_the_key_changes_with_the_few_shot_file(tasks: Path) -> None:
    (tasks / "test.jsonl").write_text('{"q": 1}\n')
    (tasks / "shots.jsonl").write_text('{"q": 1}\n')
    keys = {"data": {"openbookqa": {"test": "test.jsonl", "fewshot": "shots.jsonl"}}, "shots": 1}
    before = identify(tasks, "openbookqa", **keys)
    assert before.fewshot == tasks / "shots.jsonl"
    assert [file.path for file in before.files[-2:]] == [tasks / "test.jsonl", tasks / "shots.jsonl"]
    (tasks / "shots.jsonl").write_text('{"q": 2}\n')
    assert identify(tasks, "openbookqa", **keys).key != before.key


def test_more_shots_than_items_to_draw_from(tasks: Path) -> None:
    assert identify(tasks, shots=1).items == 2  # an item is no example of itself
    assert "has 1 item to draw examples from, and shots = 2 write `shots = 1`" in refusal(tasks, shots=2)
    yaml = tasks / "tasks" / "mine.yaml"
    yaml.write_text(
        YAML.replace("test: mine.jsonl", "test: mine.jsonl\n    train: mine.jsonl") + "fewshot_split: train\n"
    )
    assert "has 2 items to draw examples from, and shots = 3" in refusal(tasks, shots=3)
    yaml.write_text(YAML + "fewshot_config: {samples: [{q: 1}, {q: 2}, {q: 3}]}\n")
    assert identify(tasks, shots=3).items == 2
    (tasks / "test.jsonl").write_text('{"q": 1}\n')
    files = {"openbookqa": {"test": "test.jsonl", "fewshot": "test.jsonl"}}
    assert "has 1 item to draw examples from, and shots = 2" in refusal(
        tasks, "openbookqa", data=files, shots=2
    )


def test_a_main_metric_that_the_task_does_not_have(tasks: Path) -> None:
    yaml = tasks / "tasks" / "mine.yaml"
    yaml.write_text(YAML + "metric_list: [{metric: acc}, {metric: acc_norm}]\n")
    assert identify(tasks, main={"mine": "acc_norm"}).items == 2
    message = refusal(tasks, main={"mine": "f1"})
    assert "task `mine` has no metric `f1` it has `acc`, `acc_norm`" in message
    yaml.write_text(yaml.read_text() + "process_results: !function helpers.results\n")
    assert identify(tasks, main={"mine": "f1"}).items == 2  # the function tells


def test_data_files_that_are_missing_empty_or_malformed(tasks: Path) -> None:
    data = {"arc_easy": "arc.jsonl"}
    assert f"no data file `{tasks / 'arc.jsonl'}`" in refusal(tasks, "arc_easy", data=data)
    (tasks / "arc.jsonl").write_text("")
    assert "is empty" in refusal(tasks, "arc_easy", data=data)
    (tasks / "arc.jsonl").write_text('{"a": 1}\nno\n')
    assert "arc.jsonl:2` is no JSON" in refusal(tasks, "arc_easy", data=data)
    (tasks / "tasks" / "mine.jsonl").unlink()
    assert "no data file" in refusal(tasks)


def test_a_group_lists_its_tasks(tasks: Path) -> None:
    (tasks / "tasks" / "group.yaml").write_text("group: all_of_them\ntask:\n  - mine\n  - task: other\n")
    assert "`all_of_them` is a group, not a task its tasks are mine, other" in refusal(tasks, "all_of_them")


def test_a_tag_lists_its_tasks(tasks: Path) -> None:
    assert "`ai2_arc` is a tag, not a task its tasks are arc_challenge, arc_easy" in refusal(tasks, "ai2_arc")


def test_an_unknown_task_gets_a_suggestion(tasks: Path) -> None:
    assert "there is no task `hellaswaf` did you mean `hellaswag`?" in refusal(tasks, "hellaswaf")


def test_a_folder_that_does_not_exist(tasks: Path) -> None:
    with pytest.raises(StudyError, match="no folder of tasks"):
        identify_task("mine", Tasks(names=("mine",), include=("nowhere",)), tasks)


def test_a_definition_that_is_no_yaml(tasks: Path) -> None:
    (tasks / "tasks" / "mine.yaml").write_text("task: mine\nbroken: [\n")
    assert "is no YAML" in refusal(tasks)


def test_an_include_that_is_missing_or_goes_round(tasks: Path) -> None:
    path = tasks / "tasks" / "mine.yaml"
    path.write_text("task: mine\ninclude: none.yaml\n")
    assert "includes `none.yaml`, which does not exist" in refusal(tasks)
    path.write_text("task: mine\ninclude: mine.yaml\n")
    assert "includes itself" in refusal(tasks)


def test_without_lm_eval_a_plan_still_works(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studyctl.sources.task_index.importlib.util.find_spec", lambda name: None)
    identity = identify(tasks, "arc_easy")
    assert identity.key is None
    assert "not installed" in identity.unknown


@pytest.mark.parametrize("value", ["arc", '"arc"', "'arc'", "arc  # why", "[arc]"])
def test_names_and_tags_are_read_as_yaml_does(tmp_path: Path, value: str) -> None:
    (tmp_path / "a.yaml").write_text(f"tag: {value}\ntask: name\n")
    (tmp_path / "b.yaml").write_text("tag:\n  - arc\n  - other\ntask: second\n")
    (tmp_path / "c.yaml").write_text("include: a.yaml\ntask: third\n")
    index = scan(tmp_path)
    assert index.tags == {"arc": ["name", "second", "third"], "other": ["second"]}
    assert index.tasks == {"name": "a.yaml", "second": "b.yaml", "third": "c.yaml"}


@pytest.mark.slow
def test_the_index_finds_what_lm_eval_finds() -> None:
    from lm_eval.tasks._index import Kind, TaskIndex

    root = lm_eval_tasks()
    assert root is not None
    theirs = TaskIndex.build([root])
    index = scan(root)
    tasks = {name: str(entry.yaml_path) for name, entry in theirs.items() if entry.kind is Kind.TASK}
    assert {name: str(root / path) for name, path in index.tasks.items()} == tasks
    assert set(index.groups) == {name for name, entry in theirs.items() if entry.kind is Kind.GROUP}


def test_functions_run_code(tasks: Path) -> None:
    assert identify(tasks).code == (f"`helpers.question` of {tasks / 'tasks' / 'helpers.py'}",)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("process_docs: !function os.system", "`os.system` of an installed package"),
        ("metric_list: [{metric: acc}, {metric: ./scores}]", "metric `./scores` of the package `evaluate`"),
        ("metric_list: [{metric: f1, hf_evaluate: true}]", "metric `f1` of the package `evaluate`"),
        ("? !function a.b\n: 1", "`a.b` of an installed package"),
        ("process_docs: !function a.b\nprocess_docs: null", "`a.b` of an installed package"),
    ],
)
def test_so_do_installed_ones_metrics_of_others_and_what_is_overridden(
    tasks: Path, line: str, code: str
) -> None:
    path = tasks / "tasks" / "mine.yaml"
    path.write_text(YAML.replace("doc_to_text: !function helpers.question", line))
    (listed,) = identify(tasks).code
    assert listed.startswith(code)


def test_a_function_that_an_including_file_overrides_is_imported_all_the_same(tasks: Path) -> None:
    (tasks / "tasks" / "base.yaml").write_text("doc_to_target: !function helpers.answer\n")
    path = tasks / "tasks" / "mine.yaml"
    path.write_text(path.read_text() + "include: base.yaml\ndoc_to_target: q\n")
    (listed,) = identify(tasks).code
    assert listed.startswith("`helpers.question`, `helpers.answer` of ")


def test_what_lm_eval_brings_along_is_not_listed(tmp_path: Path) -> None:
    data = tmp_path / "items.jsonl"
    data.write_text('{"question": "why"}\n')
    tasks = Tasks(names=("winogrande",), data={"winogrande": "items.jsonl"})
    winogrande = identify_task("winogrande", tasks, tmp_path)
    assert any(file.path.suffix == ".py" for file in winogrande.files)
    assert winogrande.code == ()


def test_lm_evals_own_metrics_are_all_there() -> None:
    from lm_eval.api import metrics  # registers them
    from lm_eval.api.registry import metric_registry

    assert metrics
    assert lm_eval_metrics() == set(metric_registry)


def test_aliases_that_would_make_billions_of_choices_cost_no_time(tasks: Path) -> None:
    path = tasks / "tasks" / "mine.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    path.write_text(
        path.read_text() + "\n".join([*lines, "doc_to_choice: *a11", "round: &round [*round]", ""])
    )
    assert identify(tasks).items == 2

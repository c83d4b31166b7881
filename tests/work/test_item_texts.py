"""A worker keeps the texts of a task's items once a study; whatever happens to them, no result is lost."""

import errno
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from studyctl.contract.records import AnyRecord, Items, StepFailed, Warned
from studyctl.files import StudyPaths
from studyctl.journal.files import read_journal
from studyctl.plan.planner import StudyPlan, make_plan
from studyctl.spec.loading import load_spec
from studyctl.store.publish import publish
from studyctl.store.query import run_sql
from tests.run.studies import make_model, write_spec
from tests.run.test_changed_content import Runner

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def planned(workplace: Path) -> Callable[..., StudyPlan]:
    """Return what plans the study with tasks only, and with one text of its spec replaced by another."""

    def plan(*change: str) -> StudyPlan:
        spec = write_spec(workplace)
        text = spec.read_text()
        begin, end = text.index("[evaluation.perplexity]"), text.index("[evaluation.tasks]")
        text = text[:begin] + text[end:]
        if change:
            assert change[0] in text
            text = text.replace(*change)
        spec.write_text(text)
        made = make_plan(load_spec(spec))
        made.raise_errors()
        return made

    return plan


def score(workplace: Path, plan: StudyPlan, *variants: str) -> StudyPaths:
    runner = Runner(workplace, plan)
    runner.run(*variants)
    return runner.paths


def records(paths: StudyPaths, kind: type[AnyRecord]) -> list[Any]:
    every = (record for path in sorted(paths.journal.glob("*.jsonl")) for record in read_journal(path))
    return [record for record in every if isinstance(record, kind)]


def kept(paths: StudyPaths) -> list[Path]:
    return sorted(paths.items.glob("*"))


def test_all_trials_name_the_file_that_the_first_has_written(
    workplace: Path, planned: Callable[..., StudyPlan]
) -> None:
    plan = planned()
    paths = score(workplace, plan, "dense", "rtn-4bit-g16")
    (file,) = kept(paths)
    (step,) = plan.models[0].steps
    assert file.name == f"{step.key}.parquet"
    assert [record.texts for record in records(paths, Items)] == [file.name] * 2
    assert pq.read_table(file).slice(3, 1).to_pylist() == [
        {"item": 3, "prompt": "where is boat 3\nAnswer:", "choices": ["at sea", "in the harbour"], "target": None}
    ]  # fmt: skip
    publish(paths)
    flips = "select prompt, choices[gold + 1] = right_answer as ok, dense_answer = answer as same from flips"
    rows = run_sql(paths, flips).to_pylist()
    assert all(row["ok"] and not row["same"] and "where is boat" in row["prompt"] for row in rows)


def test_models_share_the_texts_unless_a_chat_template_makes_them_their_own(
    workplace: Path, planned: Callable[..., StudyPlan]
) -> None:
    make_model(workplace / "other", seed=1)
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    for name in ("tiny", "other"):
        (workplace / name / "chat_template.jinja").write_text(template)
    for chat, files in (("", 1), ("chat_template = true", 2)):
        both = f'[[models]]\nid = "./other"\ndtype = "float32"\n{chat}\n[[models]]\nid = "./tiny"\n{chat}'
        plan = planned('[[models]]\nid = "./tiny"', both)
        for model in plan.models:
            own = [trial for trial in plan.trials if trial.model is model]
            paths = score(workplace, replace(plan, trials=own), "dense")
        assert len(kept(paths)) == files
        publish(paths)
        assert run_sql(paths, "select count(*) as n from item_texts").to_pylist() == [{"n": 12 * files}]
        shutil.rmtree(paths.root)


def test_a_full_disk_is_a_warning_and_the_next_trial_tries_again(
    workplace: Path, planned: Callable[..., StudyPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Path:
        raise FULL

    plan = planned()
    with monkeypatch.context() as patch:
        patch.setattr("studyctl.work.engine.keep_texts", full)
        paths = score(workplace, plan, "dense")
    assert records(paths, StepFailed) == []
    (warning,) = records(paths, Warned)
    assert warning.message == (
        "the texts of the items cannot be kept (No space left on device): results are complete, but flips are numbers only"
    )
    assert [record.texts for record in records(paths, Items)] == [""]
    score(workplace, plan, "rtn-4bit-g16")
    publish(paths)
    named = "select count(*) as n from steps where kind = 'task' and texts_key is not null and state = 'done'"
    assert run_sql(paths, named).to_pylist() == [{"n": 2}], "dense answered the same prompts"


def test_a_study_may_keep_none(workplace: Path, planned: Callable[..., StudyPlan]) -> None:
    ask = 'names = ["boats"]'
    plan = planned(ask, f"{ask}\nkeep_texts = false")
    paths = score(workplace, plan, "dense")
    assert not paths.items.exists()
    (part,) = paths.journal.glob("*.parquet")
    assert "answer" not in pq.read_schema(part).names
    publish(paths)
    assert run_sql(paths, "from item_texts").num_rows == 0
    assert run_sql(paths, "select count(*) as n from items").to_pylist() == [{"n": 12}]
    keys = [[step.key for step in one.models[0].steps] for one in (plan, planned())]
    assert keys[0] == keys[1], "it changes no result, so nothing runs again"

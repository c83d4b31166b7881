"""Prefetching: everything is tried, and what failed is reported together."""

import json
from pathlib import Path
from typing import Any

import pytest

from studyctl.contract.identity import ModelIdentity
from studyctl.contract.methods import Checkpoint
from studyctl.errors import StudyError
from studyctl.files import cache_folder
from studyctl.plan import planner
from studyctl.plan.planner import make_plan
from studyctl.sources import hub
from studyctl.sources.texts import Documents
from studyctl.spec.loading import load_spec
from studyctl.work.prefetch import prefetch
from tests.compress.tiny import Listener
from tests.sources.test_loading import model_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SPEC = """
[study]
name = "s"

[[models]]
id = "tiny"

[calibration]
source = "c4"
languages = ["sw"]
samples = 2
sequence_length = 16

[[compression]]
method = "wanda"
sparsity = 0.5

[text.c4]
dataset = "org/text"

[evaluation.perplexity]
source = "c4"
languages = ["en"]
sequence_length = 16
windows = 4

[evaluation.tasks]
names = ["mine"]
include = ["tasks"]
"""
TASK = """
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: mine.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_choice: ["a", "b"]
doc_to_target: label
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    hub.forget()
    model_folder(tmp_path / "tiny")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text(TASK)
    (tmp_path / "tasks" / "mine.jsonl").write_text(json.dumps({"q": "?", "label": 0}) + "\n")
    (tmp_path / "spec.toml").write_text(SPEC)
    return tmp_path


def fetch(base: Path) -> Listener:
    listener = Listener()
    prefetch(make_plan(load_spec(base / "spec.toml")), listener)
    return listener


def test_local_files_need_nothing(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDYCTL_CACHE", str(tmp_path / "cache"))
    spec = SPEC.replace('dataset = "org/text"', 'files = "{language}.txt"')
    (base / "spec.toml").write_text(spec)
    for language in ("en", "sw"):
        (base / f"{language}.txt").write_text("text " * 100)
    listener = fetch(base)
    assert listener.done[-1][:2] == (4, 4), "a model, two texts, a task"
    assert not (cache_folder() / "tokens").exists()


def test_datasets_are_taken_as_far_as_every_step_needs(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "resolve", lambda *_: hub.Resolved(COMMIT, ()))
    monkeypatch.setattr("studyctl.sources.texts._stream", lambda text, skip: iter(["some text of it"] * 1000))
    asked: list[tuple[str, str, str]] = []
    first = Documents.first

    def spy(documents: Any, count: int) -> list[str]:
        asked.append((documents._text.purpose, documents._text.language, documents._text.commit))
        return first(documents, count)

    monkeypatch.setattr(Documents, "first", spy)
    fetch(base)
    assert set(asked) == {("perplexity", "en", COMMIT), ("calibration", "sw", COMMIT)}


def test_all_failures_are_raised_together(base: Path) -> None:
    (base / "tasks" / "mine.jsonl").unlink()
    (base / "tiny" / "model.safetensors").unlink()
    with pytest.raises(StudyError) as caught:
        fetch(base)
    problems = [problem.what for problem in caught.value.problems]
    assert len(problems) == 4
    assert "has no weights" in problems[0]
    assert "could not look up text `c4` in sw" in problems[1]
    assert "could not look up text `c4` in en" in problems[2]
    assert "no data file" in problems[3]


CHECKPOINTS = """
[[compression]]
method = "checkpoint"
id = ["packed", "org/name-4bit", "./gone"]
of = "tiny"

[[compression]]
method = "checkpoint"
id = "./another"
of = "not/here"

[text.c4]"""


def test_checkpoints_of_the_models_are_fetched(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_folder(base / "packed")
    (base / "packed" / "tokenizer.json").unlink()
    (base / "spec.toml").write_text(SPEC.replace("[text.c4]", CHECKPOINTS))
    on_hub = ModelIdentity("org/name-4bit", "hub", "key", commit=COMMIT)
    identify = planner.identify_checkpoint

    def look_up(settings: Checkpoint, folder: Path) -> ModelIdentity:
        return on_hub if settings.id == on_hub.id else identify(settings, folder)

    downloaded: list[tuple[str, str]] = []

    def download(repo: str, commit: str, *, allow_pickle: bool) -> Path:
        downloaded.append((repo, commit))
        return base / "tiny"

    monkeypatch.setattr(planner, "identify_checkpoint", look_up)
    monkeypatch.setattr(hub, "download_model", download)
    with pytest.raises(StudyError) as caught:
        fetch(base)
    assert downloaded == [("org/name-4bit", COMMIT)]
    problems = [problem.what for problem in caught.value.problems if "could not look up" not in problem.what]
    assert problems[-1] == f"model folder `{base / 'gone'}` does not exist", (
        "one that is left out is not asked for"
    )

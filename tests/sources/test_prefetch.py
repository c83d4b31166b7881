"""Prefetching: everything is tried, and what failed is said together."""

import json
from pathlib import Path
from typing import Any

import pytest

from studyctl.contract.identity import ModelIdentity
from studyctl.contract.methods import Checkpoint
from studyctl.errors import StudyError
from studyctl.sources import hub
from studyctl.sources import prefetch as prefetching
from studyctl.sources.prefetch import prefetch
from studyctl.sources.texts import Documents
from studyctl.spec.loading import load_spec
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
def base(tmp_path: Path, own_cache: Path) -> Path:
    model_folder(tmp_path / "tiny")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text(TASK)
    (tmp_path / "tasks" / "mine.jsonl").write_text(json.dumps({"q": "?", "label": 0}) + "\n")
    (tmp_path / "spec.toml").write_text(SPEC)
    return tmp_path


def fetch(base: Path) -> Listener:
    listener = Listener()
    prefetch(load_spec(base / "spec.toml"), listener)
    return listener


def test_local_files_need_nothing(base: Path, own_cache: Path) -> None:
    spec = SPEC.replace('dataset = "org/text"', 'files = "{language}.txt"')
    (base / "spec.toml").write_text(spec)
    for language in ("en", "sw"):
        (base / f"{language}.txt").write_text("text " * 100)
    listener = fetch(base)
    assert listener.done[-1][:2] == (4, 4), "a model, two texts, a task"
    assert not (own_cache / "tokens").exists()


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
    said = [problem.what for problem in caught.value.problems]
    assert len(said) == 4
    assert "has no weights" in said[0]
    assert "text `c4` in en could not be looked up" in said[1]
    assert "text `c4` in sw could not be looked up" in said[2]
    assert "no data file" in said[3]


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
    known: Any = ModelIdentity("org/name-4bit", "hub", "key", commit=COMMIT)
    identify = prefetching.identify_checkpoint

    def look_up(settings: Checkpoint, folder: Path) -> ModelIdentity:
        return known if settings.id == known.id else identify(settings, folder)

    downloaded: list[tuple[str, str]] = []

    def download(repo: str, commit: str, *, allow_pickle: bool) -> Path:
        downloaded.append((repo, commit))
        return base / "tiny"

    monkeypatch.setattr(prefetching, "identify_checkpoint", look_up)
    monkeypatch.setattr(hub, "download_model", download)
    with pytest.raises(StudyError) as caught:
        fetch(base)
    assert downloaded == [("org/name-4bit", COMMIT)]
    said = [problem.what for problem in caught.value.problems if "could not be looked up" not in problem.what]
    assert said == [f"model folder `{base / 'gone'}` does not exist"], "one that is left out is not asked for"

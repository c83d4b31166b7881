"""Whatever would fail after hours is found when planning, at its place."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from studyctl.errors import Problem
from studyctl.plan.planner import StudyPlan, make_plan
from studyctl.spec.loading import load_spec
from tests.run.studies import write_spec


@pytest.fixture
def folder(sources: Path, tmp_path: Path) -> Path:
    shutil.copytree(sources, tmp_path, dirs_exist_ok=True)
    return tmp_path


def planned(folder: Path, *changes: tuple[str, str]) -> StudyPlan:
    spec = write_spec(folder)
    text = spec.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    spec.write_text(text)
    return make_plan(load_spec(spec))


def underlined(problem: Problem) -> str:
    assert problem.file is not None
    assert problem.line is not None
    assert problem.column is not None
    line = problem.file.read_text().splitlines()[problem.line - 1]
    return line[problem.column - 1 :][: problem.length]


def test_a_good_spec_has_no_problems(folder: Path) -> None:
    plan = planned(folder)
    assert plan.problems == []
    assert [trial.id for trial in plan.trials] == ["tiny-dense", "tiny-wanda-0.5", "tiny-rtn-4bit-g16"]
    assert all(trial.weights_key for trial in plan.trials)


@pytest.mark.parametrize(
    ("change", "what", "place"),
    [
        (("group_size = 16", "group_size = 48"), "group_size 48 does not divide the input of 14 linears (in = 32, 64)", "48"),
        (("sparsity = 0.5", 'pattern = "3:5"'), "pattern 3:5 does not divide the input of 14 linears (in = 32, 64)", '"3:5"'),
        (('id = "./tiny"', 'id = "./tinny"'), "tinny` does not exist", '"./tinny"'),
        (("samples = 4", "samples = 4000"), "not enough calibration text: 4000 windows of 32 tokens wanted in en", "4000"),
        (("sequence_length = 32\nwindows", "sequence_length = 512\nwindows"), "sequence length 512 is over the maximum of tiny, 128", "512"),
        (('["en", "de"]', '["en", "fr"]'), "text source `mine` has no perplexity text for language `fr`", '"fr"'),
        (('names = ["boats"]', 'names = ["boasts"]'), "there is no task `boasts`", '"boasts"'),
        (('include = ["tasks"]', 'include = ["taks"]'), "there is no folder `taks`", '"taks"'),
        (('devices = "cpu"', 'devices = "cuda:7"'), "device `cuda:7` is not on this machine", '"cuda:7"'),
    ],
)  # fmt: skip
def test_a_problem_is_told_at_its_place(folder: Path, change: tuple[str, str], what: str, place: str) -> None:
    (problem,) = planned(folder, change).errors
    assert what in problem.what
    assert underlined(problem) == place


def test_all_problems_are_told_at_once(folder: Path) -> None:
    plan = planned(
        folder, ("group_size = 16", "group_size = 48"), ('["boats"]', '["boasts"]'), ('"de"]', '"fr"]')
    )
    assert len(plan.errors) == 3


def test_token_ids_are_checked(folder: Path) -> None:
    np.save(folder / "tiny-ids.npy", np.full((2, 16), 400, np.int32))
    ids = 'ids = "{model}-ids.npy"\nsource = "mine"'
    (problem,) = planned(folder, ('source = "mine"\nlanguages = ["en"]', ids)).errors
    assert "holds the token id 400, but the vocabulary has 320" in problem.what


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "is not a decoder"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "is not a decoder"),
    ],
)
def test_what_is_no_decoder_is_refused(folder: Path, config: dict[str, object], what: str) -> None:
    path = folder / "tiny" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    (problem,) = planned(folder).errors
    assert what in problem.what


def test_a_checkpoint_that_was_cut_short_is_refused(folder: Path) -> None:
    path = folder / "tiny" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    (problem,) = planned(folder).errors
    assert "is cut short" in problem.what


def test_a_text_that_is_too_short_for_a_window(folder: Path) -> None:
    (folder / "text" / "de" / "test.jsonl").write_text('{"text": "kurz"}\n')
    (problem,) = planned(folder).errors
    assert problem.what == "text `mine` in de is too short for a window of 32 tokens: 4 bytes"

"""Whatever would fail after hours is found when planning, at its place."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from studyctl.contract.identity import FileIdentity
from studyctl.contract.steps import ALL_WINDOWS, Step
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
def test_a_problem_is_reported_at_its_place(
    folder: Path, change: tuple[str, str], what: str, place: str
) -> None:
    (problem,) = planned(folder, change).errors
    assert what in problem.what
    assert underlined(problem) == place


def test_all_problems_are_reported_at_once(folder: Path) -> None:
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


def steps(plan: StudyPlan) -> dict[str, Step]:
    return {str(step): step for step in plan.models[0].steps}


class TestWindows:
    def test_more_of_them_keep_the_key(self, folder: Path) -> None:
        few, more, all_of_it = (
            steps(planned(folder, ("windows = 4", f"windows = {count}"))) for count in (4, 12, 0)
        )
        assert few["perplexity:en"].windows == (0, 4)
        assert more["perplexity:en"].windows == (0, 12)
        assert all_of_it["perplexity:en"].windows == (0, ALL_WINDOWS)
        assert few["perplexity:en"].key == more["perplexity:en"].key == all_of_it["perplexity:en"].key
        assert few["task:boats"] == more["task:boats"]

    def test_of_another_length_are_others(self, folder: Path) -> None:
        one = steps(planned(folder))
        other = steps(planned(folder, ("sequence_length = 32\nwindows", "sequence_length = 16\nwindows")))
        assert one["perplexity:en"].key != other["perplexity:en"].key
        assert one["perplexity:en"].key != one["perplexity:de"].key


def test_another_main_metric_runs_its_task_again(folder: Path) -> None:
    data = ("[execution]", '[evaluation.tasks.main]\nboats = "acc"\n\n[execution]')
    one, other = steps(planned(folder)), steps(planned(folder, data))
    assert one["task:boats"].key != other["task:boats"].key
    assert one["perplexity:en"] == other["perplexity:en"]


def test_what_was_found_is_what_the_workers_are_handed(folder: Path) -> None:
    plan = planned(folder)
    text = folder / "text" / "en" / "test.jsonl"
    identity = plan.texts["mine", "perplexity", "en"]
    assert identity.file == FileIdentity(text, hashlib.sha256(text.read_bytes()).hexdigest())
    (calibration,) = plan.models[0].calibrations.values()
    assert calibration is not None
    assert (calibration.samples, calibration.sequence_length, calibration.ids) == (4, 32, None)
    assert calibration.texts == (plan.texts["mine", "calibration", "en"],)
    files = {file.path.name for file in plan.tasks["boats"].files}
    assert files == {"boats.yaml", "boats.jsonl"}


def test_token_ids_are_handed_over_with_their_content(folder: Path) -> None:
    path = folder / "tiny-ids.npy"
    np.save(path, np.full((2, 16), 300, np.int32))
    plan = planned(
        folder, ('source = "mine"\nlanguages = ["en"]', 'ids = "{model}-ids.npy"\nsource = "mine"')
    )
    (calibration,) = plan.models[0].calibrations.values()
    assert calibration is not None
    assert (calibration.samples, calibration.sequence_length, calibration.texts) == (2, 16, ())
    assert calibration.ids is not None
    assert calibration.ids.file == FileIdentity(path, hashlib.sha256(path.read_bytes()).hexdigest())


def test_blocks_that_share_weights_take_only_methods_without_data(folder: Path) -> None:
    config = json.loads((folder / "tiny" / "config.json").read_text())
    (folder / "tiny" / "config.json").write_text(json.dumps(config | {"model_type": "zamba2"}))
    (problem,) = planned(folder).errors
    assert problem.what == (
        "blocks of the family zamba2 share weights, so wanda cannot compress them one after the other"
    )
    assert planned(folder, ('method = "wanda"', 'method = "magnitude"')).errors == []


def test_weights_that_no_method_can_compress_are_named(folder: Path) -> None:
    path = folder / "tiny" / "model.safetensors"
    state = load_file(path)
    save_file(state | {"model.layers.1.mlp.mixing": torch.ones(4, 64, 64)}, path, {"format": "pt"})
    (problem,) = planned(folder).errors
    assert problem.what == "47% of the weights of the blocks of tiny are in no linear that can be compressed"
    assert (problem.note, underlined(problem)) == ("model.layers.1.mlp.mixing", '"./tiny"')


def test_another_package_does_not_get_experts(folder: Path) -> None:
    path = folder / "tiny" / "model.safetensors"
    state = load_file(path)
    experts = {
        f"model.layers.{block}.mlp.experts.{part}": torch.ones(4, 64, 64)
        for block in (0, 1)
        for part in ("gate_up_proj", "down_proj")
    }
    save_file(state | experts, path, {"format": "pt"})
    other = ('method = "rtn"', 'method = "gptq"\nbackend = "gptqmodel"')
    assert planned(folder).errors == []
    (problem,) = planned(folder, other).errors
    assert problem.what == (
        "backend `gptqmodel` compresses modules of the class Linear only, and tiny has others"
    )

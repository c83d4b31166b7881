"""Published checkpoints are looked up when planning, and compared with their model."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from studyctl.contract.methods import Checkpoint
from studyctl.contract.plan import write_plan
from studyctl.errors import Problem, ProblemCode
from studyctl.export.gguf.file import write_gguf
from studyctl.files import StudyPaths
from studyctl.plan.estimate import peak_bytes
from studyctl.plan.planner import StudyPlan, make_plan
from studyctl.plan.saved import planned as planned_form
from studyctl.plan.trials import Trial
from studyctl.reporter import SilentReporter
from studyctl.sources.model_files import identify_model
from studyctl.sources.models import load_model
from studyctl.spec.loading import load_spec
from studyctl.spec.models import Model
from tests.plan.test_planner import underlined
from tests.run.studies import write_spec
from tests.sources.packed import change_config

TABLE = """
[[compression]]
method = "checkpoint"
id = {ids}
of = "./tiny"

[text.mine]"""


@pytest.fixture
def folder(sources: Path, tmp_path: Path) -> Path:
    """Sources, and a checkpoint that is a copy of the model."""
    shutil.copytree(sources, tmp_path, dirs_exist_ok=True)
    shutil.copytree(tmp_path / "tiny", tmp_path / "theirs" / "tiny-4bit")
    return tmp_path


def planned(folder: Path, *ids: str, change: tuple[str, str] = ("", "")) -> StudyPlan:
    named = json.dumps(list(ids) or ["theirs/tiny-4bit"])
    spec = write_spec(folder, change=("[text.mine]", TABLE.format(ids=named)))
    spec.write_text(spec.read_text().replace(*change))
    return make_plan(load_spec(spec))


def rewrite(folder: Path, change: Callable[[str, Any], tuple[str, Any]]) -> None:
    """Change the names and values of a folder's tensors."""
    tensors = dict(change(name, value) for name, value in load_file(folder / "model.safetensors").items())
    save_file(tensors, folder / "model.safetensors")


def pack(folder: Path, part: str) -> None:
    """Store linears as integers under another name, as packed formats do."""

    def packed(name: str, value: Any) -> tuple[str, Any]:
        return (name.replace("weight", part), value.astype(np.int32)) if "_proj" in name else (name, value)

    rewrite(folder, packed)


def checkpoint_trial(plan: StudyPlan) -> Trial:
    (trial,) = [trial for trial in plan.trials if trial.variant.method == "checkpoint"]
    return trial


def only_problem(plan: StudyPlan) -> Problem:
    (problem,) = plan.problems
    return problem


def test_a_checkpoint_is_a_variant_like_any_other(folder: Path) -> None:
    plan = planned(folder)
    trial = checkpoint_trial(plan)
    assert plan.problems == []
    assert plan.notes == []
    assert plan.is_available(trial.variant)
    assert trial.id == "tiny-checkpoint-tiny-4bit"
    assert [str(step) for step in trial.steps] == ["compress", "perplexity:en", "perplexity:de", "task:boats"]
    assert trial.weights_key is not None


def test_its_weights_are_named_by_its_files_and_its_models(folder: Path) -> None:
    key = checkpoint_trial(planned(folder)).weights_key
    assert checkpoint_trial(planned(folder)).weights_key == key
    for changed in ("theirs/tiny-4bit", "tiny"):
        change_config(folder / changed, note="changed")
        before, key = key, checkpoint_trial(planned(folder)).weights_key
        assert key != before
    others = [t.weights_key for t in planned(folder).trials if t.variant.method != "checkpoint"]
    change_config(folder / "theirs/tiny-4bit", note="changed again")
    assert [t.weights_key for t in planned(folder).trials if t.variant.method != "checkpoint"] == others


@pytest.mark.parametrize(
    ("quantization", "what", "hint"),
    [
        ({"quant_method": "gptq", "bits": 4}, "is stored in the format `gptq`, which needs gptqmodel and optimum", "pip install gptqmodel optimum"),
        ({"quant_method": "awq", "bits": 4}, "is stored in the format `awq`, which needs gptqmodel", "pip install gptqmodel"),
        ({"quant_method": "bitsandbytes"}, "is stored in the format `bitsandbytes`, which cannot be read", "plain weights, compressed-tensors, gptq and awq can be read"),
    ],
)  # fmt: skip
def test_a_format_that_cannot_be_read_is_an_error_where_it_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, quantization: dict[str, Any], what: str, hint: str
) -> None:
    missing = {"gptqmodel", "optimum"}
    monkeypatch.setattr(
        "studyctl.sources.checkpoints.find_spec", lambda name: None if name in missing else name
    )
    change_config(folder / "theirs/tiny-4bit", quantization_config=quantization)
    pack(folder / "theirs/tiny-4bit", "qweight")
    problem = only_problem(planned(folder))
    assert (problem.severity, problem.what) == ("error", f"`theirs/tiny-4bit` {what}")
    assert problem.hint == hint
    assert underlined(problem) == '"theirs/tiny-4bit"'


def test_each_of_a_list_has_its_own_place(folder: Path) -> None:
    shutil.copytree(folder / "tiny", folder / "pickle")
    (folder / "pickle" / "model.safetensors").rename(folder / "pickle" / "pytorch_model.bin")
    plan = planned(folder, "theirs/tiny-4bit", "./gone", "./pickle")
    assert [underlined(problem) for problem in plan.errors] == ['"./gone"', '"./pickle"']
    assert "gone` does not exist" in plan.errors[0].what
    assert "pickle only" in plan.errors[1].what


def test_a_checkpoint_that_cannot_be_looked_up_is_a_warning(folder: Path) -> None:
    plan = planned(folder, "org/tiny-4bit")
    problem = only_problem(plan)
    assert problem.severity == "warning"
    assert "could not look up checkpoint `org/tiny-4bit`: the hub is not asked" in problem.what
    assert problem.code is ProblemCode.NOT_LOOKED_UP
    assert checkpoint_trial(plan).weights_key is None


def test_another_vocabulary_cannot_be_compared_logit_by_logit(folder: Path) -> None:
    change_config(folder / "theirs/tiny-4bit", vocab_size=384)
    rewrite(
        folder / "theirs/tiny-4bit",
        lambda name, value: (name, np.zeros((384, 32), np.float32) if len(value) == 320 else value),
    )
    problem = only_problem(planned(folder))
    assert (problem.severity, problem.what) == (
        "error",
        "`theirs/tiny-4bit` has a vocabulary of 384, `./tiny` one of 320",
    )
    assert underlined(problem) == '"theirs/tiny-4bit"'
    without = planned(folder, change=("[evaluation.fidelity]", ""))
    assert only_problem(without).severity == "warning"


def test_windows_must_fit_the_checkpoint_too(folder: Path) -> None:
    change_config(folder / "theirs/tiny-4bit", max_position_embeddings=16)
    problem = only_problem(planned(folder))
    assert problem.what == "sequence length 32 is over the maximum of tiny-4bit, 16"


def test_what_the_figures_leave_out_is_a_warning(folder: Path) -> None:
    (folder / "theirs/tiny-4bit" / "tokenizer.json").unlink()
    groups = {"group_0": {"input_activations": {"num_bits": 8}}}
    change_config(
        folder / "theirs/tiny-4bit",
        quantization_config={
            "quant_method": "compressed-tensors",
            "quantization_status": "compressed",
            "config_groups": groups,
        },
    )
    pack(folder / "theirs/tiny-4bit", "weight_packed")
    plan = planned(folder)
    assert plan.errors == []
    assert [problem.what for problem in plan.problems] == [
        "`theirs/tiny-4bit` has no tokenizer: that of `./tiny` is used",
        "`theirs/tiny-4bit`: activations are quantized to 8 bits as well; only its weights are measured",
    ]


def test_of_must_be_a_model_of_the_study(folder: Path) -> None:
    plan = planned(folder, change=('of = "./tiny"', 'of = "./other"'))
    problem = only_problem(plan)
    assert problem.severity == "warning"
    assert problem.what == "`checkpoint-tiny-4bit` is left out: `./other` is not among the models"
    assert [trial.variant.name for trial in plan.trials] == ["dense", "wanda-0.5", "rtn-4bit-g16"]


def test_two_of_one_name_are_told_apart(folder: Path) -> None:
    shutil.copytree(folder / "theirs", folder / "others")
    plan = planned(folder, "theirs/tiny-4bit", "others/tiny-4bit")
    assert plan.problems == []
    one, other = [trial.variant.name for trial in plan.trials if trial.variant.method == "checkpoint"]
    assert one == "checkpoint-tiny-4bit"
    assert other.startswith("checkpoint-tiny-4bit-")
    twice = planned(folder, change=("[text.mine]", TABLE.format(ids='"theirs/tiny-4bit"')))
    assert [problem.what for problem in twice.errors] == ["variant `checkpoint-tiny-4bit` is asked for twice"]


def test_a_revision_is_named_unless_it_is_the_default(folder: Path) -> None:
    plan = planned(folder, change=('of = "./tiny"', 'of = "./tiny"\nrevision = "v2"'))
    assert checkpoint_trial(plan).variant.name == "checkpoint-tiny-4bit-revision:v2"


def test_its_size_is_unknown_until_it_is_measured(folder: Path) -> None:
    plan = planned(folder)
    paths = StudyPaths(folder / "runs" / "small")
    paths.root.mkdir(parents=True)
    write_plan(planned_form(plan, ""), paths)
    saved = {trial["method"]: trial for trial in json.loads(paths.plan.read_text())["trials"]}
    assert (saved["checkpoint"]["bits_per_weight"], saved["checkpoint"]["sparsity"]) == (None, None)
    assert saved["checkpoint"]["available"]
    assert saved["wanda"]["sparsity"] == 0.5


def test_its_files_count_in_the_estimate_of_memory(folder: Path) -> None:
    plan = planned(folder)
    trial = checkpoint_trial(plan)
    assert trial.checkpoint is not None
    settings, large = trial.variant.settings, replace(trial.checkpoint, weight_bytes=10 << 30)
    assert isinstance(settings, Checkpoint)
    model = replace(trial.model, checkpoints={settings: large})
    assert peak_bytes(plan, trial)[0] < 10 << 30 < peak_bytes(plan, trial._replace(model=model))[0]


# -- GGUF


@pytest.fixture
def file(folder: Path) -> Path:
    """The model as a GGUF file."""
    model = load_model(identify_model(Model(id="tiny"), folder), dtype="float32", device="cpu")
    write_gguf(
        model, None, folder / "theirs" / "x.gguf", name="tiny", embeddings=None, reporter=SilentReporter()
    )
    return folder / "theirs" / "x.gguf"


def test_a_gguf_file_is_a_checkpoint(folder: Path, file: Path) -> None:
    plan = planned(folder, "theirs/x.gguf")
    trial = checkpoint_trial(plan)
    assert plan.problems == []
    assert trial.id == "tiny-checkpoint-x"
    assert [str(step) for step in trial.steps] == ["compress", "perplexity:en", "perplexity:de", "task:boats"]
    paths = StudyPaths(folder / "runs" / "small")
    paths.root.mkdir(parents=True)
    write_plan(planned_form(plan, ""), paths)
    (saved,) = [
        trial for trial in json.loads(paths.plan.read_text())["trials"] if trial["method"] == "checkpoint"
    ]
    assert saved["stored_bytes"] == file.stat().st_size
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert checkpoint_trial(planned(folder, "theirs/x.gguf")).weights_key != trial.weights_key


def test_a_gguf_file_of_another_model_is_an_error_where_it_is_named(folder: Path, file: Path) -> None:
    shutil.copytree(folder / "tiny", folder / "other")
    change_config(folder / "tiny", intermediate_size=96)
    problem = only_problem(planned(folder, "theirs/x.gguf"))
    assert (problem.severity, problem.what) == (
        "error",
        "`theirs/x.gguf` has 64 units in the MLP, `./tiny` has 96",
    )
    assert underlined(problem) == '"theirs/x.gguf"'
    change_config(folder / "tiny", intermediate_size=64)
    path = folder / "tiny" / "tokenizer.json"
    path.write_text(path.read_text().replace('"boat"', '"coat"').replace('"Ġboat"', '"Ġcoat"'))
    problem = only_problem(planned(folder, "theirs/x.gguf"))
    assert "has another vocabulary than `./tiny`: token" in problem.what
    assert "boat' not" in problem.what.replace(",", "")


def test_a_damaged_gguf_file_is_an_error_where_it_is_named(folder: Path, file: Path) -> None:
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 100)
    problem = only_problem(planned(folder, "theirs/x.gguf"))
    assert "x.gguf` is cut short" in problem.what
    assert underlined(problem) == '"theirs/x.gguf"'


def test_a_gguf_file_as_a_model_says_how_to_measure_it(folder: Path, file: Path) -> None:
    problem = planned(folder, change=('id = "./tiny"\ndtype', 'id = "theirs/x.gguf"\ndtype')).errors[0]
    assert problem.what == "`theirs/x.gguf` is a GGUF file, not a model folder"
    assert underlined(problem) == '"theirs/x.gguf"'

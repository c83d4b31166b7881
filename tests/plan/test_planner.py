"""Whatever would fail after hours is found when planning, at its place."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

from studyctl.contract.identity import FileIdentity
from studyctl.contract.steps import ALL_WINDOWS, Step
from studyctl.errors import Problem
from studyctl.plan.planner import StudyPlan, make_plan
from studyctl.sources import hub
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


@pytest.mark.parametrize(
    ("written", "hint"),
    [("./tinny", "did you mean `./tiny`?"), ("./tinny/", "did you mean `./tiny`?"), ("./other", "models in `{folder}`: `tiny`"), ("./other/one", "`{folder}` has ")],
)  # fmt: skip
def test_a_model_that_is_missing_has_others_beside_it(folder: Path, written: str, hint: str) -> None:
    (problem,) = planned(folder, ('id = "./tiny"', f'id = "{written}"')).errors
    assert problem.hint.startswith(hint.replace("{folder}", str(folder)))


@pytest.mark.parametrize(
    ("reason", "what"),
    [
        ("the hub is not asked", "could not look up model `org/tiny`: the hub is not asked"),
        ("the hub did not answer for model `org/tiny` (refused)", "the hub did not answer for model `org/tiny` (refused)"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_looked_up_is_named_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, reason: str, what: str
) -> None:
    def unreachable(*_: str) -> None:
        raise hub.HubUnreachable(reason)

    monkeypatch.setattr(hub, "resolve", unreachable)
    (problem,) = planned(folder, ('id = "./tiny"', 'id = "org/tiny"')).problems
    assert (problem.what, problem.severity) == (what, "warning")


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


class TestCalibrationTokens:
    """Twice the inputs of the widest linear, 64, are 128 tokens: four samples of 32."""

    FEW = ("samples = 4\n", "samples = 3\n")

    @pytest.mark.parametrize(
        "method",
        ['"sparsegpt"\nsparsity = 0.5', '"gptq"\ngroup_size = 16', '["wanda", "gptq"]\nsparsity = 0.5\ngroup_size = 16'],
    )  # fmt: skip
    def test_fewer_are_a_warning_for_methods_that_invert_hessians(self, folder: Path, method: str) -> None:
        inverts = ('"wanda"\nsparsity = 0.5', method)
        assert planned(folder, inverts).problems == []
        (problem,) = planned(folder, inverts, self.FEW).problems
        assert problem.severity == "warning"
        assert problem.what == (
            "tiny: 96 calibration tokens for linears with up to 64 inputs, fewer than twice as many: "
            "their Hessians are singular or nearly so, and damping decides much of the result"
        )
        assert problem.hint == "4 samples of 32 tokens would do"
        assert underlined(problem) == "3"

    def test_they_suffice_for_methods_that_do_not(self, folder: Path) -> None:
        awq = ('"rtn"\nbits = 4\n', '"awq"\nbits = 4\n')
        assert planned(folder, awq, self.FEW).problems == []

    def test_a_sweep_is_warned_once_and_where_it_overrides_the_calibration(self, folder: Path) -> None:
        sweep = (
            '"wanda"\nsparsity = 0.5',
            '"sparsegpt"\nsparsity = [0.3, 0.5]\ncalibration = [{}, { samples = 2 }]',
        )
        (problem,) = planned(folder, sweep).problems
        assert "tiny: 64 calibration tokens" in problem.what
        assert problem.line is not None
        assert "samples = 2" in (folder / "small.toml").read_text().splitlines()[problem.line - 1]

    def test_token_ids_are_counted_too(self, folder: Path) -> None:
        np.save(folder / "tiny-ids.npy", np.full((2, 16), 300, np.int32))
        ids = ('source = "mine"\nlanguages = ["en"]', 'ids = "{model}-ids.npy"\nsource = "mine"')
        inverts = ('"wanda"\nsparsity = 0.5', '"sparsegpt"\nsparsity = 0.5')
        (problem,) = planned(folder, ids, inverts).problems
        assert "tiny: 32 calibration tokens for linears with up to 64 inputs" in problem.what
        assert problem.hint == "8 samples of 16 tokens would do"
        assert underlined(problem) == '"{model}-ids.npy"'


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
    assert identity.files == (FileIdentity(text, hashlib.sha256(text.read_bytes()).hexdigest()),)
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


def test_what_runs_code_is_listed(folder: Path) -> None:
    assert planned(folder).code == []
    definition = folder / "tasks" / "boats.yaml"
    definition.write_text(
        definition.read_text().replace('"{{question}}\\nAnswer:"', "!function helpers.text")
    )
    (folder / "tasks" / "helpers.py").write_text("raise ImportError('never import this')")
    listed = planned(
        folder,
        ('dtype = "float32"', 'dtype = "float32"\nallow_pickle = true'),
        ("group_size = 16", 'group_size = 16\nbackend = ["studyctl", "gptqmodel"]'),
        ('devices = "cpu"', 'devices = "cpu"\non_finish = "mail me"'),
    ).code
    assert listed == [
        "on_finish, at the end: mail me",
        f"task `boats`: `helpers.text` of {folder / 'tasks' / 'helpers.py'}",
        "model `./tiny`: its weights, if they are pickled",
        "backend `gptqmodel`: that package, in an environment of its own",
    ]


class TestPackedModels:
    """Weights that are quantized already are no dense model; how they can be measured depends on their format."""

    def refused(self, folder: Path, parts: dict[str, str], method: str | None) -> Problem:
        path = folder / "tiny" / "model.safetensors"
        tensors = {name: value for name, value in load_file(path).items() if "up_proj" not in name}
        for part, dtype in parts.items():
            tensors[f"model.layers.0.mlp.up_proj.{part}"] = np.zeros((4, 4), dtype)
        save_file(tensors, path)
        if method is not None:
            config = folder / "tiny" / "config.json"
            settings = {"quantization_config": {"quant_method": method}}
            config.write_text(json.dumps(json.loads(config.read_text()) | settings))
        (problem,) = planned(folder).problems
        assert problem.severity == "error"
        assert underlined(problem) == '"./tiny"'
        return problem

    @pytest.mark.parametrize("method", ["gptq", None])
    def test_a_format_that_can_be_unpacked_is_measured_as_a_checkpoint(
        self, folder: Path, method: str | None
    ) -> None:
        problem = self.refused(folder, {"qweight": "int32", "g_idx": "int32"}, method)
        assert "`./tiny` are quantized already (gptq)" in problem.what
        assert '`method = "checkpoint"`, `id = "./tiny"` and `of`' in problem.hint

    def test_one_that_transformers_unpacks_can_be_copied(self, folder: Path) -> None:
        problem = self.refused(folder, {"down_proj_blocks": "uint8", "down_proj_scales": "uint8"}, "mxfp4")
        assert "quantized already (mxfp4)" in problem.what
        assert "`dequantize=True` in transformers' Mxfp4Config" in problem.hint
        assert "save_original_format=False" in problem.hint

    def test_another_needs_the_model_that_it_was_made_from(self, folder: Path) -> None:
        problem = self.refused(folder, {"weight": "uint8", "weight.absmax": "float32"}, "bitsandbytes")
        assert "quantized already (bitsandbytes)" in problem.what
        assert problem.hint.startswith("name the model that it was made from")


def test_what_files_leave_open_is_a_warning(folder: Path) -> None:
    path = folder / "tiny" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": 320, "content": "<new>"})
    path.write_text(json.dumps(tokenizer))
    (problem,) = planned(folder).problems
    assert problem.severity == "warning"
    assert "has ids up to 320 (`<new>`), its embedding 320 rows" in problem.what
    assert underlined(problem) == '"./tiny"'


class TestTooFewTokens:
    """A text with enough bytes may have too few tokens."""

    def tokens(self, folder: Path, file: str) -> int:
        rows = [json.loads(line)["text"] for line in (folder / "text" / file).read_text().splitlines()]
        tokenizer = AutoTokenizer.from_pretrained(folder / "tiny")
        return len(tokenizer("\n".join(rows), add_special_tokens=False).input_ids)

    def test_a_count_that_is_far_too_small_is_an_error(self, folder: Path) -> None:
        tokens = self.tokens(folder, "en/train.jsonl")
        samples = tokens // 32 * 5 // 4
        (problem,) = planned(folder, ("samples = 4", f"samples = {samples}")).problems
        assert problem.severity == "error"
        assert problem.what == (
            f"not enough calibration text: {samples} windows of 32 tokens wanted in en, `mine` has {tokens:,} tokens"
        )
        assert underlined(problem) == str(samples)

    def test_one_that_is_a_little_too_small_is_a_warning(self, folder: Path) -> None:
        samples = self.tokens(folder, "en/train.jsonl") // 32 + 1
        (problem,) = planned(folder, ("samples = 4", f"samples = {samples}")).problems
        assert problem.severity == "warning"

    def test_of_a_long_text_only_the_beginning_is_counted(self, folder: Path) -> None:
        path = folder / "text" / "en" / "train.jsonl"
        path.write_text(path.read_text() * 60)
        tokens = self.tokens(folder, "en/train.jsonl")
        assert planned(folder, ("samples = 4", f"samples = {tokens * 9 // 10 // 32}")).problems == []
        samples = tokens * 2 // 32
        (problem,) = planned(folder, ("samples = 4", f"samples = {samples}")).problems
        assert problem.severity == "warning"
        counted = int(problem.what.partition(" has about ")[2].split()[0].replace(",", ""))
        assert counted == pytest.approx(tokens, rel=0.02)

    def test_a_text_that_fills_no_window(self, folder: Path) -> None:
        (folder / "text" / "de" / "test.jsonl").write_text('{"text": "das kleine Boot verliess den Hafen"}\n')
        (problem,) = planned(folder).errors
        assert problem.what == (
            f"text `mine` in de is too short for a window of 32 tokens: {self.tokens(folder, 'de/test.jsonl')} tokens"
        )


class TestWindowsOfAText:
    """Each language has 30 lines, of some 20 tokens."""

    def test_fewer_than_are_asked_for_are_a_warning(self, folder: Path) -> None:
        for problem, language in zip(
            planned(folder, ("windows = 4", "windows = 4000")).problems, ("en", "de"), strict=True
        ):
            assert problem.severity == "warning"
            assert problem.what.startswith(f"text `mine` in {language} has about ")
            assert problem.what.endswith(" windows of 32 tokens, 4000 are asked for")
            assert problem.hint == "all of them are measured, as with `windows = 0`"
            assert underlined(problem) == f'"{language}"'

    def test_all_of_a_text_may_be_any_number_that_has_an_interval(self, folder: Path) -> None:
        assert planned(folder, ("windows = 4", "windows = 0")).problems == []
        assert planned(folder, ("windows = 4\n", "")).problems == []

    @pytest.mark.parametrize("asked", ["windows = 0", "windows = 4"])
    def test_too_few_for_an_interval_are_a_warning(self, folder: Path, asked: str) -> None:
        path = folder / "text" / "de" / "test.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
        (problem,) = planned(folder, ("windows = 4", asked)).problems
        assert problem.severity == "warning"
        assert problem.what.endswith(" of 32 tokens: fewer than 4 leave no interval")
        assert problem.hint == "shorter windows, or more text"
        assert underlined(problem) == '"de"'

    def test_asking_for_too_few_is_a_warning_too(self, folder: Path) -> None:
        (problem,) = planned(folder, ("windows = 4", "windows = 3")).problems
        assert (problem.what, problem.severity) == ("fewer than 4 windows leave no interval", "warning")
        assert underlined(problem) == "3"


class TestTextsThatAreCalibratedOnAndMeasured:
    """Perplexity on calibration text is too low."""

    def warned(self, folder: Path, *changes: tuple[str, str]) -> str:
        (problem,) = planned(folder, *changes).problems
        assert problem.severity == "warning"
        assert problem.hint.startswith("give each purpose its own: files = { calibration = ")
        return problem.what

    def test_the_same_files(self, folder: Path) -> None:
        files = ("text/{language}/test.jsonl", "text/{language}/train.jsonl")
        assert self.warned(folder, files) == (
            "calibration and perplexity share `text/en/train.jsonl` (en): "
            "perplexity on calibration text is too low"
        )

    def test_a_file_of_a_pattern_in_every_language(self, folder: Path) -> None:
        pattern = ("text/{language}/test.jsonl", "text/{language}/t*.jsonl")
        both = ('source = "mine"\nlanguages = ["en"]', 'source = "mine"\nlanguages = ["en", "de"]')
        assert self.warned(folder, pattern, both).startswith(
            "calibration and perplexity share `text/en/train.jsonl` (en), `text/de/train.jsonl` (de): "
        )

    def test_the_same_content_under_another_name(self, folder: Path) -> None:
        shutil.copy(folder / "text" / "en" / "train.jsonl", folder / "text" / "en" / "test.jsonl")
        assert "share `text/en/test.jsonl` (en)" in self.warned(folder)

    def test_a_text_that_no_variant_calibrates_on_may_be_measured(self, folder: Path) -> None:
        files = ("text/{language}/test.jsonl", "text/{language}/train.jsonl")
        assert planned(folder, files, ('"wanda"', '"magnitude"')).problems == []


def test_one_model_under_two_names_is_a_warning(folder: Path) -> None:
    (folder / "other name").symlink_to(folder / "tiny")
    more = '[[models]]\nid = "./other name"\ndtype = "float32"\n\n[calibration]'
    (problem,) = planned(folder, ("[calibration]", more)).problems
    assert problem.severity == "warning"
    assert problem.what == "`./other name` has the same files as `./tiny`: it is measured twice"
    assert underlined(problem) == '"./other name"'


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
    save_file(state | {"model.layers.1.mlp.mixing": np.ones((4, 64, 64), "float32")}, path, {"format": "pt"})
    (problem,) = planned(folder).errors
    assert problem.what == "47% of the weights of the blocks of tiny are in no linear that can be compressed"
    assert (problem.note, underlined(problem)) == ("model.layers.1.mlp.mixing", '"./tiny"')


def test_another_package_does_not_get_experts(folder: Path) -> None:
    path = folder / "tiny" / "model.safetensors"
    state = load_file(path)
    experts = {
        f"model.layers.{block}.mlp.experts.{part}": np.ones((4, 64, 64), "float32")
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

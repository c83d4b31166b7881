"""Variants of other packages: refused at their place in the spec, or left out with what to do about it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from studyctl.backends.catalog import BACKENDS
from studyctl.contract.plan import read_plan, write_plan
from studyctl.contract.steps import Step, StepKind
from studyctl.files import StudyPaths
from studyctl.journal.stored import Stored
from studyctl.plan import trials as trials_module
from studyctl.plan.backends import missing_here
from studyctl.plan.compare import compare
from studyctl.plan.estimate import _classes_of
from studyctl.plan.planner import StudyPlan
from studyctl.plan.saved import planned as planned_form
from studyctl.plan.trials import Trial
from studyctl.plan.variants import expand_variants
from tests.backends.fakes import make_environment
from tests.plan.test_planner import planned, underlined
from tests.plan.test_variants import document, names

GPTQ = 'method = "gptq"\ngroup_size = 16'
RTN = 'method = "rtn"\nbits = 4\ngroup_size = 16'
MANY = f'{RTN}\nbackend = ["studyctl", "gptqmodel", "llm-compressor"]'


@pytest.fixture
def folder(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sources of a study, on a machine that has no environments yet."""
    shutil.copytree(sources, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("STUDYCTL_CACHE", str(tmp_path / "cache"))
    return tmp_path


def plan_of(folder: Path, table: str, *changes: tuple[str, str]) -> StudyPlan:
    """Plan the study with one compression table more."""
    return planned(folder, ("[text.mine]", f"[[compression]]\n{table}\n\n[text.mine]"), *changes)


def trial_of(plan: StudyPlan, variant: str) -> Trial:
    (trial,) = [trial for trial in plan.trials if trial.variant.name == variant]
    return trial


class TestWhatAPackageLacks:
    @pytest.mark.parametrize(
        ("table", "what", "place", "hint"),
        [
            (f'{GPTQ}\nbackend = ["studyctl", "autoawq"]', "`autoawq` has no method `gptq`", '"autoawq"',
             "studyctl, auto-gptq, gptqmodel, llm-compressor can"),
            (f'{GPTQ}\nbits = [4, 3]\nbackend = "llm-compressor"', "`llm-compressor` takes `bits = 4` or `bits = 8` only", "3",
             "studyctl, auto-gptq, gptqmodel can"),
            (f'{GPTQ}\nblock_size = 64\nbackend = "gptqmodel"', "`gptqmodel` takes `block_size = 128` only", "64",
             "studyctl, llm-compressor can"),
            (f'{GPTQ}\npropagate = ["compressed", "dense"]\nbackend = "gptqmodel"',
             "`gptqmodel` has no option `propagate` for gptq", '"dense"', "only studyctl can"),
            (f'{GPTQ}\nact_order = true\nbackend = ["gptqmodel", "llm-compressor"]',
             "`llm-compressor` has `act_order` with `static_groups = true` only", "true", "studyctl, auto-gptq, gptqmodel can"),
            ('method = "awq"\ngroup_size = 16\nsymmetric = true\nbackend = "autoawq"', "`autoawq` takes `symmetric = false` only", "true",
             "studyctl, llm-compressor can"),
            ('method = ["wanda", "rtn"]\nsparsity = 0.5\ngroup_size = 16\nbackend = "llm-compressor"',
             "`llm-compressor` has no method `wanda+rtn`", '"llm-compressor"', "only studyctl can"),
        ],
    )  # fmt: skip
    def test_is_an_error_at_its_place_with_who_has_it(
        self, folder: Path, table: str, what: str, place: str, hint: str
    ) -> None:
        (problem,) = plan_of(folder, table).errors
        assert problem.what == what
        assert underlined(problem) == place
        assert problem.hint == hint

    def test_is_found_at_the_element_of_its_sweep(self, folder: Path) -> None:
        (problem,) = plan_of(
            folder, f'{GPTQ}\nbits = [8, 4, 3]\nbackend = ["studyctl", "llm-compressor"]'
        ).errors
        assert problem.file == folder / "small.toml"
        lines = problem.file.read_text().splitlines()
        assert problem.line is not None
        assert problem.column is not None
        assert lines[problem.line - 1] == "bits = [8, 4, 3]"
        assert problem.column == len("bits = [8, 4, ") + 1

    def test_is_reported_once_of_a_sweep_and_of_every_package(self, folder: Path) -> None:
        table = (
            'method = "rtn"\nbits = [3, 5]\ngroup_size = [16, 32]\nbackend = ["gptqmodel", "llm-compressor"]'
        )
        plan = plan_of(folder, table)
        assert [(problem.what.split()[0], underlined(problem)) for problem in plan.errors] == [
            ("`llm-compressor`", "3"),
            ("`gptqmodel`", "5"),
            ("`llm-compressor`", "5"),
        ]


class TestWhatThisMachineLacks:
    def test_an_environment_is_a_note_and_the_rest_runs(self, folder: Path) -> None:
        plan = plan_of(folder, MANY.replace("bits = 4", "bits = 8"))
        assert plan.problems == []
        assert plan.notes == [
            "the environment of backend `gptqmodel` does not exist: `studyctl backends sync gptqmodel` makes it "
            "(1.5 GiB with torch for a CPU, 5.0 GiB for a GPU); not run without it: rtn-8bit-g16@gptqmodel",
            "the environment of backend `llm-compressor` does not exist: `studyctl backends sync llm-compressor` makes it "
            "(1.4 GiB with torch for a CPU, 5.0 GiB for a GPU); not run without it: rtn-8bit-g16@llm-compressor",
        ]
        comparison = compare(plan, Stored(), None)
        assert [trial.id for trial in comparison.unavailable] == [
            "tiny-rtn-8bit-g16_gptqmodel",
            "tiny-rtn-8bit-g16_llm-compressor",
        ]
        assert [todo.trial.id for todo in comparison.todo] == [
            "tiny-dense", "tiny-wanda-0.5", "tiny-rtn-4bit-g16", "tiny-rtn-8bit-g16",
        ]  # fmt: skip

    def test_variants_that_lack_the_same_are_one_note(self, folder: Path) -> None:
        (note,) = plan_of(
            folder, 'method = "rtn"\nbits = [4, 8]\ngroup_size = 16\nbackend = "gptqmodel"'
        ).notes
        assert note.endswith("; not run without it: rtn-4bit-g16@gptqmodel, rtn-8bit-g16@gptqmodel")

    def test_an_environment_that_is_there_is_nothing_to_speak_of(self, folder: Path) -> None:
        make_environment("gptqmodel")
        plan = plan_of(folder, f'{RTN}\nbackend = "gptqmodel"')
        assert plan.notes == []
        assert compare(plan, Stored(), None).unavailable == []

    def test_an_environment_of_other_versions_or_a_half_one_is_reported_as_such(self, folder: Path) -> None:
        about = make_environment("gptqmodel").parent / "synced.json"
        about.write_text(json.dumps({"pins": "of another studyctl", "bytes": 1}))
        (folder / "cache" / "backends" / "llm-compressor").mkdir()
        first, second = plan_of(folder, MANY.replace("bits = 4", "bits = 8")).notes
        assert "backend `gptqmodel` has other versions: `studyctl backends sync gptqmodel`" in first
        assert "backend `llm-compressor` is not finished: `studyctl backends sync llm-compressor`" in second

    @pytest.mark.parametrize(
        ("method", "backend"), [("gptq", "auto-gptq"), ("awq", "llm-compressor")], ids=["package", "method"]
    )
    def test_a_gpu_is_a_note_whether_the_environment_is_there_or_not(
        self, folder: Path, method: str, backend: str
    ) -> None:
        table = f'method = "{method}"\ngroup_size = 16\nbackend = "{backend}"'
        for _ in range(2):
            plan = plan_of(folder, table)
            assert plan.notes == [
                f"backend `{backend}` needs a CUDA device for {method}, and the study runs on cpu; "
                f"not run without it: {method}-4bit-g16@{backend}"
            ]
            make_environment(backend)

    def test_a_gpu_is_not_missed_where_the_study_runs_on_one(self, folder: Path) -> None:
        make_environment("auto-gptq")
        variants, _ = expand_variants(document(f'[[compression]]\n{GPTQ}\nbackend = "auto-gptq"'))
        assert missing_here(variants, ["cuda:0", "cuda:1"]) == {}
        assert missing_here(variants, ["cuda:0", "cpu"]).keys() == {"gptq-4bit-g16@auto-gptq"}


class TestATrial:
    def test_is_named_by_its_package(self) -> None:
        assert names(f"[[compression]]\n{MANY}") == [
            "dense", "rtn-4bit-g16", "rtn-4bit-g16@gptqmodel", "rtn-4bit-g16@llm-compressor",
        ]  # fmt: skip

    def test_has_weights_of_its_own(self, folder: Path) -> None:
        plan = plan_of(folder, MANY.replace("bits = 4", "bits = 8"))
        keys = {trial.weights_key for trial in plan.trials if trial.variant.method == "rtn"}
        assert None not in keys
        assert len(keys) == 4

    def test_runs_again_with_another_version_of_its_package_or_adapter(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_environment("gptqmodel")
        table = 'method = "rtn"\nbits = 8\ngroup_size = 16\nbackend = ["studyctl", "gptqmodel"]'
        name = "rtn-8bit-g16@gptqmodel"
        before = plan_of(folder, table)
        newer = folder / "newer"
        newer.mkdir()
        (newer / "requirements.txt").write_text("GPTQModel==7.7.0\n")

        def check(code: str) -> None:
            after = plan_of(folder, table)
            assert trial_of(after, name).parts()["code"] == code
            pairs = zip(after.trials, before.trials, strict=True)
            changed = [trial.variant.name for trial, old in pairs if trial.weights_key != old.weights_key]
            assert changed == [name], "the other trials are what they were"

        assert trial_of(before, name).parts()["code"] == "rtn of gptqmodel 7.6.0, adapter 1"
        with monkeypatch.context() as patched:
            patched.setitem(BACKENDS, "gptqmodel", replace(BACKENDS["gptqmodel"], folder=newer))
            check("rtn of gptqmodel 7.7.0, adapter 1")
        with monkeypatch.context() as patched:
            patched.setattr(trials_module, "ADAPTER_VERSION", 2)
            check("rtn of gptqmodel 7.6.0, adapter 2")

    def test_is_saved_with_the_settings_that_its_package_works_by(self, folder: Path) -> None:
        make_environment("autoawq")
        table = 'method = "awq"\ngroup_size = 16\nbackend = ["studyctl", "autoawq", "llm-compressor"]'
        plan = plan_of(folder, table)
        paths = StudyPaths(folder / "runs" / "small")
        write_plan(planned_form(plan, ""), paths)
        saved = {row["variant"]: row for row in json.loads(paths.plan.read_text())["trials"]}
        settings = {name: row["settings"] for name, row in saved.items()}
        awq = "awq-4bit-g16"
        assert [settings[awq][key] for key in ("objective", "clip")] == ["linear", True]
        assert [settings[f"{awq}@autoawq"][key] for key in ("objective", "clip")] == ["block", True]
        assert [settings[f"{awq}@llm-compressor"][key] for key in ("objective", "clip")] == ["block", False]
        assert {
            name: (saved[name]["backend"], saved[name]["available"]) for name in saved if "awq" in name
        } == {
            awq: ("studyctl", True),
            f"{awq}@autoawq": ("autoawq", True),
            f"{awq}@llm-compressor": ("llm-compressor", False),
        }
        read = read_plan(paths)
        assert read is not None
        assert [trial.trial for trial in read.trials] == [trial.id for trial in plan.trials]

    def test_is_estimated_by_what_its_own_package_took(self, folder: Path) -> None:
        plan = plan_of(folder, MANY.replace("bits = 4", "bits = 8"))
        compress, perplexity = Step(StepKind.COMPRESS), Step(StepKind.PERPLEXITY, "en", (0, 4))
        rtn = [trial for trial in plan.trials if trial.variant.method == "rtn"]
        assert len({_classes_of(trial, compress)[0] for trial in rtn}) == 3
        assert len({_classes_of(trial, perplexity)[0] for trial in rtn}) == 1

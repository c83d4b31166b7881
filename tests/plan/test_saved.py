"""``plan.json``: what was planned is read back as it was."""

import json
import shutil
from pathlib import Path

import pytest

from studyctl.contract.plan import VERSION, Planned, read_plan, write_plan
from studyctl.contract.steps import ALL_WINDOWS, Step, StepKind
from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.journal.stored import Stored
from studyctl.plan.compare import compare
from studyctl.plan.saved import other_spec, source_of, study_of
from studyctl.plan.saved import planned as planned_form
from studyctl.spec.loading import load_spec
from tests.plan.test_planner import planned

OLD = Path(__file__).parents[1] / "journal" / "recorded" / "version-0.1.0" / "plan.json"


@pytest.fixture
def folder(sources: Path, tmp_path: Path) -> Path:
    shutil.copytree(sources, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    return StudyPaths(tmp_path / "runs" / "small")


def refusal(paths: StudyPaths) -> str:
    with pytest.raises(StudyError) as caught:
        read_plan(paths)
    (problem,) = caught.value.problems
    assert problem.file == paths.plan
    return f"{problem.what} | {problem.hint}"


def test_what_was_written_is_read(folder: Path, paths: StudyPaths) -> None:
    plan = planned(folder)
    write_plan(planned_form(plan, "its text"), paths)
    read = read_plan(paths)
    assert read is not None
    assert (read.version, read.study) == (VERSION, "small")
    assert [trial.trial for trial in read.trials] == [trial.id for trial in plan.trials]
    for trial, written in zip(plan.trials, read.trials, strict=True):
        assert read.steps(written) == trial.steps
        assert written.parts == json.loads(json.dumps(trial.parts()))
    write_plan(read, paths)
    assert read_plan(paths) == read


def test_nothing_differs_from_what_was_written(folder: Path, paths: StudyPaths) -> None:
    plan = planned(folder, ("windows = 4", "windows = 0"))
    write_plan(planned_form(plan, ""), paths)
    read = read_plan(paths)
    for before in (read, planned_form(plan, "")):
        assert {todo.reason for todo in compare(plan, Stored(), before).todo} == {"new"}
    assert read is not None
    assert read.steps(read.trials[0])[0].windows == (0, ALL_WINDOWS)


def test_without_a_file_nothing_was_planned(paths: StudyPaths) -> None:
    assert read_plan(paths) is None


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "is no JSON ("),
        ("{", "is no JSON ("),
        ("[]", "is no plan ("),
        ("{}", "is no plan ("),
        ("7", "is no plan ("),
        ('{"version": 2, "study": 1}', "is no plan ("),
        ('{"version": 1}', "is no plan ("),
    ],
)
def test_what_is_no_plan_is_said(paths: StudyPaths, content: str, what: str) -> None:
    paths.root.mkdir(parents=True)
    paths.plan.write_text(content)
    message = refusal(paths)
    assert f"{paths.plan} {what}" in message
    assert "delete it and run" in message
    assert "no result is lost" in message


def test_a_plan_of_a_later_version_is_not_guessed_at(paths: StudyPaths) -> None:
    paths.root.mkdir(parents=True)
    paths.plan.write_text(json.dumps({"version": VERSION + 1, "study": "small"}))
    assert (
        f"was written by a later studyctl (plan version {VERSION + 1}; this one reads {VERSION})"
        in refusal(paths)
    )


def test_a_plan_of_version_0_1_is_read(paths: StudyPaths) -> None:
    paths.root.mkdir(parents=True)
    shutil.copy(OLD, paths.plan)
    read = read_plan(paths)
    assert read is not None
    assert read.version == 1
    dense, wanda = read.trials[0], next(trial for trial in read.trials if trial.method == "wanda")
    assert [str(step) for step in read.steps(dense)] == ["perplexity:en", "perplexity:de", "task:boats"]
    assert read.steps(wanda)[0] == Step(StepKind.COMPRESS, key=wanda.weights_key)
    english = read.evaluations["./tiny"][0]
    assert english.step == Step(StepKind.PERPLEXITY, "en", key="4fba3f8a29e76f9cfc78")
    assert english.parts["windows"] == 4


class TestAnotherSpec:
    """Two specs with one name in one folder of studies."""

    @pytest.fixture
    def made(self, tmp_path: Path) -> tuple[Path, StudyPaths]:
        """A spec, and the study that was made from it."""
        paths = StudyPaths(tmp_path / "runs" / "mine")
        spec = tmp_path / "first.toml"
        spec.write_text('[study]\nname = "mine"\n\n[[models]]\nid = "a/b"\n')
        write_plan(Planned("mine", made_from=str(spec)), paths)
        return spec, paths

    def told(self, spec: Path, paths: StudyPaths) -> str:
        problem = other_spec(load_spec(spec), paths, read_plan(paths))
        return f"{problem.line} {problem.what}" if problem else ""

    def test_is_told_at_the_name(self, made: tuple[Path, StudyPaths]) -> None:
        spec, paths = made
        (second := spec.with_name("second.toml")).write_text(spec.read_text().replace("a/b", "c/d"))
        assert self.told(second, paths) == (
            f"2 study `mine` in {paths.root.parent} was made from another spec, {spec}"
        )
        assert self.told(spec, paths) == ""

    def test_a_copy_or_one_that_was_moved_is_none(self, made: tuple[Path, StudyPaths]) -> None:
        spec, paths = made
        (copy := spec.with_name("copy.toml")).write_text(f"# the same\n{spec.read_text()}")
        assert self.told(copy, paths) == ""
        moved = spec.rename(spec.with_name("moved.toml"))
        moved.write_text(moved.read_text().replace("a/b", "c/d"))
        assert self.told(moved, paths) == ""

    def test_one_that_has_another_name_by_now_is_none(self, made: tuple[Path, StudyPaths]) -> None:
        spec, paths = made
        (second := spec.with_name("second.toml")).write_text(spec.read_text().replace("a/b", "c/d"))
        spec.write_text(spec.read_text().replace("mine", "other"))
        assert self.told(second, paths) == ""

    def test_the_studys_own_copy_is_none_and_keeps_the_source(self, made: tuple[Path, StudyPaths]) -> None:
        spec, paths = made
        paths.spec.write_text(spec.read_text().replace("a/b", "c/d"))
        assert self.told(paths.spec, paths) == ""
        assert source_of(load_spec(paths.spec), paths, read_plan(paths)) == str(spec)


@pytest.mark.parametrize(
    ("name", "has_id", "is_taken"), [("small", True, True), ("other", True, False), ("small", False, False)]
)
def test_a_studys_own_copy_of_its_spec_is_run_as_that_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, has_id: bool, is_taken: bool
) -> None:
    """Messages suggest it, and the study may lie in another folder than new ones do."""
    monkeypatch.setenv("STUDYCTL_RUNS", str(tmp_path / "runs"))
    elsewhere = StudyPaths(tmp_path / "elsewhere" / "small")
    elsewhere.root.mkdir(parents=True)
    elsewhere.spec.write_text(f'[study]\nname = "{name}"\n[[models]]\nid = "org/M"\n')
    if has_id:
        elsewhere.id.touch()
    expected = elsewhere if is_taken else StudyPaths(tmp_path / "runs" / name)
    assert study_of(load_spec(elsewhere.spec)) == expected

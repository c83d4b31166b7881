"""The list of studies: how each stands, what cannot be read, and that a look costs little."""

import json
import os
from pathlib import Path

import pytest

from studyctl.contract.records import SCHEMA
from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.store import studies as store
from studyctl.store.holder import Pulse, read_holder
from studyctl.store.live import Live
from studyctl.store.studies import StudyList, StudyRow, study_names, study_rows
from tests.store.builder import FakeStudy
from tests.tui.studies import TRIAL, died, empty, failed, finished, running, write_runner


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    monkeypatch.setenv("STUDYCTL_RUNS", str(folder))
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the studies whose journals were looked at, in order."""
    looked: list[str] = []
    refresh = Live.refresh

    def counted(live: Live) -> object:
        looked.append(live.paths.name)
        return refresh(live)

    monkeypatch.setattr(Live, "refresh", counted)
    return looked


def row_of(rows: list[StudyRow], study: str) -> StudyRow:
    return next(row for row in rows if row.study == study)


def test_how_each_study_stands(runs: Path) -> None:
    finished(runs / "whole")
    running(runs / "busy")
    failed(runs / "bad")
    died(runs / "dead")
    half = empty(runs / "half")
    half.attempt("alpha.dense").run_all()
    (runs / "none" / "journal").mkdir(parents=True)
    (runs / "notes").mkdir()  # no study
    rows = study_rows()
    assert {row.study: (row.state, row.done, row.trials, row.failed) for row in rows} == {
        "bad": ("failed", 5, 6, 1),
        "busy": ("running", 1, 6, 0),
        "dead": ("died", 1, 6, 0),
        "half": ("unfinished", 1, 6, 0),
        "none": ("empty", 0, 0, 0),
        "whole": ("done", 6, 6, 0),
    }
    assert row_of(rows, "busy").host
    assert row_of(rows, "busy").seconds_left == 720
    assert row_of(rows, "dead").seconds_left is None
    assert row_of(rows, "whole").title == "A small study"


def test_a_study_that_is_not_here_says_how_to_name_one_elsewhere(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty(runs / "planned")
    monkeypatch.setenv("STUDYCTL_RUNS", str(tmp_path / "other"))
    with pytest.raises(StudyError, match="no study `planned`") as raised:
        store.find_study("planned")
    hint = raised.value.problems[0].hint
    assert hint.startswith(
        f"there are no studies in {tmp_path}/other; name one elsewhere by the path of its folder"
    )
    assert "`studyctl --runs-dir DIR`" in hint
    assert store.find_study(str(runs / "planned")).root == runs / "planned"


def test_a_study_that_was_planned_and_never_begun_is_listed(runs: Path) -> None:
    empty(runs / "planned")
    assert [(row.study, row.state, row.trials) for row in study_rows()] == [("planned", "unfinished", 6)]


def test_the_last_sign_of_a_runner_that_died_is_its_heartbeat(runs: Path) -> None:
    study = died(runs / "a")
    for journal in study.paths.journal.iterdir():
        os.utime(journal, (0, 0))
    runner = read_holder(study.paths)
    assert runner is not None
    assert study_rows()[0].last_sign == runner.heartbeat


def test_a_runner_that_died_after_the_last_trial_leaves_a_study_that_is_done(runs: Path) -> None:
    write_runner(finished(runs / "whole"), alive=False)
    assert study_rows()[0].state == "done"


def damage_plan(paths: StudyPaths) -> None:
    paths.plan.write_text("{")


def reshape_plan(paths: StudyPaths) -> None:
    plan = json.loads(paths.plan.read_text())
    paths.plan.write_text(json.dumps(plan | {"evaluations": [1, 2]}))


def reshape_plan_of_version_1(paths: StudyPaths) -> None:
    paths.plan.write_text(json.dumps({"version": 1, "study": "b", "protocols": [1, 2], "trials": []}))


def write_as_a_later_version(paths: StudyPaths) -> None:
    journal = paths.attempt_journal("alpha.dense", 1)
    journal.write_text(journal.read_text().replace(f'"schema":{SCHEMA}', '"schema":99'))


def damage_runner(paths: StudyPaths) -> None:
    paths.runner.write_text("null")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (damage_plan, "is no JSON"),
        (reshape_plan, "is no plan"),
        (reshape_plan_of_version_1, "is no plan"),
        (write_as_a_later_version, "journal schema 99"),
        (damage_runner, "is damaged"),
    ],
)
def test_a_study_that_cannot_be_read_says_why_and_does_not_hide_others(
    runs: Path, damage: object, why: str
) -> None:
    finished(runs / "a")
    broken = finished(runs / "b")
    finished(runs / "c")
    damage(broken.paths)  # type: ignore[operator]
    rows = study_rows()
    assert [(row.study, row.state) for row in rows] == [("a", "done"), ("b", "unreadable"), ("c", "done")]
    assert why in rows[1].trouble
    assert rows[1].hint
    assert rows[1].as_dict()["trouble"] == rows[1].trouble


def test_a_journal_that_is_mended_in_place_is_read_again(runs: Path) -> None:
    study = finished(runs / "a")
    journal = study.paths.attempt_journal("alpha.dense", 1)
    whole = journal.read_text()
    journal.write_text(whole.replace(f'"schema":{SCHEMA}', '"schema":99'))
    studies = StudyList()
    assert [row.state for row in studies.rows()] == ["unreadable"]
    journal.write_text(whole)
    assert [row.state for row in studies.rows()] == ["done"]


def test_a_study_at_rest_is_read_once(runs: Path, read: list[str]) -> None:
    finished(runs / "a")
    failed(runs / "b")
    studies = StudyList()
    first = list(studies.rows())
    assert read == ["a", "b"]
    second = list(studies.rows())
    assert read == ["a", "b"]
    assert all(new is old for new, old in zip(second, first, strict=True))


def test_a_running_study_is_followed_until_its_runner_is_gone(runs: Path, read: list[str]) -> None:
    study = running(runs / "a")
    studies = StudyList()
    assert [row.done for row in studies.rows()] == [1]
    study.attempt("alpha.rtn-4bit-g64").run_all()
    write_runner(study, [(TRIAL, 1), ("alpha.rtn-4bit-g64", 1)])
    assert [(row.state, row.done) for row in studies.rows()] == [("running", 1)]
    write_runner(study, [(TRIAL, 1)])
    assert [(row.state, row.done) for row in studies.rows()] == [("running", 2)]
    study.paths.runner.unlink()
    assert [row.state for row in studies.rows()] == ["unfinished"]
    read.clear()
    assert [row.state for row in studies.rows()] == ["unfinished"]
    assert read == []


def test_a_runner_that_dies_silently_is_noticed(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running(runs / "a")
    studies = StudyList()
    assert [row.state for row in studies.rows()] == ["running"]
    monkeypatch.setattr(Pulse, "look", lambda _: None)
    assert [row.state for row in studies.rows()] == ["died"]


def test_studies_come_and_go_and_change(runs: Path, read: list[str]) -> None:
    studies = StudyList()
    assert list(studies.rows()) == []
    a, b = empty(runs / "a"), finished(runs / "b")
    assert [row.study for row in studies.rows()] == ["a", "b"]
    a.attempt("alpha.dense").run_all()
    b.root.rename(runs.parent / "away")
    read.clear()
    assert [(row.study, row.done) for row in studies.rows()] == [("a", 1)]
    assert read == ["a"]


def test_rows_come_one_by_one(runs: Path, read: list[str]) -> None:
    finished(runs / "a")
    finished(runs / "b")
    rows = StudyList().rows()
    assert next(rows).study == "a"
    assert read == ["a"]


def test_without_a_folder_of_studies_there_are_none(runs: Path) -> None:
    runs.rmdir()
    assert study_rows() == []


def test_a_folder_that_cannot_be_listed_is_an_error_with_a_hint(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(StudyError, match="Permission denied"):
        study_names()


def test_a_study_that_may_not_be_looked_into_is_listed(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeStudy(runs / "a").write_plan()

    def refuse(path: Path) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", lambda path: refuse(path) if path.name == "journal" else True)
    monkeypatch.setattr(store.Live, "refresh", lambda live: refuse(live.paths.journal))
    rows = study_rows()
    assert [(row.study, row.state) for row in rows] == [("a", "unreadable")]
    assert "Permission denied" in rows[0].trouble


@pytest.mark.parametrize("text", ["alpha.wanda-0.5", "alpha.w", "wanda-0.5", "wanda"])
def test_a_trial_is_named_by_itself_its_variant_or_the_beginning_of_either(tmp_path: Path, text: str) -> None:
    study = FakeStudy(tmp_path, models=("org/alpha",)).write_all()
    assert store.find_trial(study.paths, text) == "alpha.wanda-0.5"


def test_a_variant_of_several_models_lists_their_trials(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path).write_all()
    with pytest.raises(StudyError, match=r"`wanda-0\.5` may be any of 2 trials") as raised:
        store.find_trial(study.paths, "wanda-0.5")
    assert raised.value.problems[0].hint == "name one: alpha.wanda-0.5, beta.wanda-0.5"

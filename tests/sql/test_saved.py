"""Saved queries: by name, for every study, kept over days and shared by several apps."""

from pathlib import Path

import pytest
from filelock import FileLock

from studyctl.errors import StudyError
from studyctl.sql import state
from studyctl.sql.history import history_file, remember
from studyctl.sql.saved import NameTaken, delete_query, save_query, saved_file, saved_queries


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "state"
    monkeypatch.setenv("STUDYCTL_STATE", str(folder))
    return folder


def saved() -> dict[str, str]:
    return {query.name: query.sql for query in saved_queries()}


def test_nothing_was_saved_yet() -> None:
    assert saved_queries() == []


def test_they_come_in_the_order_of_their_names() -> None:
    for name in ("worst languages", "Best", "älter", "all of it"):
        save_query(name, f"SELECT '{name}'\nFROM x\n", replace=False)
    assert [query.name for query in saved_queries()] == ["all of it", "Best", "worst languages", "älter"]
    assert saved()["älter"] == "SELECT 'älter'\nFROM x"
    assert saved_queries()[0].at.endswith("+00:00")


def test_a_name_that_is_taken_is_replaced_only_when_that_is_meant() -> None:
    save_query("mine", "SELECT 1", replace=False)
    with pytest.raises(NameTaken):
        save_query("mine", "SELECT 2", replace=False)
    assert saved() == {"mine": "SELECT 1"}
    save_query("mine", "SELECT 2", replace=True)
    assert saved() == {"mine": "SELECT 2"}
    assert len(saved_file().read_text().splitlines()) == 1


def test_a_deleted_one_is_gone_and_deleting_it_again_does_nothing() -> None:
    save_query("mine", "SELECT 1", replace=False)
    save_query("other", "SELECT 2", replace=False)
    for _ in range(2):
        delete_query("mine")
        assert saved() == {"other": "SELECT 2"}


def test_a_line_of_another_program_costs_itself_only_and_stays() -> None:
    save_query("mine", "SELECT 1", replace=False)
    with saved_file().open("a") as file:
        file.write('{"name": "torn\n')
    save_query("other", "SELECT 2", replace=False)
    assert saved() == {"mine": "SELECT 1", "other": "SELECT 2"}
    assert '{"name": "torn\n' in saved_file().read_text()


def test_the_file_lies_beside_the_history(folder: Path) -> None:
    save_query("mine", "SELECT 1", replace=False)
    remember("study", "SELECT 2")
    assert saved_file().parent == history_file().parent == folder
    assert saved() == {"mine": "SELECT 1"}


def test_a_folder_that_cannot_be_written_is_said(folder: Path) -> None:
    folder.write_text("a file is in the way")
    with pytest.raises(StudyError, match="the saved queries cannot be written") as caught:
        save_query("mine", "SELECT 1", replace=False)
    assert "STUDYCTL_STATE" in caught.value.problems[0].hint


def test_a_file_that_cannot_be_read_is_said() -> None:
    saved_file().mkdir(parents=True)
    with pytest.raises(StudyError, match="the saved queries cannot be read"):
        saved_queries()


def test_an_app_that_holds_the_file_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "PATIENCE_SECONDS", 0.0)
    save_query("mine", "SELECT 1", replace=False)
    with FileLock(saved_file().with_suffix(".lock")), pytest.raises(StudyError, match="cannot be written"):
        delete_query("mine")
    assert saved() == {"mine": "SELECT 1"}

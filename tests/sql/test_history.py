"""The queries that were asked: kept over days, by several apps at once, whatever happens to a line."""

import multiprocessing
from pathlib import Path

import pytest
from filelock import FileLock

from studyctl.errors import StudyError
from studyctl.sql import history, state
from studyctl.sql.history import history_file, recall, remember


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "state"
    monkeypatch.setenv("STUDYCTL_STATE", str(folder))
    return folder


def asked() -> list[str]:
    return [one.sql for one in recall()]


def test_nothing_was_asked_yet() -> None:
    assert recall() == []


def test_the_newest_comes_first_with_its_study_and_time() -> None:
    remember("one", "SELECT 1")
    remember("two", "SELECT 'ünïcode'\nFROM x")
    assert asked() == ["SELECT 'ünïcode'\nFROM x", "SELECT 1"]
    assert recall()[0].study == "two"
    assert recall()[0].at.endswith("+00:00")


def test_a_query_that_is_asked_again_moves_to_the_top() -> None:
    for sql in ("a", "b", "a "):
        remember("one", sql)
    assert asked() == ["a", "b"]


def test_nothing_is_no_query() -> None:
    remember("one", " \n ")
    assert recall() == []


def test_the_oldest_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST", 5)
    for number in range(12):
        remember("one", f"SELECT {number}")
    assert asked() == [f"SELECT {number}" for number in (11, 10, 9, 8, 7)]
    assert len(history_file().read_text().splitlines()) == 5


@pytest.mark.parametrize("torn", ['{"at": "2026', "[]", "7", '{"at": 1}', "\udcff"])
def test_a_damaged_line_costs_itself_only(torn: str) -> None:
    remember("one", "before")
    with history_file().open("ab") as file:
        file.write(torn.encode(errors="surrogateescape"))  # and no end of line
    remember("one", "after")
    assert asked() == ["after", "before"]


def _ask(name: str) -> None:
    for number in range(25):
        remember(name, f"SELECT '{name}', {number}")


def test_several_apps_write_at_once() -> None:
    context = multiprocessing.get_context("spawn")
    apps = [context.Process(target=_ask, args=(name,)) for name in ("a", "b", "c")]
    for app in apps:
        app.start()
    for app in apps:
        app.join()
    assert sorted(asked()) == sorted(f"SELECT '{name}', {number}" for name in "abc" for number in range(25))


def test_a_folder_that_cannot_be_written_is_said(folder: Path) -> None:
    folder.write_text("a file is in the way")
    with pytest.raises(StudyError, match="cannot be written") as caught:
        remember("one", "SELECT 1")
    assert "STUDYCTL_STATE" in caught.value.problems[0].hint


def test_a_file_that_cannot_be_read_is_said() -> None:
    history_file().mkdir(parents=True)
    with pytest.raises(StudyError, match="cannot be read"):
        recall()


def test_an_app_that_holds_the_file_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "PATIENCE_SECONDS", 0.0)
    remember("one", "before")
    with (
        FileLock(history_file().with_suffix(".lock")),
        pytest.raises(StudyError, match="cannot be written"),
    ):
        remember("one", "after")
    assert asked() == ["before"]


def test_the_folder_is_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STUDYCTL_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_file() == tmp_path / "studyctl" / "sql_history.jsonl"

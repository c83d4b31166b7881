"""Deleting never leaves a study's folder, and deletes nothing there that is not a study's."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.run.cleaning import clean, remove
from studyctl.store.studies import find_study


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "precious"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_text("mine")
    return folder


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyPaths:
    monkeypatch.setenv("STUDYCTL_RUNS", str(tmp_path / "runs"))
    paths = StudyPaths(tmp_path / "runs" / "mine")
    paths.journal.mkdir(parents=True)
    (paths.cache / "dense").mkdir(parents=True)
    (paths.cache / "dense" / "a").write_text("large")
    return paths


def printed(do: object, paths: StudyPaths) -> str:
    console = Console(file=io.StringIO(), width=300)
    do(paths, console, yes=True)  # type: ignore[operator]
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def is_whole(outside: Path) -> bool:
    return (outside / "deep" / "file").read_text() == "mine"


def test_links_in_a_cache_are_deleted_and_not_followed(study: StudyPaths, outside: Path) -> None:
    (study.cache / "weights").symlink_to(outside)
    (study.cache / "dense" / "deep").symlink_to(outside / "deep")
    text = printed(clean, study)
    assert f"a link to {outside}, which is left as it is" in text
    assert list(study.cache.iterdir()) == []
    assert is_whole(outside)


@pytest.mark.parametrize("name", ["cache", "weights"])
def test_a_linked_folder_is_not_emptied(study: StudyPaths, outside: Path, name: str) -> None:
    (study.root / name).rename(study.root / "moved") if name == "cache" else None
    (outside / ".a.partial").mkdir()
    (study.root / name).symlink_to(outside)
    printed(clean, study)
    assert is_whole(outside)
    assert (outside / ".a.partial").is_dir()


def test_a_study_is_deleted_as_a_whole(study: StudyPaths, outside: Path) -> None:
    study.database.write_text("")
    Path(f"{study.database}.wal").write_text("")
    study.logs.symlink_to(outside)
    printed(remove, study)
    assert not study.root.exists()
    assert is_whole(outside)


def test_other_files_are_left(study: StudyPaths) -> None:
    (study.root / "thesis.tex").write_text("mine")
    assert "left, as no study has such files: thesis.tex" in printed(remove, study)
    assert [entry.name for entry in study.root.iterdir()] == ["thesis.tex"]


def test_of_a_linked_study_the_link_is_deleted(study: StudyPaths) -> None:
    link = study.root.with_name("linked")
    link.symlink_to(study.root)
    assert f"the study stays in {study.root}" in printed(remove, find_study("linked"))
    assert not link.is_symlink()
    assert study.journal.is_dir()


def test_a_folder_with_a_spec_and_no_results_is_no_study_to_delete(study: StudyPaths) -> None:
    study.journal.rmdir()
    study.spec.write_text("")
    with pytest.raises(StudyError, match="holds no results"):
        printed(remove, study)
    assert study.spec.exists()

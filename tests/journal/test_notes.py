"""Notes about trials: the newest counts, and none is lost."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from studyctl.errors import StudyError
from studyctl.files import StudyPaths
from studyctl.journal.notes import read_notes, write_note
from studyctl.run import control
from studyctl.run.control import take_requests
from studyctl.run.hold import hold
from studyctl.store.live import Live
from studyctl.store.session import Session
from tests.store.builder import FakeStudy
from tests.tui import studies

TRIAL = studies.TRIAL


def published(paths: StudyPaths) -> list[str | None]:
    rows = Session(paths).run(f"select note from trials where trial_id = '{TRIAL}'").table.to_pylist()
    return [row["note"] for row in rows]


@pytest.fixture
def study(tmp_path: Path) -> FakeStudy:
    return studies.finished(tmp_path / "small")


def test_of_a_trial_the_newest_counts_and_an_empty_one_takes_it_away(study: FakeStudy) -> None:
    for text in ("looks odd", "fine after all"):
        write_note(study.paths, TRIAL, text)
    write_note(study.paths, "alpha.dense", "reference of the paper")
    notes = read_notes(study.paths)
    assert {trial: note.text for trial, note in notes.items()} == {
        TRIAL: "fine after all",
        "alpha.dense": "reference of the paper",
    }
    assert notes[TRIAL].by == psutil.Process().username()
    write_note(study.paths, TRIAL, "")
    assert read_notes(study.paths).keys() == {"alpha.dense"}
    assert len(study.paths.notes.read_text().splitlines()) == 4  # what was written stays on the disk


def test_several_people_at_once_lose_no_note(study: FakeStudy) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: write_note(study.paths, f"t{number}", "x"), range(40)))
    assert read_notes(study.paths).keys() == {f"t{number}" for number in range(40)}
    lines = map(json.loads, study.paths.notes.read_text().splitlines())
    assert [line["seq"] for line in lines] == list(range(40))


def test_a_line_that_a_crash_cut_short_is_no_note_and_the_next_one_follows(study: FakeStudy) -> None:
    write_note(study.paths, TRIAL, "kept")
    whole = study.paths.notes.read_bytes()
    study.paths.notes.write_bytes(whole + whole[:30])
    assert read_notes(study.paths)[TRIAL].text == "kept"
    write_note(study.paths, TRIAL, "later")
    assert read_notes(study.paths)[TRIAL].text == "later"


def test_a_folder_that_cannot_be_written_is_said(study: FakeStudy) -> None:
    study.paths.notes.mkdir()
    with pytest.raises(StudyError, match=r"notes\.jsonl"):
        write_note(study.paths, TRIAL, "x")


def test_without_a_runner_it_is_published_at_once(study: FakeStudy) -> None:
    assert published(study.paths) == [None]
    assert control.note(study.paths, TRIAL, "looks odd") == f"the note of {TRIAL} was written"
    assert published(study.paths) == ["looks odd"]
    assert control.note(study.paths, TRIAL, "") == f"the note of {TRIAL} was removed"
    assert published(study.paths) == [None]


def test_a_living_runner_is_asked_to_publish_it(study: FakeStudy) -> None:
    studies.write_runner(study)
    control.note(study.paths, TRIAL, "looks odd")
    assert [getattr(request, "kind", request) for request in take_requests(study.paths)] == ["publish"]


def test_who_holds_the_study_is_not_disturbed(study: FakeStudy) -> None:
    with hold(study.paths):
        study.paths.runner.unlink(missing_ok=True)
        control.note(study.paths, TRIAL, "looks odd")
    assert read_notes(study.paths)[TRIAL].text == "looks odd"


def test_who_looks_on_sees_it_a_second_later(study: FakeStudy) -> None:
    live = Live(study.paths)
    assert live.refresh().notes == {}
    write_note(study.paths, TRIAL, "looks odd")
    assert live.refresh().notes[TRIAL].text == "looks odd"

"""The journal: what is acknowledged survives anything; what a crash tore is skipped; damage is never hidden."""

import errno
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studyctl.contract.records import (
    SCHEMA,
    AnyRecord,
    AttemptFinished,
    AttemptStarted,
    Items,
    Layer,
    Progress,
    Record,
    StepFailed,
    StepFinished,
    StepStarted,
    TaskFigure,
    TextBatch,
    Warned,
    Window,
    encode,
)
from studyctl.contract.steps import Step, StepKind
from studyctl.errors import StudyError
from studyctl.journal.files import JournalTail, JournalWriter, parse, read_journal

LOAD = Step(StepKind.LOAD)


def begin(path: Path, **fields: Any) -> JournalWriter:
    writer = JournalWriter(path)
    started = {
        "schema": SCHEMA, "trial": "alpha.dense", "attempt": 1, "studyctl": "0.2.0", "model": "org/alpha", "method": "dense",
        "variant": "dense", "weights_key": "w",
    }  # fmt: skip
    writer.write(AttemptStarted(**(started | fields)))
    return writer


def progress(done: int = 1, **fields: Any) -> Progress:
    return Progress(step=LOAD, done=done, total=2, unit="block", **fields)


def warning(message: str, **fields: Any) -> Warned:
    return Warned(step=LOAD, message=message, **fields)


def kinds(records: Iterable[AnyRecord]) -> list[type[Record]]:
    return [type(record) for record in records]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal" / "alpha.dense.1.jsonl"


def test_a_record_carries_number_time_kind_and_attempt(path: Path) -> None:
    with begin(path) as writer:
        written = StepStarted(step=LOAD)
        writer.write(written)
    records = list(read_journal(path))
    assert records[1] == written
    line = json.loads(path.read_bytes().splitlines()[1])
    assert next(iter(line.items())) == ("kind", "step_started")
    assert line.keys() == {"kind", "seq", "at", "trial", "attempt", "step"}
    assert [record.seq for record in records] == [0, 1]
    assert (records[1].trial, records[1].attempt) == ("alpha.dense", 1)
    assert records[1].at.endswith("+00:00")


def test_nan_and_infinity_are_written_as_null(path: Path) -> None:
    with begin(path) as writer:
        writer.write(Layer(block=0, linear="x", relative_error=math.nan))
        details = {
            "values": [math.inf, 1.5],
            "count": np.int64(3),
            "half": np.float32(0.5),
            "path": Path("a"),
        }
        writer.write(warning("", details=details))
    *_, layer, warned = read_journal(path)
    assert isinstance(layer, Layer)
    assert layer.relative_error is None
    assert isinstance(warned, Warned)
    assert warned.details == {"values": [None, 1.5], "count": 3, "half": 0.5, "path": "a"}
    assert "NaN" not in path.read_text()


def test_what_json_cannot_say_is_a_mistake_of_the_caller(path: Path) -> None:
    with begin(path) as writer, pytest.raises(TypeError, match="object"):
        writer.write(warning("", details={"value": object()}))


@given(
    st.dictionaries(
        st.text(),
        st.one_of(
            st.text(),
            st.integers(-(2**63), 2**64 - 1),
            st.floats(allow_nan=False, allow_infinity=False),
            st.booleans(),
        ),
    )
)
def test_any_text_survives_a_round_trip(fields: dict[str, object]) -> None:
    record = warning("", seq=0, details=fields)
    line = encode(record)
    assert line.count(b"\n") == 1
    assert parse(line, Path("x.jsonl")) == ([record], len(line))


def test_a_file_name_that_is_no_text_is_written_with_its_bytes_spelt_out(path: Path) -> None:
    with begin(path) as writer:
        writer.write(warning("b\udc80d", details={"files": ["\udcff"]}))
    *_, warned = read_journal(path)
    assert isinstance(warned, Warned)
    assert (warned.message, warned.details) == ("b\\udc80d", {"files": ["\\udcff"]})


WHOLE = encode(progress(seq=0, note="überall")) + encode(warning("日本", seq=1))


@given(st.integers(0, len(WHOLE)))
def test_a_journal_cut_anywhere_reads_as_its_whole_records(length: int) -> None:
    records, consumed = parse(WHOLE[:length], Path("x.jsonl"))
    assert len(records) == WHOLE[:length].count(b"\n")
    assert consumed == WHOLE[:length].rfind(b"\n") + 1


@pytest.mark.parametrize(
    "tail",
    [
        pytest.param(b'{"kind":"progress","seq":9,"no', id="cut short"),
        pytest.param('{"kind":"progress","seq":9,"note":"日'.encode()[:-1], id="cut inside a character"),
        pytest.param(b"\0" * 4096, id="zero bytes after a power cut"),
        pytest.param(b'\0\0\0\0ge"}\n', id="zero bytes and the end of a line"),
        pytest.param(b'{"kind":"progress","seq":9,"no\0\0\0\0', id="cut short, then zero bytes"),
    ],
)
def test_what_a_crash_leaves_behind_is_skipped_and_cut_off_before_anything_follows(
    path: Path, tail: bytes
) -> None:
    begin(path).close()
    with path.open("ab") as file:
        file.write(tail)
    assert kinds(read_journal(path)) == [AttemptStarted]
    assert kinds(JournalTail(path).new_records()) == [AttemptStarted]
    with JournalWriter(path) as writer:
        writer.write(AttemptFinished(state="failed"))
    *_, last = read_journal(path)
    assert (type(last), last.seq, last.trial, last.attempt) == (AttemptFinished, 1, "alpha.dense", 1)


def test_damage_in_the_middle_names_file_and_line(path: Path) -> None:
    with begin(path) as writer:
        writer.write(progress())
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"not json\n" + lines[1])
    with pytest.raises(StudyError) as caught:
        list(read_journal(path))
    problem = caught.value.problems[0]
    assert (problem.file, problem.line) == (path, 2)
    assert "move alpha.dense.1.jsonl out of the journal folder" in problem.hint


def test_a_later_schema_is_refused(path: Path) -> None:
    begin(path, schema=SCHEMA + 1, studyctl="9.0").close()
    with pytest.raises(StudyError, match=r"written by studyctl 9\.0 .*schema 3.*reads schema 2"):
        list(read_journal(path))
    with pytest.raises(StudyError, match="schema 3"):
        JournalTail(path).new_records()


def test_a_full_disk_leaves_whole_records_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = begin(path)
    real_write = os.write
    room = [20, 0]

    def short_write(handle: int, data: bytes) -> int:
        if (size := room.pop(0)) == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(handle, data[:size])

    monkeypatch.setattr(os, "write", short_write)
    with pytest.raises(StudyError, match="No space left on device") as caught:
        writer.write(TextBatch(language="en", sequence_length=32, bos=False))
    assert "free some space and run again" in caught.value.problems[0].hint
    monkeypatch.undo()
    writer.write(warning("there is room again"))
    writer.close()
    lines = path.read_bytes().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["attempt_started", "warning"]


def test_a_folder_that_cannot_be_written_is_a_study_error(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file where the folder should be")
    with pytest.raises(StudyError, match="cannot write"):
        JournalWriter(tmp_path / "journal" / "alpha.dense.1.jsonl")


def test_results_are_synced_and_progress_is_not(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("studyctl.journal.files._sync", synced.append)
    with begin(path) as writer:
        assert len(synced) == 1
        for record in (
            progress(),
            Layer(block=0, linear="x"),
            Window(language="en", window=0, nll_nats=1.0, tokens=1),
            TextBatch(language="en", sequence_length=32, bos=False),
            StepStarted(step=LOAD),
        ):
            writer.write(record)
        assert len(synced) == 1
        for record in (
            TaskFigure(task="boolq", metric="acc", value=0.5),
            Items(task="boolq", part="x", rows=1),
            warning("x"),
            StepFinished(step=LOAD),
            StepFailed(step=LOAD, error="x"),
        ):
            writer.write(record)
        assert len(synced) == 6


class TestTail:
    def test_a_file_that_does_not_exist_yet_has_no_records(self, path: Path) -> None:
        tail = JournalTail(path)
        assert tail.new_records() == []
        begin(path).close()
        assert kinds(tail.new_records()) == [AttemptStarted]

    def test_each_record_comes_once(self, path: Path) -> None:
        tail = JournalTail(path)
        with begin(path) as writer:
            tail.new_records()
            assert tail.new_records() == []
            writer.write(progress(1))
            writer.write(progress(2))
            assert [record.done for record in tail.new_records() if isinstance(record, Progress)] == [1, 2]

    def test_an_unfinished_line_waits_until_it_is_whole(self, path: Path) -> None:
        begin(path).close()
        tail = JournalTail(path)
        tail.new_records()
        line = encode(progress(seq=1, note="日本"))
        for length in range(1, len(line)):
            with path.open("ab") as file:
                file.write(line[length - 1 : length])
            assert tail.new_records() == []
        with path.open("ab") as file:
            file.write(line[-1:])
        assert tail.new_records() == [progress(seq=1, note="日本")]

    def test_damage_is_counted_from_the_beginning_of_the_file(self, path: Path) -> None:
        begin(path).close()
        tail = JournalTail(path)
        tail.new_records()
        with path.open("ab") as file:
            file.write(b"not json\n" + encode(progress(seq=1)))
        with pytest.raises(StudyError, match="line 2 of"):
            tail.new_records()


def test_a_later_version_whose_attempts_begin_otherwise_is_told_as_one(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"kind":"attempt_started","schema":9,"studyctl":"1.7","seq":0,"who":{"host":"x"}}\n')
    with pytest.raises(StudyError, match=r"was written by studyctl 1\.7 \(journal schema 9\)"):
        list(read_journal(path))

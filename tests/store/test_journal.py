"""The journal: what is acknowledged survives anything; what a crash tore is skipped; damage is never hidden."""

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studyctl.errors import StudyError
from studyctl.store.journal import SCHEMA, JournalTail, JournalWriter, encode, parse, read_journal


def begin(path: Path, **fields: Any) -> JournalWriter:
    writer = JournalWriter(path)
    started = {"schema": SCHEMA, "trial": "alpha.dense", "attempt": 1}
    writer.write("attempt_started", **(started | fields))
    return writer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal" / "alpha.dense.1.jsonl"


def test_a_record_carries_number_time_kind_and_attempt(path: Path) -> None:
    with begin(path) as writer:
        returned = writer.write("stage_started", stage="load", key="k")
    records = list(read_journal(path))
    assert records[1] == returned
    assert list(records[1]) == ["seq", "at", "kind", "trial", "attempt", "stage", "key"]
    assert [record["seq"] for record in records] == [0, 1]
    assert records[1]["trial"] == "alpha.dense"
    assert records[1]["at"].endswith("+00:00")


def test_nan_and_infinity_are_written_as_null(path: Path) -> None:
    with begin(path) as writer:
        writer.write(
            "layer",
            relative_error=math.nan,
            nested={"values": [math.inf, 1.5]},
            count=np.int64(3),
            half=np.float32(0.5),
        )
    *_, layer = read_journal(path)
    assert layer["relative_error"] is None
    assert layer["nested"] == {"values": [None, 1.5]}
    assert (layer["count"], layer["half"]) == (3, 0.5)
    assert "NaN" not in path.read_text()


def test_what_json_cannot_say_is_a_mistake_of_the_caller(path: Path) -> None:
    with begin(path) as writer, pytest.raises(TypeError, match="object"):
        writer.write("layer", value=object())


@given(
    st.dictionaries(
        st.text(),
        st.one_of(st.text(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans()),
    )
)
def test_any_text_survives_a_round_trip(fields: dict[str, object]) -> None:
    record = {"seq": 0, "kind": "warning", "fields": fields}
    line = encode(record)
    assert line.count(b"\n") == 1
    assert parse(line, Path("x.jsonl")) == ([record], len(line))


WHOLE = encode({"seq": 0, "kind": "progress", "note": "überall"}) + encode(
    {"seq": 1, "kind": "warning", "message": "日本"}
)


@given(st.integers(0, len(WHOLE)))
def test_a_journal_cut_anywhere_reads_as_its_whole_records(length: int) -> None:
    records, consumed = parse(WHOLE[:length], Path("x.jsonl"))
    assert len(records) == WHOLE[:length].count(b"\n")
    assert consumed == WHOLE[:length].rfind(b"\n") + 1


@pytest.mark.parametrize(
    "tail",
    [
        pytest.param(b'{"seq":9,"kind":"pro', id="cut short"),
        pytest.param('{"seq":9,"note":"日'.encode()[:-1], id="cut inside a character"),
        pytest.param(b"\0" * 4096, id="zero bytes after a power cut"),
        pytest.param(b'\0\0\0\0ge"}\n', id="zero bytes and the end of a line"),
        pytest.param(b'{"seq":9,"kind":"pro\0\0\0\0', id="cut short, then zero bytes"),
    ],
)
def test_what_a_crash_leaves_behind_is_skipped_and_cut_off_before_anything_follows(
    path: Path, tail: bytes
) -> None:
    begin(path).close()
    with path.open("ab") as file:
        file.write(tail)
    assert [record["kind"] for record in read_journal(path)] == ["attempt_started"]
    assert [record["kind"] for record in JournalTail(path).new_records()] == ["attempt_started"]
    with JournalWriter(path) as writer:
        writer.write("attempt_finished", state="failed")
    *_, last = read_journal(path)
    assert (last["kind"], last["seq"], last["trial"], last["attempt"]) == (
        "attempt_finished",
        1,
        "alpha.dense",
        1,
    )


def test_damage_in_the_middle_names_file_and_line(path: Path) -> None:
    with begin(path) as writer:
        writer.write("progress", done=1)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"not json\n" + lines[1])
    with pytest.raises(StudyError) as caught:
        list(read_journal(path))
    problem = caught.value.problems[0]
    assert (problem.file, problem.line) == (path, 2)
    assert "move alpha.dense.1.jsonl out of the journal folder" in problem.hint


def test_a_later_schema_is_refused(path: Path) -> None:
    begin(path, schema=SCHEMA + 1, studyctl="9.0").close()
    with pytest.raises(StudyError, match=r"written by studyctl 9\.0 .*schema 2.*reads schema 1"):
        list(read_journal(path))
    with pytest.raises(StudyError, match="schema 2"):
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
        writer.write("perplexity", language="en", perplexity=12.5)
    assert "free some space and run again" in caught.value.problems[0].hint
    monkeypatch.undo()
    writer.write("warning", message="there is room again")
    writer.close()
    lines = path.read_bytes().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["attempt_started", "warning"]


def test_a_folder_that_cannot_be_written_is_a_study_error(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file where the folder should be")
    with pytest.raises(StudyError, match="cannot write"):
        JournalWriter(tmp_path / "journal" / "alpha.dense.1.jsonl")


def test_results_are_synced_and_progress_is_not(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("studyctl.store.journal._sync", synced.append)
    with begin(path) as writer:
        assert len(synced) == 1
        for kind in ("progress", "layer", "window"):
            writer.write(kind)
        assert len(synced) == 1
        for kind in ("perplexity", "fidelity", "task", "item", "warning", "stage_finished", "stage_failed"):
            writer.write(kind)
        assert len(synced) == 8


class TestTail:
    def test_a_file_that_does_not_exist_yet_has_no_records(self, path: Path) -> None:
        tail = JournalTail(path)
        assert tail.new_records() == []
        begin(path).close()
        assert [record["kind"] for record in tail.new_records()] == ["attempt_started"]

    def test_each_record_comes_once(self, path: Path) -> None:
        tail = JournalTail(path)
        with begin(path) as writer:
            tail.new_records()
            assert tail.new_records() == []
            writer.write("progress", done=1)
            writer.write("progress", done=2)
            assert [record["done"] for record in tail.new_records()] == [1, 2]

    def test_an_unfinished_line_waits_until_it_is_whole(self, path: Path) -> None:
        begin(path).close()
        tail = JournalTail(path)
        tail.new_records()
        line = encode({"seq": 1, "kind": "progress", "note": "日本"})
        for length in range(1, len(line)):
            with path.open("ab") as file:
                file.write(line[length - 1 : length])
            assert tail.new_records() == []
        with path.open("ab") as file:
            file.write(line[-1:])
        assert [record["note"] for record in tail.new_records()] == ["日本"]

    def test_damage_is_counted_from_the_beginning_of_the_file(self, path: Path) -> None:
        begin(path).close()
        tail = JournalTail(path)
        tail.new_records()
        with path.open("ab") as file:
            file.write(b"not json\n" + encode({"seq": 1, "kind": "progress"}))
        with pytest.raises(StudyError, match="line 2 of"):
            tail.new_records()

import hashlib
from pathlib import Path

import pytest

from studyctl.sources import hashes
from studyctl.sources.hashes import identify_file, remembered


@pytest.fixture(autouse=True)
def _files_settle_at_once(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "SETTLED_SECONDS", -1.0)


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"weights")
    assert identify_file(path).sha256 == hashlib.sha256(b"weights").hexdigest()


def test_a_fact_is_computed_once_while_the_file_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    calls: list[Path] = []
    for _ in range(3):
        assert remembered(path, "length", lambda file: calls.append(file) or 3) == 3
    assert len(calls) == 1


def test_a_changed_file_of_the_same_size_is_looked_at_again(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    before = identify_file(path).sha256
    replacement = tmp_path / "b"
    replacement.write_text("two")
    replacement.replace(path)
    assert identify_file(path).sha256 == hashlib.sha256(b"two").hexdigest() != before


def test_facts_of_different_names_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    assert remembered(path, "length", lambda _: 3) == 3
    assert remembered(path, "lines", lambda _: 1) == 1


def test_nothing_is_remembered_of_a_file_that_may_change_within_its_clocks_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashes, "SETTLED_SECONDS", 60.0)
    path = tmp_path / "a"
    path.write_text("one")
    answers = iter([1, 2])
    assert [remembered(path, "fact", lambda _: next(answers)) for _ in range(2)] == [1, 2]


def test_a_torn_cache_entry_is_computed_anew(tmp_path: Path, own_cache: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    before = identify_file(path).sha256
    (entry,) = (own_cache / "facts").iterdir()
    entry.write_text('{"state": [')
    assert identify_file(path).sha256 == before


def test_what_the_computation_raises_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    with pytest.raises(ZeroDivisionError):
        remembered(path, "fact", lambda _: 1 // 0)
    assert remembered(path, "fact", lambda _: 5) == 5

"""What is read are the bytes that were planned, or nothing."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from studyctl.contract.identity import FileIdentity
from studyctl.errors import ProblemCode, StepError
from studyctl.sources import hashes, verified
from studyctl.sources.hashes import identify_file
from studyctl.sources.verified import check_files, read_verified, unchanged

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(autouse=True)
def _nothing_known_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "_hashed", {})


@pytest.fixture(params=["settled", "just written"], autouse=True)
def _age(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether hashes of files that were written in this test are remembered."""
    if request.param == "settled":
        monkeypatch.setattr(hashes, "SETTLED_SECONDS", -1.0)


@pytest.fixture
def file(tmp_path: Path) -> FileIdentity:
    path = tmp_path / "a"
    path.write_bytes(b"planned")
    os.utime(path, (1, 1))  # whatever is written now has another time, also within one tick of the clock
    return identify_file(path)


def check(file: FileIdentity) -> None:
    check_files([file], "the text")


def read(file: FileIdentity) -> None:
    assert read_verified(file, "the text") == b"planned"


def use(file: FileIdentity) -> None:
    with unchanged((file,), "the text"):
        pass


Act = Callable[[FileIdentity], None]
each_way = pytest.mark.parametrize("act", [check, read, use])


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(StepError) as caught:
        act()
    (problem,) = caught.value.problems
    assert problem.code is ProblemCode.CHANGED
    assert problem.hint == "run the study again: what depends on it is planned again"
    return problem.what


def replace_keeping_the_time(path: Path, content: bytes) -> None:
    """Give a file other content of the same size, with the times of before."""
    status = path.stat()
    other = path.with_name("other")
    other.write_bytes(content)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


@each_way
def test_what_was_planned_is_used(file: FileIdentity, act: Act) -> None:
    for _ in range(3):
        act(file)


@each_way
@pytest.mark.parametrize("content", [b"PLANNED", b"planned and more", b""])
def test_other_bytes_are_noticed(file: FileIdentity, act: Act, content: bytes) -> None:
    act(file)
    file.path.write_bytes(content)
    assert refusal(lambda: act(file)) == f"the text changed since the study was planned: {file.path}"


@each_way
def test_other_bytes_of_the_same_size_and_time_are_noticed(file: FileIdentity, act: Act) -> None:
    act(file)
    replace_keeping_the_time(file.path, b"PLANNED")
    assert refusal(lambda: act(file)) == f"the text changed since the study was planned: {file.path}"


@each_way
def test_a_missing_file_is_noticed(file: FileIdentity, act: Act) -> None:
    act(file)
    file.path.unlink()
    assert refusal(lambda: act(file)) == (
        f"the text changed since the study was planned: {file.path} (No such file or directory)"
    )


@each_way
def test_the_same_bytes_at_a_new_time_are_no_change(file: FileIdentity, act: Act) -> None:
    act(file)
    os.utime(file.path, (2, 2))
    act(file)
    replacement = file.path.with_name("copy")
    replacement.write_bytes(b"planned")
    replacement.replace(file.path)
    act(file)


@each_way
def test_what_was_planned_may_come_back(file: FileIdentity, act: Act) -> None:
    file.path.write_bytes(b"something else")
    refusal(lambda: act(file))
    file.path.write_bytes(b"planned")
    act(file)


def test_one_of_several_is_named(file: FileIdentity, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"other")
    other = identify_file(tmp_path / "b")
    other.path.write_bytes(b"edited")
    assert refusal(lambda: check_files([file, other], "model `m`")) == (
        f"model `m` changed since the study was planned: {other.path}"
    )


class TestUnchanged:
    """While something else reads the files."""

    def test_a_file_that_is_replaced_meanwhile_is_noticed(self, file: FileIdentity) -> None:
        def read() -> None:
            with unchanged((file,), "the text"):
                replace_keeping_the_time(file.path, b"PLANNED")

        assert "changed since" in refusal(read)

    def test_a_file_that_is_written_meanwhile_is_noticed(self, file: FileIdentity) -> None:
        def read() -> None:
            with unchanged((file,), "the text"), file.path.open("r+b") as opened:
                opened.write(b"PL")

        assert "changed since" in refusal(read)

    def test_nothing_is_read_of_a_file_that_changed_before(self, file: FileIdentity) -> None:
        file.path.write_bytes(b"PLANNED")
        begun: list[bool] = []

        def read() -> None:
            with unchanged((file,), "the text"):
                begun.append(True)

        refusal(read)
        assert begun == []

    def test_what_fails_as_the_file_changed_is_told_as_that(self, file: FileIdentity) -> None:
        def read() -> None:
            with unchanged((file,), "the text"):
                file.path.write_bytes(b"half")
                raise ValueError("cannot be parsed")

        assert "changed since" in refusal(read)

    def test_what_fails_for_another_reason_is_passed_on(self, file: FileIdentity) -> None:
        def read() -> None:
            with unchanged((file,), "the text"):
                raise ValueError("cannot be parsed")

        with pytest.raises(ValueError, match="cannot be parsed"):
            read()


def test_a_file_is_hashed_once_while_it_stays_as_it_is(
    file: FileIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashes, "SETTLED_SECONDS", -1.0)
    hashed: list[str] = []
    digest = verified.hashlib.file_digest

    def count(opened: object, name: str) -> object:
        hashed.append(name)
        return digest(opened, name)

    monkeypatch.setattr(verified.hashlib, "file_digest", count)
    for _ in range(3):
        check(file)
    assert len(hashed) == 1
    os.utime(file.path, (2, 2))
    check(file)
    assert len(hashed) == 2

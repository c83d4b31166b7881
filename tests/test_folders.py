"""A folder is there as a whole, or as it was."""

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from studyctl.files import (
    SPARE_CACHE,
    atomic_folder,
    cache_entry,
    cache_trouble,
    file_lock,
    remove_leftovers,
    write_cache,
)

KILLED = """
import os, signal, sys
from pathlib import Path
from studyctl.files import atomic_folder
with atomic_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("of it")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_it_takes_its_name_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er"
    with atomic_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert names(target.parent) == ["er"]
    assert (target / "a").read_text() == "1"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with atomic_folder(tmp_path / "x") as folder:
        (folder / "a").write_text("1")
    assert names(tmp_path / "x") == ["a"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "x") as folder:
        (folder / "half" / "of it").write_text("1")
    assert names(tmp_path) == []


def test_what_is_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("1")
    with pytest.raises(FileExistsError, match="not empty"), atomic_folder(tmp_path / "x"):
        pass
    assert names(tmp_path / "x") == ["mine"]


def test_a_replaced_folder_is_whole_before_and_after(tmp_path: Path) -> None:
    target = tmp_path / "x"
    for content in ("old", "new"):
        with atomic_folder(target, replace=True) as folder:
            (folder / content).write_text(content)
            assert content == "old" or names(target) == ["old"]
    assert names(target) == ["new"]
    assert names(tmp_path) == ["x"]
    with pytest.raises(FileNotFoundError), atomic_folder(target, replace=True) as folder:
        (folder / "half" / "of it").write_text("1")
    assert names(target) == ["new"]


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "x")], check=False, timeout=60)
    (left,) = names(tmp_path)
    assert left.startswith(".x.")
    (tmp_path / ".x.notes").mkdir()  # of somebody else
    remove_leftovers(tmp_path / "x")
    assert names(tmp_path) == [".x.notes"]


FULL = """
import resource, sys
from pathlib import Path
import numpy
from safetensors.numpy import save_file
from studyctl.files import atomic_path
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with atomic_path(Path(sys.argv[1])) as path:
        save_file({"a": numpy.zeros(1000)}, path)
except OSError as error:
    print(error.strerror)
"""


def test_weights_that_do_not_fit_are_an_error_of_the_disk(tmp_path: Path) -> None:
    """safetensors raises an error of its own, which looks like one of the weights."""
    said = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "w")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert said.stdout == "File too large\n"
    assert names(tmp_path) == []


def test_what_another_machine_writes_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f"from studyctl import files; files.machine = lambda: 'elsewhere'\n{KILLED}"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "x")], check=False, timeout=60)
    before = names(tmp_path)
    assert len(before) == 1
    remove_leftovers(tmp_path / "x")
    assert names(tmp_path) == before


def test_a_folder_that_was_moved_aside_comes_back(tmp_path: Path) -> None:
    """Killed between the two renames of a replacement."""
    script = KILLED.replace("Path(sys.argv[1])", "Path(sys.argv[1]), replace=True").replace(
        "    os.kill",
        "    Path(sys.argv[1]).rename(str(folder).replace('new.partial', 'old.partial'))\n    os.kill",
    )
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("1")
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "x")], check=False, timeout=60)
    assert "x" not in names(tmp_path)
    remove_leftovers(tmp_path / "x")
    assert names(tmp_path) == ["x"]
    assert names(tmp_path / "x") == ["mine"]


def test_a_disk_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with file_lock(tmp_path / "lock") as locked:
        assert locked

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with file_lock(tmp_path / "lock") as locked:
        assert not locked


class TestCache:
    @pytest.fixture(autouse=True)
    def _cannot_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "old").write_text("1")
        monkeypatch.setenv("STUDYCTL_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("studyctl.files.tempfile.TemporaryFile", full)

    def test_why_it_cannot_be_written(self) -> None:
        assert cache_trouble() == "No space left on device"

    def test_what_is_there_is_read_and_what_is_new_goes_elsewhere(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(SPARE_CACHE, str(tmp_path / "spare"))
        assert cache_entry("old") == tmp_path / "cache" / "old"
        assert cache_entry("new", "one") == tmp_path / "spare" / "new" / "one"

    def test_writing_into_it_is_no_error(self, tmp_path: Path) -> None:
        write_cache(tmp_path / "cache" / "old" / "a folder cannot be here", "1")


def full(**_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "x") as folder:
        remove_leftovers(tmp_path / "x")
        assert folder.is_dir()
